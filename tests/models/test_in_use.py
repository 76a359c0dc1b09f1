"""A lifted model in other hands: layers replaced, hooks on layers, replicas, tracing; its cost beside the dense one."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from sparsam.errors import Refused
from sparsam.models import lift, stack_of, unlift
from sparsam.models.count import count
from sparsam.models.lift import PackedEncoder, PackedLayers, layers_of, resize
from sparsam.plan import LayerPlan, Plan


@pytest.mark.parametrize("name", ["bert", "mpnet", "vit"])
@torch.no_grad()
def test_a_replaced_layer_is_the_one_that_runs(tiny: Any, name: str) -> None:
    """After a layer is put in another's place, the outputs are the stock model's with that layer."""
    model, batch = tiny.build(name), tiny.inputs(name)
    other = copy.deepcopy(layers_of(tiny.build(name, seed=1))[0])
    stock = copy.deepcopy(model)
    layers_of(stock)[1] = copy.deepcopy(other)
    lift(model)(**batch)
    layers_of(model)[1] = other
    torch.testing.assert_close(model(**batch).logits, stock(**batch).logits, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_copy_runs_its_own_layers(tiny: Any) -> None:
    """A deep copy's outputs do not follow the original's weights."""
    model = lift(tiny.build("bert"))
    batch = tiny.inputs("bert")
    other = copy.deepcopy(model)
    before = other(**batch).logits
    for parameter in layers_of(model).parameters():
        parameter.zero_()
    assert torch.equal(other(**batch).logits, before)


def test_dropped_layers_are_refused(tiny: Any) -> None:
    """Fewer layers than the model was lifted with would be another model than its plan says."""
    model = lift(tiny.build("bert"))
    model.bert.encoder.layer = nn.ModuleList(list(model.bert.encoder.layer)[:1])
    with pytest.raises(Refused, match=r"has 1 layers now; it was lifted with 3.*unlift\(model\) before"):
        model(**tiny.inputs("bert"))
    unlift(model)
    model(**tiny.inputs("bert"))


def test_hooks_that_would_be_passed_over_are_refused(tiny: Any) -> None:
    """A hook before a layer never runs, and one that gives another output cannot: both are named."""
    model, batch = lift(tiny.build("bert")), tiny.inputs("bert")
    before = layers_of(model)[0].register_forward_pre_hook(lambda module, given: None)
    with pytest.raises(Refused, match="a BertLayer has a hook before its forward pass"):
        model(**batch)
    before.remove()
    after = layers_of(model)[2].register_forward_hook(lambda module, given, out: out * 0)
    with pytest.raises(Refused, match="a forward hook on a BertLayer gave another output"):
        model(**batch)
    after.remove()
    model(**batch)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_tracing_is_refused(tiny: Any) -> None:
    """A trace would keep the example's lengths for ever."""
    model = lift(tiny.build("bert"))
    batch = tiny.inputs("bert")
    with pytest.raises(Refused, match=r"cannot be traced.*unlift\(model\)"):
        torch.jit.trace(model, (batch["input_ids"], batch["attention_mask"]), strict=False)


@pytest.mark.parametrize("name", ["bert", "mpnet", "vit"])
@torch.no_grad()
def test_a_replica_runs_its_own_layers(tiny: Any, name: str) -> None:
    """What DataParallel puts on another device works with that device's parameters, MPNet's table included."""
    model = lift(tiny.build(name))
    holder = next(m for m in model.modules() if isinstance(m, PackedEncoder | PackedLayers))
    replica = holder._replicate_for_data_parallel()
    for key, child in copy.deepcopy(dict(holder.named_children())).items():
        replica._modules[key] = child  # as torch.nn.parallel.replicate does
    assert replica.stack is not holder.stack
    assert [block.layer for block in replica.stack.blocks] == list(replica.own_layers())
    assert replica.stack.blocks[0].layer is not holder.stack.blocks[0].layer
    states = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(replica.stack(states), holder.stack(states))
    for parameter in nn.ModuleList(replica.children()).parameters():
        parameter.add_(torch.linspace(0, 1, parameter.numel()).view_as(parameter))
    assert not torch.equal(replica.stack(states), holder.stack(states))
    if holder.stack.bias is not None:
        places = torch.arange(5)[None]
        assert not torch.equal(replica.stack.bias(places), holder.stack.bias(places))


@pytest.mark.parametrize("name", ["bert", "distilbert"])
def test_left_out_heads_and_filters_count_as_saved(tiny: Any, name: str) -> None:
    """Costs are relative to the dense model, not to the narrower one at hand."""
    model, plan = tiny.build(name), Plan(name, (LayerPlan(heads=(0, 2), filters=tuple(range(11))),) * 3)
    resize(model, plan)
    lift(model, plan)
    tally = count(model, stack_of(model), [tiny.text([8, 8])])
    n, d = 8, 32
    narrow = 3 * 2 * (4 * n * d * 16 + 2 * n * n * 16 + 2 * n * d * 11)
    dense = 3 * 2 * (4 * n * d * 32 + 2 * n * n * 32 + 2 * n * d * 44)
    assert (tally.cost.macs, tally.dense.macs) == (narrow, dense)
