"""I-BERT on a tiny classifier, to the saved folder and back: the same integers, training, refusals."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_checkpoints
import torch
from tiny_checkpoints import Checkpoints

import sparsam
from sparsam.compress import open_model
from sparsam.compress.ibert_run import IntegerOnlyMethod, RoundedStudent, integer_only, sequences_of
from sparsam.compress.opening import feed_of, split_of
from sparsam.errors import Refused, Usage
from sparsam.models import lift, plan_of, stack_of, unlift
from sparsam.models.apply import cut
from sparsam.models.integer_only import encoder_of, parts_of
from sparsam.plan import LayerPlan, Plan
from sparsam.quantization import Percentile
from sparsam.quantization.integer_only import IBert, integers
from sparsam.quantization.rounded_encoder import found_scales
from sparsam.runtime import Batch, freeze
from sparsam.task import Task
from sparsam.training.feed import Feed
from sparsam.training.loop import Settings

pytestmark = pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
SETTINGS = Settings(batch_tokens=128, precision="fp32")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    return tiny_checkpoints.text_checkpoints(tmp_path_factory.mktemp("texts"), rows=256)


def opened(made: Checkpoints) -> tuple[Any, Feed]:
    """A fresh dense model, and training rows."""
    task = Task.load(str(made.task))
    one = open_model(str(made.dense), task)
    return one, feed_of(one, split_of(task, "train"), True)


def batch_of(feed: Feed, rows: int = 40) -> dict[str, torch.Tensor]:
    return feed.collate(np.arange(rows))


def answers(model: Any, feed: Feed) -> torch.Tensor:
    """A frozen model's logits."""
    batch = batch_of(feed)
    living = batch["attention_mask"].bool()
    return freeze(model).logits(Batch(batch["input_ids"][living], living.sum(1)))


def test_saved_model_gives_the_same_bits(texts: Checkpoints, tmp_path: Path) -> None:
    """Save, load, load by stock transformers: the digest, every logit; products and words lie on disk as bytes."""
    one, feed = opened(texts)
    before = answers(one.model, feed)
    made = integer_only(one.model, feed)
    plan = plan_of(one.model)
    assert plan is not None and plan.integer_only is not None
    assert plan.integer_only.digest == made.digest()
    found = answers(one.model, feed)
    assert float((found.argmax(1) == before.argmax(1)).float().mean()) > 0.85
    sparsam.save(one.model, tmp_path / "out", processor=one.processor)
    loaded = sparsam.load(tmp_path / "out")
    assert loaded.plan == plan
    assert torch.equal(answers(loaded.model, feed), found)
    assert encoder_of(loaded.model).digest() == made.digest()
    sparsam.save(loaded.model, tmp_path / "again", processor=one.processor)
    assert torch.equal(answers(sparsam.load(tmp_path / "again").model, feed), found)
    from transformers import AutoModelForSequenceClassification

    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert torch.equal(answers(stock, feed), found)
    size = (tmp_path / "out" / "model.safetensors").stat().st_size
    assert (
        size < 0.75 * (Path(texts.dense) / "model.safetensors").stat().st_size
    )  # positions are half of a tiny model


def test_frozen_model_is_the_references_integers_and_the_models_head(texts: Checkpoints) -> None:
    """Logits are the head's, in floating point, on the reference's first tokens; alone or in a batch the same bits."""
    one, feed = opened(texts)
    made = integer_only(one.model, feed)
    batch = batch_of(feed, 12)
    tokens = sequences_of(batch, 0)
    states = (
        made.run(tokens.ids, tokens.positions, tokens.kinds, tokens.lengths, alone=True).double() * made.scale
    )
    model = one.model
    with torch.no_grad():
        want = model.classifier(model.bert.pooler(states.float()[:, None]))
    frozen = freeze(model)
    assert torch.equal(frozen.logits(Batch(tokens.ids, tokens.lengths)), want)
    single = [
        frozen.logits(Batch(ids, torch.tensor([len(ids)])))
        for ids in torch.split(tokens.ids, tokens.lengths.tolist())
    ]
    torch.testing.assert_close(
        torch.cat(single), want, rtol=1e-5, atol=1e-6
    )  # the head's products are floats
    assert frozen.logits(Batch.of([])).shape == (0, 3)
    assert frozen.labels == model.config.id2label


def test_model_by_itself_answers_nearly_as_its_integers(texts: Checkpoints) -> None:
    """Through transformers products are rounded to the same grids, the rest is in floats: near, and for accuracy alone."""
    one, feed = opened(texts)
    integer_only(one.model, feed)
    found, batch = answers(one.model, feed), batch_of(feed)
    with torch.no_grad():
        near = one.model(**{name: x for name, x in batch.items() if name != "labels"}).logits
    assert float((near - found).abs().mean()) < 0.1 * float(found.abs().mean())
    assert not torch.equal(near, found)


def test_without_sparsam_nothing_is_read(texts: Checkpoints, tmp_path: Path) -> None:
    """In a process that has not imported it stock transformers fails, rather than read bytes as weights."""
    one, feed = opened(texts)
    integer_only(one.model, feed)
    sparsam.save(one.model, tmp_path / "out", processor=one.processor)
    code = (
        "import sys\nfrom transformers import AutoModelForSequenceClassification as A\n"
        "try: A.from_pretrained(sys.argv[1])\nexcept Exception as error: print('failed', type(error).__name__)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "out")], capture_output=True, text=True, timeout=200,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"}, check=False,
    )  # fmt: skip
    assert ran.stdout.startswith("failed"), ran.stderr[-500:]


def test_changed_weights_and_other_plans_are_refused(texts: Checkpoints, tmp_path: Path) -> None:
    """A norm that was trained after the integers were made, and scales that are not those that were saved."""
    one, feed = opened(texts)
    integer_only(one.model, feed)
    changed = copy.deepcopy(one.model)
    with torch.no_grad():
        changed.bert.encoder.layer[0].output.LayerNorm.weight[0] += 0.5
    with pytest.raises(Refused, match="other integers than those its plan names") as caught:
        freeze(changed)
    assert caught.value.code == "digest"
    plan = plan_of(one.model)
    assert plan is not None
    text = plan.to_json()
    del text["integer_only"]["scales"]["0.q"]
    with pytest.raises(Refused, match=r"0\.q needs a scale"):
        lift(unlift(one.model), Plan.from_json(text))
    with pytest.raises(Refused, match=r"weights are integers.*once more"):
        integer_only(lift(one.model, plan), feed)


def test_plan_of_integers_alone_is_checked(texts: Checkpoints) -> None:
    """Formats of other widths, or a token rule, do not go with it; older plans are written as they were."""
    one, feed = opened(texts)
    integer_only(one.model, feed)
    plan = plan_of(one.model)
    assert plan is not None
    text = plan.to_json()
    assert Plan.from_json(json.dumps(text)) == plan
    for change in ({"embeddings": None}, {"embeddings": 4}):
        with pytest.raises(Refused, match="integer_only needs embeddings and products of 8 bits"):
            Plan.from_json({name: x for name, x in (text | change).items() if x is not None})
    broken = json.loads(json.dumps(text))
    broken["layers"][0]["formats"]["up"]["bits"] = 4
    with pytest.raises(Refused, match="integer_only needs"):
        Plan.from_json(broken)
    broken = json.loads(json.dumps(text))
    broken["integer_only"]["digest"] = "0"
    with pytest.raises(Refused, match="digest"):
        Plan.from_json(broken)
    assert "integer_only" not in Plan.dense("bert", 3).to_json()


def test_pruned_model_comes_back_from_disk(texts: Checkpoints, tmp_path: Path) -> None:
    """Heads and filters gone, a layer without any of either: the same bits after a reload."""
    one, feed = opened(texts)
    lift(one.model)
    cut(one.model, (LayerPlan(heads=(0, 2), filters=(1, 2, 30)), LayerPlan(heads=()), LayerPlan(filters=())))
    integer_only(one.model, feed, IntegerOnlyMethod(IBert("polynomial", 8, 8)))
    found = answers(one.model, feed)
    sparsam.save(one.model, tmp_path / "out", processor=one.processor)
    assert torch.equal(answers(sparsam.load(tmp_path / "out").model, feed), found)


def test_training_with_rounding_learns_what_the_integers_answer(texts: Checkpoints) -> None:
    """A model with noise on its weights comes back: its integers, those that the simulation answers with, near the teacher."""
    losses = []
    for epochs in (0.0, 4.0):
        one, feed = opened(texts)
        method = IntegerOnlyMethod(qat_epochs=epochs, qat_lr=3e-4)
        teacher, made = opened(texts)[0].model, torch.Generator().manual_seed(0)
        with torch.no_grad():
            for weight in one.model.bert.encoder.parameters():
                weight.add_(0.1 * torch.randn(weight.shape, generator=made))
        integer_only(one.model, feed, method, teacher=teacher, settings=SETTINGS)
        plan = plan_of(one.model)
        assert plan is not None and plan.integer_only is not None
        student = RoundedStudent(one.model, plan.integer_only.scales, method)
        batch = batch_of(feed, 200)
        with torch.no_grad():
            simulated = student.logits({name: x[:40] for name, x in batch.items()})
            taught = teacher(**{name: x for name, x in batch.items() if name != "labels"}).logits
            own = student.logits(batch)
        torch.testing.assert_close(simulated, answers(one.model, feed), rtol=1e-5, atol=1e-6)
        losses.append(float((own.log_softmax(1) - taught.log_softmax(1)).square().mean()))
    assert losses[1] < 0.5 * losses[0]


def test_integers_are_the_same_before_and_after_weights_are_rounded(texts: Checkpoints) -> None:
    """Rounding a model's weights in place changes none of the integers made of them."""
    one, feed = opened(texts)
    lift(one.model)
    tokens = sequences_of(batch_of(feed), 0)
    scales = found_scales(parts_of(one.model), [tokens], IBert(), Percentile())
    before = integers(parts_of(one.model), scales, IBert()).digest()
    from sparsam.models.integer_only import put_integers

    assert put_integers(one.model, scales, IBert()).digest() == before
    assert all(len(left.formats) == 4 for left in stack_of(one.model).left)


def test_settings_are_checked() -> None:
    """Ranges that do not go with packed tokens, and numbers out of bounds."""
    with pytest.raises(Usage, match="range is percentile, mse, minmax, kl or aciq; got 'ema'"):
        IntegerOnlyMethod(range="ema")
    for bad in ({"samples": 0}, {"qat_epochs": -1.0}, {"qat_lr": 0.0}, {"distill": 2.0}):
        with pytest.raises(Usage, match="samples is 1 or more"):
            IntegerOnlyMethod(**bad)
