"""The portable encoder against the lifted one, in torch: every family, every rule that goes in a graph, cut models."""

from typing import Any

import pytest
import torch

from sparsam.errors import Refused
from sparsam.models import FAMILIES, lift
from sparsam.packed import pack
from sparsam.plan import LayerPlan, Plan, TokenPlan
from sparsam.runtime.portable import RULES, kept, portable, view
from sparsam.tokens import Living, rule_of
from sparsam.tokens.ltp import ONLY_PROTECTED, token_plan

PLANS = {
    "dense": None,
    "others": token_plan((0.5, 0.9, 1.0), relative_to="others"),
    "all": token_plan((0.8, 0.9, ONLY_PROTECTED)),
    "only the class token": token_plan((ONLY_PROTECTED,) * 3),
    "linear-threshold": token_plan((0.0, 0.6, 0.9), rule="linear-threshold"),
    "top-k": TokenPlan("top-k", (0.8, 0.5, 0.3)),
}


@pytest.mark.parametrize("rule", PLANS)
@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_logits_are_those_of_the_lifted_model(tiny: Any, name: str, rule: str) -> None:
    """To 1e-5 in float32; the model that was given stays as it was."""
    model = lift(tiny.build(name), Plan(name, (LayerPlan(),) * 3, PLANS[rule]))
    batch = tiny.inputs(name, (12, 7, 1, 5))
    wanted = model(**batch).logits
    made = portable(model, tuple(batch))
    torch.testing.assert_close(made(*batch.values()), wanted, atol=1e-5, rtol=1e-5)
    assert torch.equal(model(**batch).logits, wanted)


@pytest.mark.parametrize("name", ["bert", "mpnet", "vit"])
@torch.no_grad()
def test_cut_models_too(tiny: Any, name: str) -> None:
    """Fewer heads and filters, each layer others; in one none at all; also where that is the last."""
    cut = [
        LayerPlan(heads=(0, 2), filters=tuple(range(11))),
        LayerPlan(heads=(), filters=()),
        LayerPlan(heads=(3,)),
    ]
    for layers in (cut, cut[::2] + cut[1:2]):
        plan = Plan(name, tuple(layers), PLANS["others"])
        small, _ = tiny.sever(tiny.build(name), name, plan)
        model = lift(small, plan)
        batch = tiny.inputs(name, (12, 7, 1, 5))
        torch.testing.assert_close(
            portable(model, tuple(batch))(*batch.values()), model(**batch).logits, atol=1e-5, rtol=1e-5
        )


@torch.no_grad()
def test_padding_may_stand_anywhere(tiny: Any) -> None:
    """Holes are passed over; a sequence without tokens has no answer, and its neighbours keep theirs."""
    model = lift(tiny.build("bert"), Plan("bert", (LayerPlan(),) * 3, PLANS["others"]))
    batch = tiny.text((12, 7, 3), side="holes", width=14)
    made = portable(model, tuple(batch))
    wanted = model(**batch).logits
    torch.testing.assert_close(made(*batch.values()), wanted, atol=1e-5, rtol=1e-5)
    empty = batch["attention_mask"].clone()
    empty[1] = 0
    found = made(batch["input_ids"], empty)
    assert bool(found[1].isnan().all())
    torch.testing.assert_close(found[[0, 2]], wanted[[0, 2]], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rule", [name for name in PLANS if name != "dense"])
@pytest.mark.parametrize("protected", [1, 2])
def test_what_is_kept_is_what_the_rule_keeps(rule: str, protected: int) -> None:
    """Random scores with ties, random lengths, in a middle layer: the rule's own step says the same."""
    plan = PLANS[rule]
    assert plan is not None
    own = rule_of(plan)
    for seed in range(20):
        draw = torch.Generator().manual_seed(seed)
        original = torch.randint(1, 20, (6,), generator=draw)
        lengths = (torch.rand(6, generator=draw) * original).long().clamp(min=1)
        sequences = torch.repeat_interleave(torch.arange(6), lengths)
        seen = view(lengths, sequences)
        scores = torch.randint(0, 8, sequences.shape, generator=draw) / 4
        first = seen.place < protected
        living = Living(
            torch.zeros(len(sequences), 1), scores, lengths, original, sequences, seen.place, first, 1
        )
        wanted = own.step(None, living)[1].keep | first
        count = None
        if rule == "top-k":
            count = torch.ceil(original.double() * 0.5 - 1e-9).long()
        found = kept(own, 1, seen.padded(scores), seen.padded(first) & seen.valid, seen.valid, count)
        assert torch.equal(seen.packed(found), wanted)
        assert not bool((found & ~seen.valid).any())


def test_a_view_and_back() -> None:
    """Packed rows come back from the rectangle where they were; its padding is marked."""
    mask = torch.tensor([[1, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0]]).bool()
    tokens = pack(torch.arange(24.0).view(3, 4, 2), mask)
    seen = view(tokens.lengths, tokens.sequences)
    assert seen.valid.tolist() == [[True] * 3, [False] * 3, [True, False, False]]
    assert torch.equal(seen.packed(seen.padded(tokens.values)), tokens.values)
    assert seen.place.tolist() == [0, 1, 2, 0]


def test_what_cannot_be_exported_is_refused(tiny: Any) -> None:
    """Another head, a rule without a form in a graph, a model elsewhere: by name."""
    with pytest.raises(Refused, match="a class for every token") as said:
        portable(tiny.build("bert", head="ForTokenClassification"), ("input_ids", "attention_mask"))
    assert said.value.code == "export-head"
    rule = TokenPlan("random", (0.5, 0.5, 0.5), {"seed": 1})
    with pytest.raises(Refused, match=r"the token rule 'random' cannot be put in a graph yet; ltp, ") as said:
        portable(
            lift(tiny.build("bert"), Plan("bert", (LayerPlan(),) * 3, rule)), ("input_ids", "attention_mask")
        )
    assert said.value.code == "export-rule" and set(RULES) < {"ltp", "linear-threshold", "top-k", "random"}
    with pytest.raises(Refused, match=r"the model is on meta.*model\.to\('cpu'\)") as said:
        portable(tiny.build("bert").to("meta"), ("input_ids", "attention_mask"))
    assert said.value.code == "export-device"
