"""Products in integers, simulated by the lifted encoder: what an integer runtime gives, and what is refused."""

import copy
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import sparsam
from sparsam.errors import Refused
from sparsam.models import dense_plan, head_alone, lift, plan_of, stack_of, unlift
from sparsam.models.apply import cut, set_output
from sparsam.models.encoder import Block
from sparsam.models.formats import ROLES
from sparsam.models.integers import integers_of, leave, scales_of
from sparsam.models.simulate import grid_of
from sparsam.plan import PRODUCTS, Format, LayerPlan, TokenPlan
from sparsam.quantization import integer_product, quantize, quantize_tokens
from sparsam.tokens.ltp import token_plan

FAMILIES = ("bert", "roberta", "xlm-roberta", "electra", "mpnet", "distilbert", "vit", "deit")


def exact(module: Any, x: torch.Tensor, form: Format) -> torch.Tensor:
    """A product by integers alone, from inputs that nobody rounded."""
    if form.input == "token":
        q, zero, scale = quantize_tokens(x)
    else:
        grid = grid_of(form)
        q, zero, scale = quantize(x, grid), grid.zero.repeat(len(x)), grid.scale.repeat(len(x))
    return integer_product(q, zero, scale, integers_of(module), scales_of(module), module.bias)


@pytest.mark.parametrize("inputs", ["token", "tensor"])
@pytest.mark.parametrize("name", FAMILIES)
def test_products_are_those_of_integers(tiny: Any, name: str, inputs: str) -> None:
    """Every product of every layer, on the inputs it really gets: the exact integer reference to 1e-5 of its largest output."""
    model = tiny.in_integers(tiny.build(name), name, inputs=inputs)
    stack, seen = stack_of(model), 0

    read = Block.read

    def check(block: Block, product: str, x: torch.Tensor) -> torch.Tensor:
        nonlocal seen
        rounded = read(block, product, x)
        for role in ROLES[product]:
            module = block.part(role)
            wanted = exact(module, x, block.left.formats[product])  # type: ignore[index]
            assert (module(rounded) - wanted).abs().max() <= 1e-5 * wanted.abs().max()
            seen += 1
        return rounded

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(Block, "read", check)
        model(**tiny.inputs(name))
    assert seen == 6 * len(stack.left)


@contextmanager
def by_integers(model: Any) -> Any:
    """Inside the block the products are really integers: inputs come unrounded, and are quantized in the product."""
    stack = stack_of(model)
    forms = {
        id(block.part(role)): form
        for block in stack.blocks
        for product, form in block.left.formats.items()
        for role in ROLES[product]
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Block, "read", lambda block, product, x: x)
        patch.setattr(stack, "linear", lambda module, x: exact(module, x, forms[id(module)]))
        yield


@pytest.mark.parametrize("inputs", ["token", "tensor"])
@pytest.mark.parametrize("name", ["bert", "mpnet", "vit"])
def test_the_whole_model_is_that_of_integers(tiny: Any, name: str, inputs: str) -> None:
    """Logits by exact integer products and by the stock call, with a token rule at work."""
    model = tiny.in_integers(tiny.build(name), name, inputs=inputs, tokens=TokenPlan("ltp", (0.8, 0.9, None)))
    batch = tiny.inputs(name)
    with torch.no_grad():
        found = model(**batch).logits
        with by_integers(model):
            wanted = model(**batch).logits
        dense = unlift(copy.deepcopy(model))(**batch).logits
    # a sum that differs in its last bit may round to the next of 255 levels
    assert torch.allclose(found, wanted, atol=2e-3 * float(wanted.abs().max()))
    assert not torch.allclose(found, dense, atol=2e-3 * float(wanted.abs().max()))


@pytest.mark.parametrize("name", ["bert", "vit", "deit"])
def test_the_head_alone_reads_the_same(tiny: Any, name: str) -> None:
    """The last layer's work for the class token alone rounds its queries as all tokens' are rounded."""
    model = tiny.in_integers(tiny.build(name), name)
    batch = tiny.inputs(name)
    with torch.no_grad():
        whole = model(**batch).logits
        with head_alone(model):
            alone = model(**batch).logits
    assert torch.allclose(whole, alone, atol=2e-3 * float(whole.abs().max()))


def test_one_rounding_serves_queries_keys_and_values(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of a layer's four inputs is rounded once."""
    model, asked = tiny.in_integers(tiny.build("bert"), "bert"), []
    read = Block.read
    monkeypatch.setattr(
        Block, "read", lambda block, product, x: asked.append(product) or read(block, product, x)
    )
    with torch.no_grad():
        model(**tiny.inputs("bert"))
    assert asked == list(PRODUCTS) * 3


def test_only_named_products_are_rounded(tiny: Any) -> None:
    """A layer with a format for one product leaves the others' inputs as they are."""
    model = tiny.in_integers(tiny.build("bert"), "bert")
    plan = plan_of(model)
    assert plan is not None
    some = replace(plan.layers[0], formats={"up": plan.layers[0].formats["up"]})
    block = Block(stack_of(model).blocks[0].layer, stack_of(model).family, some)
    x = torch.randn(5, 32)
    assert block.read("qkv", x) is x
    assert not torch.equal(block.read("up", x), x)


def test_gradients_pass_straight_through(tiny: Any) -> None:
    """The embeddings' positions get nearly the gradient of the model that does not round; integer weights get none."""
    model = tiny.in_integers(tiny.build("bert"), "bert")
    batch = tiny.inputs("bert") | {"labels": torch.tensor([0, 1, 2, 0])}
    model(**batch).loss.backward()
    own = model.bert.embeddings.position_embeddings.weight.grad.flatten()
    weights = [module.weight for module in model.modules() if scales_of(module) is not None]
    assert len(weights) == 6 * 3 + 1
    assert all(weight.grad is None and not weight.requires_grad for weight in weights)
    plain = unlift(copy.deepcopy(model))
    plain.zero_grad()
    plain(**batch).loss.backward()
    wanted = plain.bert.embeddings.position_embeddings.weight.grad.flatten()
    assert torch.nn.functional.cosine_similarity(own, wanted, dim=0) > 0.98


# ---- What is refused -------------------------------------------------------------------------------------------------


def refused(code: str, match: str, call: Any) -> None:
    with pytest.raises(Refused, match=match) as caught:
        call()
    assert caught.value.code == code


def test_formats_without_scales_are_refused(tiny: Any) -> None:
    """A plan with integers over a model in floating point."""
    model = tiny.in_integers(tiny.build("bert"), "bert")
    plan = plan_of(model)
    refused("plan-mismatch", "without weight_scale", lambda: lift(tiny.build("bert"), plan))
    leave(model.bert.embeddings.word_embeddings)
    refused("plan-mismatch", "word_embeddings", lambda: lift(model))


def test_scales_without_formats_are_refused(tiny: Any) -> None:
    """Integers that no plan speaks of, as after unlift."""
    model = unlift(tiny.in_integers(tiny.build("bert"), "bert"))
    refused("plan-mismatch", "are integers; the plan has no format", lambda: lift(model))


def test_integers_are_not_cut_nor_solved_anew_nor_planned_otherwise(tiny: Any) -> None:
    """Whatever would change integer weights starts from floats; a token rule may change."""
    model = tiny.in_integers(tiny.build("bert"), "bert")
    plan = plan_of(model)
    assert plan is not None
    other = replace(plan, layers=(LayerPlan((0, 1), None, plan.layers[0].formats), *plan.layers[1:]))
    for change in (
        lambda: cut(model, (LayerPlan((0, 1), None),) * 3),
        lambda: set_output(model, 0, "ffn", torch.zeros(44, 32), None),
        lambda: sparsam.lift(model, other),
        lambda: sparsam.lift(model, dense_plan(model)),
    ):
        refused("quantized", "integers come last", change)
    assert plan_of(model) == plan
    tokens = replace(plan, tokens=token_plan((0.5, 0.7, 0.9)))
    assert plan_of(sparsam.lift(model, tokens)) == tokens


def test_a_cut_keeps_what_else_a_plan_says(tiny: Any) -> None:
    """Tokens, version and embeddings of a plan go through a cut; only layers change."""
    model = lift(tiny.build("bert"))
    before = lift(model, replace(plan_of(model), tokens=token_plan((0.5, 0.7, 0.9)))).sparsam_plan
    after = cut(model, (LayerPlan((0, 1), None),) * 3)
    assert replace(after, layers=before.layers) == before


@pytest.mark.parametrize("cast", [torch.bfloat16, torch.float16, torch.float64])
def test_a_cast_is_refused(tiny: Any, cast: torch.dtype, tmp_path: Any) -> None:
    """Scales in another precision span another grid: neither run nor saved."""
    model = tiny.in_integers(tiny.build("bert"), "bert").to(cast)
    refused("quantized", "were cast to", lambda: model(**tiny.inputs("bert")))
    refused("quantized", "whole float32 tensors", lambda: model.save_pretrained(tmp_path))
    refused("quantized", "whole float32 tensors", lambda: sparsam.save(model, tmp_path / "x"))


def test_half_and_float_are_refused_by_transformers(tiny: Any) -> None:
    """Where transformers refuses for quantized models, it does so for ours with integers; not for ours without."""
    model = tiny.in_integers(tiny.build("bert"), "bert")
    for call in (model.half, model.float):
        with pytest.raises(ValueError, match="not supported for quantized model"):
            call()
    tokens = sparsam.lift(
        tiny.build("bert"), replace(dense_plan(tiny.build("bert")), tokens=token_plan((0.1,) * 3))
    )
    assert tokens.half().dtype == torch.float16


@pytest.mark.parametrize("name", ["vit", "deit"])
def test_images_have_no_words(tiny: Any, name: str) -> None:
    """A plan with embeddings in bits is not for a model that reads pictures."""
    model = tiny.build(name)
    plan = replace(dense_plan(model), embeddings=8)
    refused("plan-mismatch", "reads no words", lambda: lift(model, plan))


def test_words_that_are_given_too_stay_floats(tiny: Any) -> None:
    """A language model's table is its output's, too."""
    model = tiny.build("bert", "ForMaskedLM")
    plan = replace(dense_plan(model), embeddings=8)
    refused("plan-mismatch", "also gives words", lambda: lift(model, plan))


def test_embeddings_in_integers_are_frozen(tiny: Any) -> None:
    """The words' table alone in integers changes nothing of how a model is frozen."""
    from sparsam.models.integers import put
    from sparsam.quantization import quantize_weight

    model = lift(tiny.build("bert"))
    words: nn.Embedding = model.get_input_embeddings()
    integers, grid = quantize_weight(words.weight)
    put(words, integers, grid.scale)
    lift(model, replace(dense_plan(model), embeddings=8))
    ids = torch.tensor([2, 5, 9, 3])
    from sparsam.runtime.freeze import Batch

    found = sparsam.freeze(model, dtype="float32").logits(
        Batch(ids, torch.tensor([4]), torch.zeros(4).long())
    )
    assert torch.allclose(found, model(input_ids=ids[None]).logits, atol=1e-4)
