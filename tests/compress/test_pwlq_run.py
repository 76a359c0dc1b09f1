"""PWLQ on tiny models: put in, saved, loaded by the stock route, frozen; the free form; what is refused."""

from pathlib import Path
from typing import Any

import pytest
import tiny_checkpoints
import torch
from tiny_checkpoints import Checkpoints
from torch import Tensor

import sparsam
from sparsam.compress import open_model
from sparsam.compress.calibration import Seen, applied_by, watched
from sparsam.compress.opening import Opened, feed_of, split_of
from sparsam.compress.pwlq_run import apply_pwlq, rounded_inputs
from sparsam.errors import Refused
from sparsam.models import plan_of, stack_of
from sparsam.models.integers import integers_of, scales_of
from sparsam.plan import PRODUCTS
from sparsam.quantization import MSE
from sparsam.task import Task

TEXTS = ["1 2 3", "4 5 6 7 8", "9"]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    return tiny_checkpoints.text_checkpoints(tmp_path_factory.mktemp("pieces"), rows=64)


def looked_at(made: Checkpoints) -> tuple[Opened, dict[tuple[int, str], Seen]]:
    """A model in floating point, and what its products read of all rows."""
    task = Task.load(str(made.task))
    opened = open_model(str(made.dense), task)
    feed = feed_of(opened, split_of(task, "train"), True)
    rows = torch.arange(len(feed)).numpy()
    return opened, watched(opened.model, feed, rows, MSE())


def logits(model: Any, processor: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(**processor(TEXTS, padding=True, return_tensors="pt")).logits
    return found


def test_int8_form_is_saved_loaded_and_frozen(texts: Checkpoints, tmp_path: Path) -> None:
    """Integers in files are those of the record; the stock route, the frozen form and the model itself answer alike."""
    opened, seen = looked_at(texts)
    model, before = opened.model.eval(), logits(opened.model.eval(), opened.processor)
    found = apply_pwlq(model, seen, 4, words=8)
    assert all(set(left.formats) == set(PRODUCTS) for left in found.plan.layers)
    assert found.plan == plan_of(model) and found.plan.embeddings == 8
    held = dict(model.named_modules())
    for name, one in found.layers.items():
        assert torch.equal(integers_of(held[name]), one.integers())
        assert torch.equal(held[name].weight, one.dequantized())
    sparsam.save(model, tmp_path / "small", processor=opened.processor)
    stock = type(model).from_pretrained(tmp_path / "small").eval()
    again = dict(stock.named_modules())
    for name, one in found.layers.items():
        scales = scales_of(again[name])
        assert scales is not None and torch.equal(scales, one.scales)
        assert torch.equal(integers_of(again[name]), one.integers())
    own = logits(model, opened.processor)
    assert torch.equal(logits(stock, opened.processor), own)
    assert 0 < float((own - before).abs().max()) < 0.5 * float(before.abs().max())
    frozen = sparsam.freeze(stock, processor=opened.processor)
    assert torch.allclose(torch.from_numpy(frozen.predict(TEXTS)), own, atol=1e-4)
    rows = found.rows()
    assert [row["module"] for row in rows] == list(found.layers) and all(row["stored"] == 5 for row in rows)
    assert all(row["SQNR"] > row["uniform, equal bits"] for row in rows)
    assert found.stored_bits == sum(
        one.codes.numel() * 5 + 40 * len(one.codes) for one in found.layers.values()
    )


def test_free_form_is_simulated(texts: Checkpoints) -> None:
    """Weights are floats on the levels, the plan is as before, and inputs are rounded where the seam is asked to."""
    opened, seen = looked_at(texts)
    model = opened.model.eval()
    found = apply_pwlq(model, seen, 4, form="free", breakpoints=2)
    held = dict(model.named_modules())
    assert not found.plan.in_integers
    for name, one in found.layers.items():
        assert torch.equal(held[name].weight, one.dequantized()) and scales_of(held[name]) is None
    plain = logits(model, opened.processor)
    with applied_by(stack_of(model), rounded_inputs):
        rounded = logits(model, opened.processor)
    assert 0 < float((rounded - plain).abs().max()) < 0.1 * float(plain.abs().max())


def test_corrected_biases_give_the_mean_outputs_again(texts: Checkpoints) -> None:
    """On the calibration rows: a first layer's queries have the dense mean outputs, which they have not without correction."""
    means = {}
    for correct in (None, False, True):
        opened, seen = looked_at(texts)
        if correct is not None:
            apply_pwlq(opened.model, seen, 3, form="free", correct=correct)
        query = stack_of(opened.model).blocks[0].part("q")
        mean = seen[0, "qkv"].means["q"].mean()
        means[correct] = query.weight.detach() @ mean + query.bias.detach()
    assert float((means[True] - means[None]).abs().max()) < 1e-5
    assert float((means[False] - means[None]).abs().max()) > 1e-4


def test_a_model_in_integers_is_refused(texts: Checkpoints) -> None:
    """Weights that are integers already are not rounded again."""
    opened, seen = looked_at(texts)
    apply_pwlq(opened.model, seen, 4, breakpoint="gaussian")
    with pytest.raises(Refused) as caught:
        apply_pwlq(opened.model, seen, 4)
    assert caught.value.code == "quantized" and "pieces" in str(caught.value)
