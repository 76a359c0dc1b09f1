"""Every token rule through all laws of the contract in sparsam/tokens/rule.py."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertModel, DeiTConfig, DeiTModel

from sparsam.attention import attend
from sparsam.models import FAMILIES, lift, stack_of
from sparsam.plan import TokenPlan
from sparsam.tokens import RULES, Decision, Living, Rule, SoftThreshold, rule_of
from sparsam.tokens.ltp import Threshold

LAYERS = 4


class Accumulating:
    """A toy with state: scores summed over the layers a token has lived; below the mean so far it goes.

    It also carries each token's place along, to see whether state and tokens stay together.
    """

    soft = "mask"

    def prunes(self, layer: int) -> bool:
        return layer > 0

    def wants_scores(self, layer: int) -> bool:
        return True

    def start(self, tokens: int) -> tuple[Tensor, Tensor]:
        return torch.zeros(tokens), torch.full((tokens,), -1)

    def step(self, state: tuple[Tensor, Tensor], living: Living) -> tuple[tuple[Tensor, Tensor], Decision]:
        total, places = state
        here = living.sequences * 1000 + living.positions
        assert bool(((places == here) | (places == -1)).all()), "state and tokens came apart"
        assert living.scores is not None
        total = total + living.scores
        return (total, here), Decision((total >= living.layer * 0.8) | living.protected)


class Merging:
    """A toy that folds every second unprotected token of a sequence into the token before it."""

    soft = "mask"

    def prunes(self, layer: int) -> bool:
        return layer in (1, 2)

    def wants_scores(self, layer: int) -> bool:
        return False

    def start(self, tokens: int) -> None:
        return None

    def step(self, state: None, living: Living) -> tuple[None, Decision]:
        starts = torch.cumsum(living.lengths, 0) - living.lengths
        places = torch.arange(len(living.positions)) - starts[living.sequences]
        gone = (places % 2 == 1) & ~living.protected
        into = torch.arange(len(gone)) - gone.long()
        return None, Decision(~gone, into=into)


class Hostile:
    """A toy that breaks the first law: it keeps nothing, and shuts every gate."""

    soft = "mask"

    def __init__(self, soft: str = "mask", gates: bool = False) -> None:
        self.soft, self.gates = soft, gates

    def prunes(self, layer: int) -> bool:
        return True

    def wants_scores(self, layer: int) -> bool:
        return False

    def start(self, tokens: int) -> None:
        return None

    def step(self, state: None, living: Living) -> tuple[None, Decision]:
        if self.gates:
            return None, Decision(
                torch.ones_like(living.protected), log_gate=torch.full(living.protected.shape, -40.0)
            )
        return None, Decision(torch.zeros_like(living.protected))


VALUES = {
    "ltp": (0.7, None, 0.9, 1e6),
    "linear-threshold": (None, 0.4, 0.8, 1.1),
    "top-k": (0.8, None, 0.5, 0.2),
    "random": (0.9, 0.6, None, 0.3),
}
MEMBERS: dict[str, Callable[[], Rule]] = {
    **{name: (lambda name=name: rule_of(TokenPlan(name, VALUES[name]))) for name in RULES},
    "soft mask": lambda: SoftThreshold((0.5, 0.8, 1e6, 1.0), 0.2, "mask"),
    "soft scale": lambda: SoftThreshold((0.5, 0.8, 1.0, 1.1), 0.2, "scale"),
    "toy with state": Accumulating,
    "toy that merges": Merging,
}
REMOVING = [name for name in MEMBERS if not name.startswith("soft")]


class Spy:
    """Passes every question on and writes down what was seen and answered."""

    def __init__(self, rule: Rule) -> None:
        self.rule, self.soft = rule, rule.soft
        self.steps: list[tuple[Living, Decision]] = []

    def prunes(self, layer: int) -> bool:
        return self.rule.prunes(layer)

    def wants_scores(self, layer: int) -> bool:
        return self.rule.wants_scores(layer)

    def start(self, tokens: int) -> Any:
        return self.rule.start(tokens)

    def step(self, state: Any, living: Living) -> tuple[Any, Decision]:
        state, decision = self.rule.step(state, living)
        self.steps.append((living, decision))
        return state, decision

    def kept(self) -> list[set[tuple[int, int]]]:
        """(sequence, position) of the tokens each asked layer kept."""
        found = []
        for living, decision in self.steps:
            keep = decision.keep | living.protected
            found.append(
                set(zip(living.sequences[keep].tolist(), living.positions[keep].tolist(), strict=True))
            )
        return found


@pytest.fixture(scope="module")
def model() -> Any:
    """A lifted BERT without a pooler, so that padding may stand anywhere."""
    torch.manual_seed(0)
    made = BertModel(
        BertConfig(
            hidden_size=32,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            intermediate_size=40,
            vocab_size=50,
            max_position_embeddings=64,
        ),
        add_pooling_layer=False,
    )
    return uneven(made)


def uneven(made: Any) -> Any:
    """Lifted, with weights that make attention uneven."""
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.2 if parameter.dim() > 1 else 0.1))
    return lift(made.eval())


def states(
    lengths: tuple[int, ...], width: int, side: str = "right", dtype: torch.dtype = torch.float32
) -> Any:
    """Random embedded states (b, n, d), the same for a sequence whatever the padding; and the living mask."""
    x, mask = torch.zeros(len(lengths), width, 32), torch.zeros(len(lengths), width, dtype=torch.bool)
    for row, n in enumerate(lengths):
        at = slice(0, n) if side == "right" else slice(width - n, width)
        x[row, at] = torch.randn(n, 32, generator=torch.Generator().manual_seed(row))
        mask[row, at] = True
    return x.to(dtype), mask


@torch.no_grad()
def run(model: Any, rule: Rule, x: Tensor, mask: Tensor) -> tuple[Spy, Any, Tensor]:
    """Run the encoder under a rule: what the rule saw, what was counted, the output."""
    spy = Spy(rule)
    stack = stack_of(model)
    with stack.using(spy), stack.recording() as kept:
        out = stack(x, mask)
    return spy, kept, out


LENGTHS = (12, 7, 1, 2, 20)


def test_contract_members_are_all_rules() -> None:
    """Every registered rule is tested here, and each is a Rule."""
    assert set(RULES) <= set(MEMBERS)
    assert all(isinstance(make(), Rule) for make in MEMBERS.values())


@pytest.mark.parametrize("name", MEMBERS)
@pytest.mark.parametrize("side", ["right", "left"])
def test_law_1_and_3_protected_tokens_survive_and_nothing_is_emptied(
    model: Any, name: str, side: str
) -> None:
    """The first living token is in every keep set, and so no sequence is ever empty."""
    spy, kept, out = run(model, MEMBERS[name](), *states(LENGTHS, 20, side))
    assert spy.steps
    for living, decision in spy.steps:
        assert living.protected.sum().item() == len(LENGTHS)
        assert bool(decision.keep[living.protected].all())
        if decision.log_gate is not None:
            assert not bool(decision.log_gate[living.protected].any())
    for lengths in kept.ffn:
        assert bool((lengths >= 1).all())
    assert bool(out.isfinite().all())


@pytest.mark.parametrize("name", MEMBERS)
def test_law_1_under_any_score(name: str) -> None:
    """Protected tokens survive even where they score nothing and all others score high."""
    lengths = torch.tensor([3, 5])
    sequences = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1])
    positions = torch.tensor([0, 1, 2, 0, 1, 2, 3, 4])
    protected = positions < 2
    for high in (1.0, 1e6, float("inf")):
        rule = MEMBERS[name]()
        state = rule.start(8)
        for layer in range(LAYERS):
            if rule.prunes(layer):
                scores = torch.where(protected, 0.0, high) if rule.wants_scores(layer) else None
                state, decision = rule.step(
                    state,
                    Living(
                        torch.zeros(8, 4), scores, lengths, lengths, sequences, positions, protected, layer
                    ),
                )
                assert bool(decision.keep[protected].all())


@pytest.mark.parametrize("soft", ["mask", "scale"])
@pytest.mark.parametrize("gates", [False, True])
def test_law_1_is_enforced_by_the_executor(model: Any, soft: str, gates: bool) -> None:
    """Even a rule that keeps nothing, or gates everything away, cannot touch the protected tokens."""
    x, mask = states(LENGTHS, 20)
    _, kept, out = run(model, Hostile(soft, gates), x, mask)
    if not gates:
        assert [n.tolist() for n in kept.ffn] == [[1] * len(LENGTHS)] * LAYERS
    assert bool(out[mask].isfinite().all()) and bool((out[:, 0].abs().sum(1) > 1).all())


@pytest.mark.parametrize("name", MEMBERS)
def test_law_2_dead_tokens_stay_dead(model: Any, name: str) -> None:
    """A rule sees exactly what survived before; keep sets only shrink."""
    spy, kept, _ = run(model, MEMBERS[name](), *states(LENGTHS, 20))
    found = spy.kept()
    for before, (living, _), after in zip(found, spy.steps[1:], found[1:], strict=False):
        seen = set(zip(living.sequences.tolist(), living.positions.tolist(), strict=True))
        assert seen == before and after <= before
    if name in REMOVING:
        assert len(found[-1]) < sum(LENGTHS)
    for earlier, later in zip(kept.ffn, kept.attention[1:], strict=False):
        assert torch.equal(earlier, later)


@pytest.mark.parametrize("name", MEMBERS)
def test_law_4_scores_are_single_precision(model: Any, name: str) -> None:
    """Under bf16 weights and states scores, gates and thresholds stay float32."""
    low = copy.deepcopy(model).bfloat16()
    rule = MEMBERS[name]()
    spy, _, out = run(low, rule, *states(LENGTHS, 20, dtype=torch.bfloat16))
    assert out.dtype == torch.bfloat16
    for living, decision in spy.steps:
        assert living.x.dtype == torch.bfloat16
        assert living.scores is None or living.scores.dtype == torch.float32
        assert decision.log_gate is None or decision.log_gate.dtype == torch.float32
    if isinstance(rule, SoftThreshold):
        assert rule.threshold.dtype == torch.float32


@pytest.mark.parametrize("name", MEMBERS)
@pytest.mark.parametrize("width", [20, 33])
@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (4, 2, 0, 3, 1)])
def test_law_5_neighbours_and_padding_decide_nothing(
    model: Any, name: str, width: int, order: tuple[int, ...]
) -> None:
    """A sequence keeps the same tokens and gets the same states alone, in any company, under any padding."""
    x, mask = states(LENGTHS, width)
    x, mask = x[list(order)], mask[list(order)]
    spy, _, out = run(model, MEMBERS[name](), x, mask)
    for row in range(len(LENGTHS)):
        n = int(mask[row].sum())
        alone, _, single = run(model, MEMBERS[name](), x[row : row + 1, :n], mask[row : row + 1, :n])
        torch.testing.assert_close(out[row, :n], single[0], atol=1e-5, rtol=1e-5)
        for together, own in zip(spy.kept(), alone.kept(), strict=True):
            assert {place for sequence, place in together if sequence == row} == {place for _, place in own}


@pytest.mark.parametrize("name", REMOVING)
def test_law_5_the_side_of_the_padding_decides_nothing(model: Any, name: str) -> None:
    """A batch padded on the left keeps the tokens it keeps when padded on the right, counted from the first one."""
    right, _, _ = run(model, MEMBERS[name](), *states(LENGTHS, 24, "right"))
    left, _, _ = run(model, MEMBERS[name](), *states(LENGTHS, 24, "left"))
    moved = [{(row, at - 24 + LENGTHS[row]) for row, at in kept} for kept in left.kept()]
    assert moved == right.kept()


@pytest.mark.parametrize("name", MEMBERS)
def test_law_6_layers_not_pruned_cost_nothing(model: Any, name: str) -> None:
    """Scores are computed exactly in the layers that prune and want them; a rule is asked exactly where it prunes."""
    rule = MEMBERS[name]()
    stack = stack_of(model)
    asked: list[bool] = []

    def counting(*args: Any, **kwargs: Any) -> Any:
        asked.append(kwargs["scores"])
        return attend(*args, **kwargs)

    stack.attend = counting
    try:
        spy, _, _ = run(model, rule, *states(LENGTHS, 20))
    finally:
        stack.attend = attend
    assert asked == [rule.prunes(i) and rule.wants_scores(i) for i in range(LAYERS)]
    assert [living.layer for living, _ in spy.steps] == [i for i in range(LAYERS) if rule.prunes(i)]
    for living, _ in spy.steps:
        assert (living.scores is not None) == rule.wants_scores(living.layer)


@pytest.mark.parametrize("name", MEMBERS)
def test_what_a_rule_sees_fits_together(model: Any, name: str) -> None:
    """Lengths, sequences, positions, states and scores describe the same tokens, in order, with true originals."""
    x, mask = states(LENGTHS, 20)
    spy, _, _ = run(model, MEMBERS[name](), x, mask)
    for living, decision in spy.steps:
        t = living.x.shape[0]
        assert (
            living.lengths.sum().item()
            == t
            == len(living.sequences)
            == len(living.positions)
            == len(decision.keep)
        )
        assert torch.equal(torch.bincount(living.sequences, minlength=len(LENGTHS)), living.lengths)
        assert living.original_lengths.tolist() == list(LENGTHS)
        assert bool((living.sequences.diff() >= 0).all())
        assert bool((living.positions.diff()[living.sequences.diff() == 0] > 0).all())


@pytest.mark.parametrize("name", MEMBERS)
def test_runs_repeat_exactly(model: Any, name: str) -> None:
    """The same rule on the same input gives the same bits, also when the rule object is used again."""
    rule = MEMBERS[name]()
    outs = [run(model, rule, *states(LENGTHS, 20))[2] for _ in range(2)]
    assert torch.equal(*outs)
    assert torch.equal(outs[0], run(model, MEMBERS[name](), *states(LENGTHS, 20))[2])


@pytest.mark.parametrize("name", MEMBERS)
def test_empty_sequences_and_batches(model: Any, name: str) -> None:
    """A sequence without tokens stays without; a batch of such is no error."""
    x, mask = states((5, 3), 5)
    mask[1] = False
    _, kept, out = run(model, MEMBERS[name](), x, mask)
    assert all(n[1].item() == 0 and n[0].item() >= 1 for n in kept.ffn)
    assert not bool(out[1].any())
    assert not bool(run(model, MEMBERS[name](), x, torch.zeros_like(mask))[2].any())


@pytest.mark.parametrize("name", MEMBERS)
def test_two_protected_tokens(name: str) -> None:
    """DeiT's class and distillation tokens both survive every member."""
    torch.manual_seed(0)
    made = uneven(
        DeiTModel(
            DeiTConfig(
                hidden_size=32,
                num_hidden_layers=LAYERS,
                num_attention_heads=4,
                intermediate_size=40,
                image_size=8,
                patch_size=2,
            ),
            add_pooling_layer=False,
        )
    )
    spy, kept, _ = run(made, MEMBERS[name](), *states((18, 18), 18))
    assert FAMILIES["deit"].protected == 2
    assert all({(0, 0), (0, 1), (1, 0), (1, 1)} <= found for found in spy.kept())
    assert all(bool((n >= 2).all()) for n in kept.ffn)


def test_merged_tokens_by_hand(model: Any) -> None:
    """Merging folds states by size-weighted mean, keys weigh log(size), and what was folded away shows its own state."""
    x, mask = states((7,), 7)
    spy, kept, out = run(model, Merging(), x, mask)
    assert [n.tolist() for n in kept.ffn] == [[7], [4], [2], [2]]
    first = spy.steps[0][0].x
    second = spy.steps[1][0]
    assert second.positions.tolist() == [0, 2, 4, 6]
    assert (
        torch.equal(out[0, 1], first[1])
        and torch.equal(out[0, 3], first[3])
        and torch.equal(out[0, 5], first[5])
    )
    assert torch.equal(out[0, 2], second.x[1]) and torch.equal(out[0, 6], second.x[3])
    # the layer after the first merge, by hand: states are pair means, keys of pairs weigh log 2
    block = stack_of(model).blocks
    values = torch.stack(
        [(first[0] + first[1]) / 2, (first[2] + first[3]) / 2, (first[4] + first[5]) / 2, first[6]]
    )
    with torch.no_grad():
        values = block[1].ffn(values, linear=lambda module, x: module(x))
        q, k, v = (block[2].part(role)(values).view(4, 4, 8) for role in "qkv")
        logits = torch.einsum("ihk,jhk->hij", q, k) / 8**0.5 + torch.tensor([2.0, 2.0, 2.0, 1.0]).log()
        mixed = torch.einsum("hij,jhk->ihk", logits.softmax(-1), v).flatten(1)
        wanted = block[2].part("attention_norm")(values + block[2].part("o")(mixed))
    torch.testing.assert_close(second.x, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("relative_to", ["all", "others"])
@pytest.mark.parametrize("threshold", [0.6, 1.0, 1e6])
def test_host_arrays_are_decided_on_alike(relative_to: str, threshold: float) -> None:
    """A rule that serves from host arrays keeps what its step keeps."""
    rule = Threshold((threshold,), relative_to=relative_to)
    lengths = torch.tensor([1, 2, 30, 7])
    sequences = torch.repeat_interleave(torch.arange(4), lengths)
    starts = np.concatenate([[0], np.cumsum(lengths.numpy())])
    protected = torch.zeros(40, dtype=torch.bool)
    protected[torch.from_numpy(starts[:-1])] = True
    for seed in range(20):
        torch.manual_seed(seed)
        scores = torch.rand(40) * 2
        living = Living(
            torch.zeros(40, 1), scores, lengths, lengths, sequences, torch.arange(40), protected, 0
        )
        kept = rule.kept(0, scores.numpy() if rule.wants_scores(0) else None, starts)
        assert kept.tolist() == rule.step(None, living)[1].keep.tolist()
