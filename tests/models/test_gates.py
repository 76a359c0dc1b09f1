"""Gates on heads and filters: what multiplying probabilities would do, sample by sample, and nothing when they are open."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from sparsam.models import head_alone, lift, stack_of
from sparsam.models.apply import cut, units_of
from sparsam.models.count import count
from sparsam.models.lift import layers_of
from sparsam.plan import LayerPlan, Plan, TokenPlan
from sparsam.structure.mask import HALVES, Gates

TEXT = ("bert", "roberta", "xlm-roberta", "distilbert", "electra", "mpnet")
ALL = (*TEXT, "vit", "deit")


def gates_of(model: Any, samples: int) -> Gates:
    heads, filters = zip(*units_of(model), strict=True)
    return Gates.ones(heads, filters, samples)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_open_gates_change_no_bit(tiny: Any, name: str, dtype: torch.dtype) -> None:
    """All ones: the same logits, bit for bit."""
    model = lift(tiny.build(name).to(dtype))
    batch = {k: x.to(dtype) if x.is_floating_point() else x for k, x in tiny.inputs(name).items()}
    plain = model(**batch).logits
    with stack_of(model).gated(gates_of(model, 4)):
        assert torch.equal(model(**batch).logits, plain)


def by_probabilities(model: Any, batch: Any, gate: torch.Tensor, layer: int) -> torch.Tensor:
    """The stock forward pass with one layer's attention probabilities multiplied by (h,) gates, written out."""
    attention = model.bert.encoder.layer[layer].attention.self
    mask = batch["attention_mask"].bool()

    def forward(hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        q, k, v = (
            part(hidden).unflatten(-1, (4, 8)).transpose(1, 2)
            for part in (attention.query, attention.key, attention.value)
        )
        p = (q @ k.mT / 8**0.5).masked_fill(~mask[:, None, None], -torch.inf).softmax(-1)
        return ((p * gate[:, None, None]) @ v).transpose(1, 2).flatten(2), None

    attention.forward = forward
    return model(**batch).logits


def test_a_head_gate_is_a_factor_on_probabilities(tiny: Any) -> None:
    """Values and gradients by the gates, to 1e-6 of the published form."""
    batch, layer = tiny.inputs("bert"), 1
    model = tiny.build("bert")
    values = torch.tensor([0.3, 1.0, 0.0, 0.8])
    theirs = values.clone().requires_grad_(True)
    wanted = by_probabilities(copy.deepcopy(model), batch, theirs, layer)
    wanted.square().sum().backward()
    lift(model)
    opened = {"attention": [torch.ones(4) for _ in range(3)], "ffn": [torch.ones(44) for _ in range(3)]}
    ours = values.clone().requires_grad_(True)
    opened["attention"][layer] = ours
    with stack_of(model).gated(Gates(opened)):
        got = model(**batch).logits
    got.square().sum().backward()
    torch.testing.assert_close(got, wanted, atol=1e-6, rtol=1e-5)
    assert ours.grad is not None and theirs.grad is not None
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=1e-5)
    assert ours.grad.abs().min() > 1e-6


@pytest.mark.parametrize("name", ["bert", "mpnet", "vit"])
def test_gradients_of_a_batch_are_those_of_its_samples(tiny: Any, name: str) -> None:
    """One backward pass of the summed loss gives what one pass a sample gives."""
    model = lift(tiny.build(name))
    batch, labels = tiny.inputs(name, (9, 4, 6)), torch.tensor([0, 2, 1])
    together = gates_of(model, 3)
    with head_alone(model), stack_of(model).gated(together):
        F.cross_entropy(model(**batch).logits, labels, reduction="sum").backward()
    for sample in range(3):
        alone = gates_of(model, 1)
        with stack_of(model).gated(alone):
            one = {k: x[sample : sample + 1] for k, x in batch.items()}
            F.cross_entropy(model(**one).logits, labels[sample : sample + 1]).backward()
        for half in HALVES:
            for whole, part in zip(together.gradients(half), alone.gradients(half), strict=True):
                torch.testing.assert_close(whole[sample], part[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ALL)
@torch.no_grad()
def test_cut_equals_closed_gates(tiny: Any, name: str) -> None:
    """Every family: a model without the units is the model with their gates at zero; one layer has no heads, one no filters."""
    keep = [LayerPlan((0, 2, 3), tuple(range(0, 44, 3))), LayerPlan((), (1, 5, 43)), LayerPlan((1,), ())]
    model = lift(tiny.build(name))
    batch = tiny.inputs(name)
    closed = {
        "attention": [torch.tensor([float(h in (one.heads or ())) for h in range(4)]) for one in keep],
        "ffn": [torch.tensor([float(f in (one.filters or ())) for f in range(44)]) for one in keep],
    }
    with stack_of(model).gated(Gates(closed)):
        wanted = model(**batch).logits
    dense = count(model, stack_of(model), [batch])
    plan = cut(model, keep)
    assert plan.layers == tuple(keep)
    assert units_of(model) == [(3, 15), (0, 3), (1, 0)]
    torch.testing.assert_close(model(**batch).logits, wanted, atol=1e-5, rtol=1e-5)
    now = count(model, stack_of(model), [batch])
    assert now.dense.macs == dense.cost.macs
    lengths = [12, 7, 1, 5] if name in TEXT else [17 if name == "vit" else 18] * 4
    tokens, pairs = sum(lengths), sum(n * n for n in lengths)
    assert now.cost.macs == sum(
        4 * 32 * 8 * h * tokens + 2 * 8 * h * pairs + 2 * 32 * f * tokens for h, f in units_of(model)
    )


@torch.no_grad()
def test_cut_twice_names_the_dense_models_units(tiny: Any) -> None:
    """The plan's indices are the dense layer's, whatever was cut before; what is not touched stays."""
    model = lift(tiny.build("bert"))
    cut(model, [LayerPlan((1, 2, 3), tuple(range(10, 40))), LayerPlan(), LayerPlan(None, (4, 6))])
    before = {name: x.clone() for name, x in model.state_dict().items()}
    plan = cut(model, [LayerPlan((0, 2), (0, 29)), LayerPlan(tuple(range(4)), None), LayerPlan()])
    assert plan.layers == (LayerPlan((1, 3), (10, 39)), LayerPlan(), LayerPlan(None, (4, 6)))
    after = model.state_dict()
    for name, x in before.items():
        if ".layer.0." not in name:
            assert torch.equal(after[name], x)
    again = lift(tiny.build("bert"))
    cut(again, plan.layers)
    for name, x in again.state_dict().items():
        assert torch.equal(after[name], x)


def test_what_is_cut_can_be_trained_on(tiny: Any) -> None:
    """Gradients reach every parameter that is left, and biases in front of which nothing stands."""
    model = lift(tiny.build("bert")).train()
    cut(model, [LayerPlan((), (1,)), LayerPlan((0,), ()), LayerPlan()])
    model(**tiny.inputs("bert"), labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    layers = list(layers_of(model).children())
    assert layers[0].attention.output.dense.bias.grad.abs().sum() > 0
    assert layers[1].output.dense.bias.grad.abs().sum() > 0
    assert layers[1].attention.output.dense.weight.grad.abs().sum() > 0


def test_an_index_too_far_is_refused(tiny: Any) -> None:
    """Heads, filters and layers that the model does not have."""
    from sparsam.errors import Refused

    model = lift(tiny.build("bert"))
    with pytest.raises(Refused, match="head 4 is to be kept in layer 1, which has 4 heads"):
        cut(model, [LayerPlan(), LayerPlan((0, 4)), LayerPlan()])
    with pytest.raises(Refused, match="filter 44 is to be kept in layer 0, which has 44 filters"):
        cut(model, [LayerPlan(None, (44,)), LayerPlan(), LayerPlan()])
    with pytest.raises(Refused, match="given for 2 layers; the model has 3"):
        cut(model, [LayerPlan()] * 2)


@pytest.mark.parametrize("name", ["bert", "vit"])
@torch.no_grad()
def test_a_rule_goes_on_over_the_heads_that_stay(tiny: Any, name: str) -> None:
    """A model that removes tokens keeps its rule when it is cut."""
    model = lift(tiny.build(name), Plan(name, (LayerPlan(),) * 3, TokenPlan("top-k", (0.5, None, 0.5))))
    plan = cut(model, [LayerPlan((0, 1)), LayerPlan(), LayerPlan(None, (0, 1))])
    assert plan.tokens is not None and stack_of(model).rule is not None
    assert count(model, stack_of(model), [tiny.inputs(name)]).ratio < 0.7
