"""A frozen model against the lifted one: every family, with and without removed tokens, heads and filters."""

import copy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_checkpoints
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import sparsam
from sparsam.errors import Refused, Usage
from sparsam.models import FAMILIES, lift
from sparsam.plan import LayerPlan, Plan
from sparsam.runtime import Batch, freeze
from sparsam.tokens.ltp import ONLY_PROTECTED, token_plan

RULES = {
    "dense": None,
    "ltp": (0.5, 0.9, 1.0),
    "last layer for the class token": (0.8, 0.9, ONLY_PROTECTED),
    "only the class token": (ONLY_PROTECTED,) * 3,
}


def planned(name: str, rule: str, cut: LayerPlan | None = None) -> Plan:
    """Three layers with a rule."""
    thresholds = RULES[rule]
    tokens = None if thresholds is None else token_plan(thresholds, relative_to="others")
    return Plan(name, (cut or LayerPlan(),) * 3, tokens=tokens)


def of(frozen: Any, name: str, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Logits of a padded batch's living tokens."""
    if "pixel_values" in batch:
        return frozen.of_images(batch["pixel_values"])
    mask = batch["attention_mask"].bool()
    return frozen.logits(Batch(batch["input_ids"][mask], mask.sum(1)))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_logits_are_those_of_the_lifted_model(tiny: Any, name: str, rule: str) -> None:
    """To 1e-5 in float32; the model that was given stays as it was."""
    model = lift(tiny.build(name), planned(name, rule))
    batch = tiny.inputs(name, (12, 7, 1, 5))
    wanted = model(**batch).logits
    frozen = freeze(model, dtype="float32")
    torch.testing.assert_close(of(frozen, name, batch), wanted, atol=1e-5, rtol=1e-5)
    assert torch.equal(model(**batch).logits, wanted)
    assert model.training is False and all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["bert", "vit"])
@torch.no_grad()
def test_without_the_kernel_the_same(
    tiny: Any, name: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing can be compiled, torch's operators serve."""
    model = lift(tiny.build(name), planned(name, "ltp"))
    batch = tiny.inputs(name, (12, 7, 1, 5))
    frozen = freeze(model, dtype=dtype)
    native = of(frozen, name, batch)
    monkeypatch.setattr("sparsam.attention.native.kernel", lambda: None)
    bound = 1e-5 if dtype == "float32" else 0.05
    torch.testing.assert_close(of(frozen, name, batch), native, atol=bound, rtol=0)


@pytest.mark.parametrize("name", ["bert", "mpnet", "vit"])
@torch.no_grad()
def test_cut_models_too(tiny: Any, name: str) -> None:
    """Fewer heads and filters, in one layer none at all."""
    cut = [
        LayerPlan(heads=(0, 2), filters=tuple(range(11))),
        LayerPlan(heads=(), filters=()),
        LayerPlan(heads=(3,)),
    ]
    plan = Plan(name, tuple(cut), tokens=planned(name, "ltp").tokens)
    small, _ = tiny.sever(tiny.build(name), name, plan)
    model = lift(small, plan)
    batch = tiny.inputs(name, (12, 7, 1, 5))
    torch.testing.assert_close(
        of(freeze(model, dtype="float32"), name, batch), model(**batch).logits, atol=1e-5, rtol=1e-5
    )


@torch.no_grad()
def test_a_stock_model_is_frozen_as_it_is(tiny: Any) -> None:
    """It need not be lifted before, and is not afterwards."""
    model = tiny.build("bert").train()
    kind = type(model.bert.encoder)
    batch = tiny.inputs("bert")
    frozen = freeze(model, dtype="float32")
    assert type(model.bert.encoder) is kind and model.training
    torch.testing.assert_close(of(frozen, "bert", batch), model.eval()(**batch).logits, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_sequences_do_not_see_each_other(tiny: Any) -> None:
    """One by one or all together: the same logits."""
    frozen = freeze(lift(tiny.build("roberta"), planned("roberta", "ltp")), dtype="float32")
    rows = [list(range(2, 2 + n)) for n in (5, 9, 1, 30, 2)]
    together = frozen.logits(Batch.of(rows))
    alone = torch.cat([frozen.logits(Batch.of([row])) for row in rows])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_token_types_reach_the_embeddings(tiny: Any) -> None:
    """Two segments are not one."""
    model = lift(tiny.build("bert"))
    ids, kinds = [[3, 4, 5, 6]], [[0, 0, 1, 1]]
    frozen = freeze(model, dtype="float32")
    wanted = model(input_ids=torch.tensor(ids), token_type_ids=torch.tensor(kinds)).logits
    torch.testing.assert_close(frozen.logits(Batch.of(ids, kinds)), wanted, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(frozen.logits(Batch.of(ids)), wanted)


def test_a_rule_that_can_remove_nothing_is_dropped(tiny: Any) -> None:
    """So is one of the last layer, which works for the class token alone; one that can is kept."""
    for rule, kept in (("dense", False), ("ltp", True)):
        assert (
            freeze(lift(tiny.build("bert"), planned("bert", rule))).encoder.stack.rule is not None
        ) is kept
    last = Plan("bert", (LayerPlan(),) * 3, tokens=token_plan((0.0, 0.0, ONLY_PROTECTED)))
    assert freeze(lift(tiny.build("bert"), last)).encoder.stack.rule is None


def test_bfloat16_answers_alike(tiny: Any) -> None:
    """Logits within the type's rounding of float32's."""
    model, batch = tiny.build("bert"), tiny.inputs("bert")
    exact, rounded = (of(freeze(model, dtype=dtype), "bert", batch) for dtype in ("float32", "bfloat16"))
    assert rounded.dtype == torch.float32
    assert float((exact - rounded).abs().max()) < 0.05 * float(exact.abs().max())


def words() -> PreTrainedTokenizerFast:
    """One token a word, [CLS] and [SEP] around."""
    table = {
        word: index for index, word in enumerate(["[UNK]", "[PAD]", "[CLS]", "[SEP]", *map(str, range(40))])
    }
    made = Tokenizer(models.WordLevel(table, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    )


@pytest.mark.parametrize("name", ["bert", "roberta"])
@torch.no_grad()
def test_texts_in_arrival_order(tiny: Any, name: str) -> None:
    """Predictions come in the order of the texts, whatever the batch; pairs go as pairs; long texts are cut."""
    model = lift(tiny.build(name, max_position_embeddings=34))
    tokenizer = words()
    frozen = freeze(model, processor=tokenizer, dtype="float32")
    texts = ["1 2 3", "4", "5 6 7 8 9 10 11", " ".join(["12"] * 60), ""]
    longest = 34 - frozen.first_position
    padded = tokenizer(texts, padding=True, truncation=True, max_length=longest, return_tensors="pt")
    wanted = model(input_ids=padded["input_ids"], attention_mask=padded["attention_mask"]).logits.numpy()
    for batch in (1, 2, 32):
        np.testing.assert_allclose(frozen.predict(texts, batch=batch), wanted, atol=1e-5, rtol=1e-5)
    if name == "bert":
        pair = tokenizer("1 2", "3", return_tensors="pt")
        np.testing.assert_allclose(
            frozen.predict([("1 2", "3")]), model(**pair).logits.numpy(), atol=1e-5, rtol=1e-5
        )
    assert frozen.predict([]).shape == (0, 3)


def test_what_cannot_be_frozen_is_refused(tiny: Any) -> None:
    """A head that reads every token, a type that is none, texts without a tokenizer, a sequence without tokens."""
    for head, why in (
        ("ForTokenClassification", "a class for every token"),
        ("ForMultipleChoice", "chooses between several texts"),
        ("Model", "no classification head"),
    ):
        with pytest.raises(Refused, match=f"{why}.*Only classifiers of whole texts and images"):
            freeze(tiny.build("bert", head=head))
    with pytest.raises(
        Refused, match=r"the model is on meta; a frozen model runs on the CPU.*model\.to\('cpu'\)"
    ):
        freeze(tiny.build("bert").to("meta"))
    model = tiny.build("bert")
    with pytest.raises(Usage, match="dtype is one of float32, bfloat16; got 'float16'"):
        freeze(model, dtype="float16")
    frozen = freeze(model)
    with pytest.raises(Usage, match=r"frozen without its tokenizer.*processor=tokenizer"):
        frozen.predict(["1"])
    with pytest.raises(Usage, match=r"expected a list of texts; got one text, '1 2'\. Write \[text\]"):
        freeze(model, processor=words()).predict("1 2")
    for wrong in (1, None, ["1"], ("1", "2", "3"), np.zeros(2)):
        with pytest.raises(
            Usage, match=f"expected texts, or pairs of texts; got .*, a {type(wrong).__name__}"
        ):
            freeze(model, processor=words()).predict(["1", wrong])
    with pytest.raises(Usage, match="batch must be at least 1; got 0"):
        freeze(model, processor=words()).predict(["1"], batch=0)
    with pytest.raises(Usage, match="reads images; got texts, first '1'"):
        freeze(tiny.build("vit"), processor=words()).predict(["1"])
    with pytest.raises(Usage, match=r"frozen without its image processor.*processor=image_processor"):
        freeze(tiny.build("vit")).predict([np.zeros((4, 4, 3))])
    with pytest.raises(Usage, match="a sequence has no tokens"):
        frozen.logits(Batch.of([[1], []]))


def test_the_original_may_change_afterwards(tiny: Any) -> None:
    """A frozen model keeps its weights."""
    model, batch = tiny.build("bert"), tiny.inputs("bert")
    frozen = freeze(copy.deepcopy(model))
    other = freeze(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(of(frozen, "bert", batch), of(other, "bert", batch))


@pytest.mark.parametrize("kind", ["text", "image"])
def test_a_loaded_folder_predicts(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """``sparsam.load(folder).predict(inputs)``: what the stock pipeline's model would say of them, one by one."""
    monkeypatch.setattr(
        sys.modules["sparsam.runtime.freeze"], "native_bf16", lambda: False
    )  # no token on the edge of its threshold
    made = getattr(tiny_checkpoints, f"{kind}_checkpoints")(tmp_path)
    loaded = sparsam.load(made.half)
    assert loaded.plan is not None and loaded.plan.tokens is not None
    split = sparsam.Task.load(str(made.task)).validation
    assert split is not None
    rows = split.take(np.arange(7))
    inputs = rows.texts if kind == "text" else rows.images
    assert inputs is not None
    got = loaded.predict(inputs, batch=3)
    shown = inputs if kind == "text" else [Image.fromarray(one).convert("RGB") for one in inputs]
    with torch.no_grad():
        wanted = [
            loaded.model(**loaded.processor(one, return_tensors="pt")).logits[0].numpy() for one in shown
        ]
    assert got.dtype == np.float32 and got.shape == (7, len(wanted[0]))
    np.testing.assert_allclose(got, np.stack(wanted), atol=1e-4)
    assert loaded.frozen is loaded.frozen
    assert loaded.predict([]).shape == (0, got.shape[1])
