"""Learned Token Pruning against its card: thresholds, both soft stages, gradients, penalty, starts and controls."""

import copy
from dataclasses import fields
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from sparsam.errors import Refused, Usage
from sparsam.models import lift, stack_of
from sparsam.plan import TokenPlan
from sparsam.tokens import LTP, RandomTokens, SoftThreshold, Threshold, TopK, rule_of
from sparsam.tokens.control import Control
from sparsam.tokens.ltp import ONLY_PROTECTED, from_published, linear_thresholds, relative, token_plan
from sparsam.tokens.rule import Living

START = (0.55, 0.8, 1.0, 1.05)


@pytest.fixture(scope="module")
def model() -> Any:
    """A lifted BERT of width 64, 4 heads, 4 layers with uneven attention."""
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=96,
        vocab_size=50,
        max_position_embeddings=160,
        num_labels=2,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    made = BertForSequenceClassification(config)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.12 if parameter.dim() > 1 else 0.1))
    return lift(made.eval())


def batch(lengths: tuple[int, ...] = (14, 9, 1, 6), width: int | None = None) -> dict[str, Tensor]:
    """Token ids padded on the right; the same ids whatever the padding."""
    ids = torch.randint(2, 50, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(1))
    mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    more = (width or max(lengths)) - max(lengths)
    return {"input_ids": F.pad(ids * mask, (0, more)), "attention_mask": F.pad(mask.long(), (0, more))}


def definition(
    model: Any, inputs: dict[str, Tensor], thresholds: Tensor, temperature: float, soft: str
) -> Any:
    """The soft stage from the paper's formulas, padded and in float64: (logits, penalty, gates, scores).

    ``scale``: the layer's output is multiplied with its gate. ``mask``: the product of gates so far weighs the keys
    (its log is added to their logits) and the rows of the score in the next layer.
    """
    whole = copy.deepcopy(model).double()
    x = whole.bert.embeddings(inputs["input_ids"])
    living = inputs["attention_mask"].bool()
    first = torch.zeros_like(living)
    first[:, 0] = True
    left = torch.ones(living.shape, dtype=torch.float64)
    gates, all_scores, means = [], [], []
    for index, layer in enumerate(nn.ModuleList(stack_layers(whole))):
        self, d = layer.attention.self, x.shape[-1]
        q, k, v = (
            part(x).unflatten(-1, (4, d // 4)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        logits = q @ k.transpose(-1, -2) / (d // 4) ** 0.5
        rows = living.double()
        if soft == "mask":
            logits, rows = logits + left.log()[:, None, None], rows * left
        p = logits.masked_fill(~living[:, None, None], -torch.inf).softmax(-1)
        scores = (p * rows[:, None, :, None]).sum(2).mean(1)
        half = layer.attention.output.LayerNorm(
            x + layer.attention.output.dense((p @ v).transpose(1, 2).flatten(2))
        )
        gate = torch.sigmoid((scores - thresholds[index]) / temperature).masked_fill(first, 1.0)
        x = layer.output.LayerNorm(half + layer.output.dense(layer.intermediate(half)))
        left = left * gate if soft == "mask" else gate
        if soft == "scale":
            x = x * gate[..., None]
        gates.append(left)
        all_scores.append(scores)
        means.append(left[living].mean())
    return whole.classifier(whole.bert.pooler(x)), torch.stack(means).mean(), gates, all_scores


def stack_layers(model: Any) -> list[Any]:
    """The layers of a lifted model."""
    return [block.layer for block in stack_of(model).blocks]


def loss_of(model: Any, rule: SoftThreshold, weight: float) -> Tensor:
    """Cross-entropy and weighted penalty of the packed model under a soft rule."""
    with stack_of(model).using(rule):
        logits = model(**batch()).logits
    return F.cross_entropy(logits.double(), torch.tensor([0, 1, 1, 0])) + weight * rule.penalty().double()


@pytest.mark.parametrize("soft", ["mask", "scale"])
@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_soft_stage_equals_its_definition(model: Any, soft: str, temperature: float) -> None:
    """Logits, gates and penalty of the packed soft stage equal the formulas in float64; padding counts nowhere."""
    rule = SoftThreshold(START, temperature, soft)
    inputs = batch()
    with torch.no_grad():
        with stack_of(model).using(rule):
            logits = model(**inputs).logits
        wanted, penalty, gates, _ = definition(model, inputs, torch.tensor(START).double(), temperature, soft)
        torch.testing.assert_close(logits.double(), wanted, atol=2e-5, rtol=1e-4)
        assert rule.penalty().item() == pytest.approx(penalty.item(), abs=1e-5)
        living = inputs["attention_mask"].bool()
        for found, expected in zip(rule.gates, gates, strict=True):
            torch.testing.assert_close(found.double(), expected[living], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("soft", ["mask", "scale"])
def test_threshold_gradients_equal_finite_differences(model: Any, soft: str) -> None:
    """Check 8: d(loss)/d(threshold) of the packed run equals central differences of the definition in float64."""
    temperature, weight, step = 0.3, 0.1, 1e-5
    rule = SoftThreshold(START, temperature, soft)
    loss_of(model, rule, weight).backward()
    assert rule.threshold.grad is not None

    @torch.no_grad()
    def loss(thresholds: Tensor) -> float:
        logits, penalty, _, _ = definition(model, batch(), thresholds, temperature, soft)
        return float(F.cross_entropy(logits, torch.tensor([0, 1, 1, 0])) + weight * penalty)

    base = torch.tensor(START, dtype=torch.float32).double()
    for layer, found in enumerate(rule.threshold.grad.tolist()):
        change = torch.zeros(4, dtype=torch.float64)
        change[layer] = step
        slope = (loss(base + change) - loss(base - change)) / (2 * step)
        assert found == pytest.approx(slope, rel=2e-3, abs=2e-6), f"layer {layer}"


@pytest.mark.parametrize("soft", ["mask", "scale"])
def test_every_threshold_learns(model: Any, soft: str) -> None:
    """Check 8: every layer's threshold, layer 0's included, has a gradient from the penalty; 0 has one from the task."""
    rule = SoftThreshold((0.0, *START[1:]), 0.3, soft)
    loss_of(model, rule, 0.1).backward()
    assert rule.threshold.grad is not None and bool((rule.threshold.grad != 0).all())
    task = SoftThreshold(START, 0.3, soft)
    loss_of(model, task, 0.0).backward()
    assert task.threshold.grad is not None
    assert bool((task.threshold.grad[:-1] != 0).all())


@pytest.mark.parametrize("soft", ["mask", "scale"])
def test_penalty_alone_pushes_thresholds_up(model: Any, soft: str) -> None:
    """Check 8: a descent step on the penalty raises every threshold and lowers the penalty."""
    rule = SoftThreshold(START, 0.3, soft)
    optimiser = torch.optim.SGD([rule.threshold], lr=0.05)
    before: list[float] = []
    for _ in range(4):
        with stack_of(model).using(rule):
            model(**batch())
        penalty = rule.penalty()
        optimiser.zero_grad()
        penalty.backward()
        optimiser.step()
        before.append(penalty.item())
    assert all(found > start for found, start in zip(rule.hardened(), START, strict=True))
    assert before == sorted(before, reverse=True)


def test_penalty_counts_real_tokens_only(model: Any) -> None:
    """More padding changes neither the penalty nor the number of gates."""
    found = []
    for width in (14, 40):
        rule = SoftThreshold(START, 0.3)
        with torch.no_grad(), stack_of(model).using(rule):
            model(**batch(width=width))
        assert {len(gate) for gate in rule.gates} == {30}
        found.append(rule.penalty().item())
    assert found[0] == pytest.approx(found[1], abs=1e-6)
    assert SoftThreshold(START).penalty().item() == 0.0


def test_cumulative_soft_stage_hardens_into_removal(model: Any) -> None:
    """As the temperature goes to 0 the cumulative soft stage's logits become those of removal; the paper's do not."""
    inputs = batch()
    with torch.no_grad():
        with stack_of(model).using(Threshold(START)):
            hard = model(**inputs).logits
        dense = model(**inputs).logits
        distance = {}
        for soft in ("mask", "scale"):
            for temperature in (0.3, 0.03, 1e-3, 1e-5):
                with stack_of(model).using(SoftThreshold(START, temperature, soft)):
                    distance[soft, temperature] = float((model(**inputs).logits - hard).abs().max())
    assert distance["mask", 0.3] > distance["mask", 1e-5]
    assert distance["mask", 1e-5] < 1e-5
    assert distance["scale", 1e-5] > 1e-3
    assert float((dense - hard).abs().max()) > 1e-2


def test_thresholds_carry_over_between_paddings(model: Any) -> None:
    """Check 5: the same text padded to 64 or 128 keeps the same tokens; published thresholds scale by 128/64."""
    kept = []
    for width in (64, 128):
        with torch.no_grad(), stack_of(model).using(Threshold(START)), stack_of(model).recording() as counted:
            model(**batch((14, 9, 30), width=width))
        kept.append([n.tolist() for n in counted.ffn])
    assert kept[0] == kept[1] and kept[0][-1] != [14, 9, 30]
    published = (0.0, 0.003, 0.00917)
    narrow, wide = from_published(published, 64), from_published(published, 128)
    assert wide == pytest.approx([2 * t for t in narrow]) and wide[-1] == pytest.approx(1.174, abs=1e-3)
    # the released code: scores divided by the padded length, so mean 1/n_pad whatever the sentence
    scores = torch.rand(9)
    scores = scores / scores.mean()
    for width in (64, 128):
        theirs = scores / width >= 0.00917
        assert torch.equal(theirs, scores >= from_published((0.00917,), width)[0])


def living(scores: Any, lengths: Any, layer: int = 0, protected: int = 1, original: Any = None) -> Living:
    """Tokens of these scores, as a rule sees them."""
    lengths = torch.tensor(lengths)
    sequences = torch.arange(len(lengths)).repeat_interleave(lengths)
    positions = torch.cat([torch.arange(n) for n in lengths.tolist()] or [torch.zeros(0).long()])
    scores = torch.as_tensor(scores, dtype=torch.float32)
    return Living(
        torch.zeros(len(sequences), 2),
        scores,
        lengths,
        lengths if original is None else torch.tensor(original),
        sequences,
        positions,
        positions < protected,
        layer,
    )


def test_threshold_by_hand() -> None:
    """Ties stay, lower goes, the protected stay whatever they score."""
    rule = Threshold((1.0,))
    _, decision = rule.step(None, living([0.0, 1.0, 0.999, 1.001, 0.5, 2.0], [4, 2]))
    assert decision.keep.tolist() == [True, True, False, True, True, True]
    assert Threshold((ONLY_PROTECTED,)).step(None, living([0.0, 9.0], [2]))[1].keep.tolist() == [True, False]


def test_layers_that_ask_nothing() -> None:
    """A threshold of 0 prunes nothing; one that only protected tokens survive needs no scores."""
    rule = Threshold((0.0, 0.5, ONLY_PROTECTED, float("inf")))
    assert [rule.prunes(i) for i in range(4)] == [False, True, True, True]
    assert [rule.wants_scores(i) for i in range(4)] == [False, True, False, False]


def test_plan_round_trip() -> None:
    """Thresholds go through a plan unchanged; those that can remove nothing become null."""
    plan = token_plan((0.0, -1.0, 0.7, ONLY_PROTECTED))
    assert plan.values == (None, None, 0.7, 1e6) and plan.output == "last"
    assert rule_of(plan) == Threshold((0.0, 0.0, 0.7, ONLY_PROTECTED))
    assert token_plan((0.5,), output="survivors").output == "survivors"
    assert rule_of(token_plan((0.5,), "linear-threshold")) == Threshold((0.5,))


def test_linear_start_of_the_paper() -> None:
    """Layer l of L starts at last * l / L in the released code; the method starts from any thresholds given."""
    assert linear_thresholds(4, 1.0) == (0.0, 0.25, 0.5, 0.75)
    rule = LTP().start(linear_thresholds(4, 1.17 * 4 / 3), reads_class_token=False)
    assert rule.threshold.tolist() == pytest.approx([0.0, 0.39, 0.78, 1.17])
    assert not bool(rule.fixed.any())


def test_last_layer_keeps_the_protected_where_only_they_are_read(model: Any) -> None:
    """With a class-token head the last layer keeps protected tokens only, exactly; its threshold is not learned."""
    rule = LTP().start((0.2,) * 4, reads_class_token=True)
    assert rule.fixed.tolist() == [False] * 3 + [True] and rule.hardened()[-1] == ONLY_PROTECTED
    assert not bool(LTP(last_layer="learned").start((0.2,) * 4, True).fixed.any())
    with torch.no_grad():
        dense = model(**batch()).logits
        with (
            stack_of(model).using(Threshold((0.0, 0.0, 0.0, ONLY_PROTECTED))),
            stack_of(model).recording() as kept,
        ):
            only = model(**batch()).logits
    torch.testing.assert_close(only, dense, atol=1e-5, rtol=1e-5)
    assert kept.ffn[-1].tolist() == [1, 1, 1, 1]
    loss_of(model, rule, 0.1).backward()
    assert rule.threshold.grad is not None and rule.threshold.grad[-1].item() == 0.0
    assert len(rule.gates) == 3


def test_temperature_must_be_positive() -> None:
    """A temperature of 0 is the hard rule, and the error says so."""
    for temperature in (0.0, -1.0, float("nan")):
        with pytest.raises(
            ValueError, match=r"temperature must be above 0; got .* Use Threshold for a hard cut"
        ):
            SoftThreshold((0.5,), temperature)


def test_soft_rule_stays_in_single_precision(model: Any) -> None:
    """Thresholds and scores are float32 under bf16 autocast; the gradient arrives."""
    rule = SoftThreshold(START, 0.3)
    with stack_of(model).using(rule), torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(**batch()).logits
    (logits.float().sum() + rule.penalty()).backward()
    assert rule.threshold.dtype == torch.float32 and all(gate.dtype == torch.float32 for gate in rule.gates)
    assert rule.threshold.grad is not None and bool(rule.threshold.grad.isfinite().all())


def test_soft_rule_forgets_the_last_batch(model: Any) -> None:
    """Gates of one forward pass do not pile up in the next."""
    rule = SoftThreshold(START)
    for _ in range(2):
        with torch.no_grad(), stack_of(model).using(rule):
            model(**batch())
    assert len(rule.gates) == 4


# ---- controls


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.floats(0, 1), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_top_k_keeps_the_best(lengths: list[int], share: float, seed: int) -> None:
    """Of each sequence ceil(share * n) tokens, protected first, then by score: as sorting says."""
    torch.manual_seed(seed)
    scores = torch.rand(sum(lengths))
    _, decision = TopK((share,)).step(None, living(scores, lengths))
    for part, keep in zip(scores.split(lengths), decision.keep.split(lengths), strict=True):
        count = max(1, -int(-(len(part) * share - 1e-9) // 1))
        best = {0, *([0, *(1 + part[1:].argsort(descending=True, stable=True)).tolist()][:count])}
        assert set(keep.nonzero().flatten().tolist()) == best


@pytest.mark.parametrize(
    ("share", "n", "kept"),
    [
        (0.15, 100, 15),
        (0.07, 100, 7),
        (0.09, 300, 27),
        (0.1, 30, 3),
        (0.5, 5, 3),
        (1 / 3, 3, 1),
        (0.0, 9, 1),
        (0.999, 10, 10),
    ],
)
def test_shares_round_up_and_not_further(share: float, n: int, kept: int) -> None:
    """15 % of 100 are 15: rounding errors of the product do not add a token."""
    for rule in (TopK((share,)), RandomTokens((share,))):
        assert int(rule.step(None, living(torch.rand(n), [n]))[1].keep.sum()) == kept


def test_ties_go_to_the_earlier_token() -> None:
    """Among equal scores the first tokens stay, however many there are."""
    _, decision = TopK((0.25,)).step(None, living(torch.arange(2000) % 2, [2000]))
    first = torch.arange(2000) % 2 == 1
    first[999:] = False  # 1 protected and 499 of the 1,000 best
    first[0] = True
    assert torch.equal(decision.keep, first)


def test_controls_count_from_the_original_length() -> None:
    """After earlier removal the share still is of the original length."""
    for rule in (TopK((None, 0.5)), RandomTokens((None, 0.5))):
        step = rule.step(None, living(torch.rand(6), [6], layer=1, original=[10]))
        assert int(step[1].keep.sum()) == 5


def test_controls_prune_where_a_share_is_named() -> None:
    """None and 1 keep all tokens and ask for nothing."""
    for rule in (TopK((None, 1.0, 0.5)), RandomTokens((None, 1.0, 0.5))):
        assert [rule.prunes(i) for i in range(3)] == [False, False, True]
    assert not RandomTokens((0.5,)).wants_scores(0) and TopK((0.5,)).wants_scores(0)


@pytest.mark.parametrize("seed", [0, 1, -5, 2**63, 2**200])
def test_random_draw_is_even_and_repeatable(seed: int) -> None:
    """No stretch of positions is preferred, the draw repeats, and any seed is fine."""
    n = 4001
    found = RandomTokens((0.5,), seed).step(None, living(torch.zeros(n), [n]))[1].keep
    assert torch.equal(found, RandomTokens((0.5,), seed).step(None, living(torch.zeros(n), [n]))[1].keep)
    for part in found[1:].split(500):
        assert 0.4 < part.float().mean().item() < 0.6
    assert 0.2 < (found[1:-1] & found[2:]).float().mean().item() < 0.3  # neighbours are independent


def test_random_seeds_differ() -> None:
    """Another seed draws other tokens."""
    draws = [
        RandomTokens((0.5,), seed).step(None, living(torch.zeros(64), [64]))[1].keep for seed in range(8)
    ]
    assert len({tuple(draw.tolist()) for draw in draws}) == 8


def test_short_sequences_are_not_emptied() -> None:
    """A class token that draws a fixed share: in units of the others' mean a threshold treats all lengths alike.

    The class token takes as much as 3 tokens' share, the others share the rest evenly: relative to all tokens they score
    (n - 3) / (n - 1), 0.5 at n = 5 and 0.92 at n = 25. Relative to the others they score 1 at every length.
    """
    lengths = torch.tensor([5, 25])
    sequences = torch.repeat_interleave(torch.arange(2), lengths)
    protected = torch.tensor([True, *[False] * 4, True, *[False] * 24])
    n = lengths[sequences].float()
    scores = torch.where(protected, torch.tensor(3.0), (n - 3) / (n - 1))
    living = Living(torch.zeros(30, 1), scores, lengths, lengths, sequences, torch.arange(30), protected, 0)
    assert relative(living, "all")[1] == pytest.approx(0.5)
    assert relative(living, "others")[~protected].tolist() == pytest.approx([1.0] * 28)
    kept = {}
    for unit in ("all", "others"):
        _, decision = Threshold((0.8,), relative_to=unit).step(None, living)
        kept[unit] = torch.bincount(sequences[decision.keep]).tolist()
    assert kept == {"all": [1, 25], "others": [5, 25]}


def test_the_unit_of_thresholds_is_part_of_the_plan() -> None:
    """It goes through the plan; plans without it are in the paper's unit; an unknown one is refused."""
    plan = token_plan((0.5, 0.6), relative_to="others")
    assert plan.options == {"relative_to": "others"}
    assert rule_of(plan) == Threshold((0.5, 0.6), relative_to="others")
    assert rule_of(token_plan((0.5, 0.6))) == Threshold((0.5, 0.6), relative_to="all")
    with pytest.raises(Refused, match="relative to 'nobody'; known are all, others"):
        rule_of(TokenPlan("ltp", (0.5,), {"relative_to": "nobody"}))


@pytest.mark.parametrize(
    "bad",
    [
        {"soft": "foo"},
        {"last_layer": "x"},
        {"relative_to": "y"},
        {"temperature": 0.0},
        {"temperature_unit": "z"},
        {"initial": 2.0},
        {"initial": float("nan")},
        {"weight": -1.0},
        {"soft_epochs": -1.0},
        {"hard_epochs": float("nan")},
        {"hard_lr": float("inf")},
        {"distill": 2.0},
        {"distill_states": -3.0},
        {"distill_temperature": 0.0},
        {"steer_every": 0},
    ],
)
def test_settings_out_of_range_are_refused(bad: dict[str, Any]) -> None:
    """The setting and its value are named, by the method and by the controls that have it."""
    ((name, value),) = bad.items()
    with pytest.raises(Usage, match=rf"^{name} (is one of|must be|lies in) .*; got {value!r}\."):
        LTP(**bad)
    if name in {field.name for field in fields(Control)}:
        with pytest.raises(Usage, match=f"^{name} "):
            Control("top-k", **bad)


def test_spread_is_the_unit_of_the_temperature() -> None:
    """A layer whose scores lie half as far apart has gates half as soft."""
    rule = SoftThreshold((0.8,) * 3, 0.2, spread=(0.5, 1.0, 2.0))
    scores, lengths = torch.tensor([1.4, 0.9, 0.7, 1.0]), torch.tensor([4])
    nobody, sequences = torch.zeros(4, dtype=torch.bool), torch.zeros(4, dtype=torch.long)
    for layer, temperature in enumerate((0.1, 0.2, 0.4)):
        living = Living(
            torch.zeros(4, 1), scores, lengths, lengths, sequences, torch.arange(4), nobody, layer
        )
        found = rule.step(rule.start(4), living)[1].log_gate
        assert found is not None
        torch.testing.assert_close(found, F.logsigmoid((scores - 0.8) / temperature))
