"""Removing tokens equals masking them: the packed run against a masked run written from the definition in float64."""

import copy
import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsam.cost import dense_cost
from sparsam.models import FAMILIES, lift, stack_of
from sparsam.models.count import Tally, shapes_of
from sparsam.models.lift import layers_of
from sparsam.packed import pack
from sparsam.plan import LayerPlan, Plan, TokenPlan
from sparsam.tokens import SoftThreshold, Threshold
from sparsam.tokens.ltp import ONLY_PROTECTED
from sparsam.tokens.rule import Decision, Living

pytestmark = pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
TEXT = ("bert", "roberta", "xlm-roberta", "distilbert", "electra", "mpnet")
ALL = (*TEXT, "vit", "deit")


def layers_list(model: Any) -> list[Any]:
    """The layers as modules, lifted or not."""
    return list(layers_of(model).children())


class Masked:
    """Takes a stack's place and runs the masked definition on what the embeddings give."""

    def __init__(self, tiny: Any, model: Any, name: str, thresholds: tuple[float, ...], **more: Any) -> None:
        self.tiny, self.name, self.thresholds, self.more = tiny, name, thresholds, more
        self.stack = stack_of(model)
        self.table = self.stack.bias.encoder.relative_attention_bias if self.stack.bias is not None else None
        self.found = SimpleNamespace()

    def __call__(self, x: torch.Tensor, mask: Any = None) -> torch.Tensor:
        """Padded states in, each token's last state out."""
        from sparsam.models.encoder import key_mask

        living = key_mask(mask, *x.shape[:2])
        self.living = torch.ones(x.shape[:2], dtype=torch.bool) if living is None else living
        self.found = self.tiny.masked(
            [block.layer for block in self.stack.blocks],
            self.name,
            x,
            self.living,
            self.thresholds,
            table=self.table,
            **self.more,
        )
        out: torch.Tensor = (self.found.x * self.living[..., None]).to(x.dtype)
        return out


@torch.no_grad()
def both(tiny: Any, model: Any, name: str, batch: Any, thresholds: tuple[float, ...], **more: Any) -> Any:
    """(removed, masked, definition): outputs of a lifted model with tokens removed, and with them masked."""
    model = copy.deepcopy(model)
    stack = stack_of(model)
    with stack.using(Threshold(thresholds)), stack.recording() as kept:
        removed = model(**batch, output_hidden_states=True)
    definition = Masked(tiny, model, name, thresholds, **more)
    for module in model.modules():
        if getattr(module, "stack", None) is stack:
            module.stack = definition
    masked = model(**batch)
    assert definition.found.margin > 1e-6, "a score too near its threshold to tell; take another seed"
    definition.found.kept = kept
    return removed, masked, definition


def check(tiny: Any, model: Any, name: str, batch: Any, thresholds: tuple[float, ...], **more: Any) -> Any:
    """Removed equals masked: logits, every token's last state, hidden states layer by layer, surviving lengths."""
    removed, masked, definition = both(tiny, model, name, batch, thresholds, **more)
    found = definition.found
    for key in masked:
        torch.testing.assert_close(
            removed[key], masked[key], atol=1e-5 * max(1, float(masked[key].abs().max())), rtol=0
        )
    for index, wanted in enumerate(found.states):
        state = removed.hidden_states[index + 1][definition.living].double()
        wanted = wanted[definition.living]
        torch.testing.assert_close(state, wanted, atol=2e-5 * max(1, float(wanted.abs().max())), rtol=0)
        assert found.kept.ffn[index].tolist() == found.living[index].sum(1).tolist()
        before = definition.living if index == 0 else found.living[index - 1]
        assert found.kept.attention[index].tolist() == before.sum(1).tolist()
    return definition


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("b", [1, 2, 3, 7])
def test_masked_equals_removed(tiny: Any, name: str, b: int) -> None:
    """Check 4: -inf keys and ignored rows give the logits of physical removal, batches of two included."""
    rng = np.random.default_rng(b)
    model = lift(tiny.build(name))
    for seed in range(3):
        lengths = [int(n) for n in rng.integers(1, 14, b)]
        thresholds = tuple(float(t) for t in rng.uniform(0.3, 1.3, 3))
        definition = check(tiny, model, name, tiny.inputs(name, lengths, seed=seed), thresholds)
    assert b < 3 or int(definition.found.living[-1].sum()) < int(definition.living.sum())


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=5),
    st.tuples(*[st.one_of(st.just(0.0), st.floats(0.05, 2.0), st.just(ONLY_PROTECTED))] * 3),
    st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_masked_equals_removed_for_any_thresholds(
    tiny: Any, lengths: list[int], thresholds: Any, seed: int
) -> None:
    """Any thresholds in any layers, zero and only-protected among them, for any lengths."""
    if not hasattr(tiny, "_lifted"):
        tiny._lifted = lift(tiny.build("bert"))
    try:
        check(tiny, tiny._lifted, "bert", tiny.inputs("bert", lengths, seed=seed), thresholds)
    except AssertionError as error:
        if "too near" not in str(error):
            raise


@pytest.mark.parametrize("name", TEXT)
@pytest.mark.parametrize("side", ["left", "holes"])
def test_masked_equals_removed_for_any_padding(tiny: Any, name: str, side: str) -> None:
    """Left padding and holes: the first living token is the protected one, and original positions are kept."""
    model = lift(tiny.build(name, "ForTokenClassification"))
    definition = check(tiny, model, name, tiny.text((12, 7, 2, 9), side), (0.7, 0.9, 1.1))
    assert bool(definition.found.living[-1].any(1).all())


def test_masked_equals_removed_with_uneven_heads(tiny: Any) -> None:
    """Together with heads and filters cut, no heads at all in one layer, and a relative bias that knows which are left."""
    for name in ("bert", "mpnet", "vit"):
        plan = Plan(name, (LayerPlan((0, 2), (0, 5, 7)), LayerPlan((), ()), LayerPlan((3,), None)))
        small, _ = tiny.sever(tiny.build(name), name, plan)
        heads = [layer.heads for layer in plan.layers]
        check(tiny, lift(small, plan), name, tiny.inputs(name, (9, 12, 4)), (0.8, 0.0, 0.9), heads=heads)


@pytest.mark.parametrize("name", ALL)
def test_zero_thresholds_are_dense(tiny: Any, name: str) -> None:
    """Check 1: thresholds of 0 give the stock logits and a MACs ratio of exactly 1."""
    model = tiny.build(name)
    batch = tiny.inputs(name)
    with torch.no_grad():
        wanted = model(**batch).logits
        lifted = lift(
            copy.deepcopy(model), Plan(name, (LayerPlan(),) * 3, TokenPlan("ltp", (0.0, None, 0.0)))
        )
        stack = stack_of(lifted)
        with stack.recording() as kept:
            torch.testing.assert_close(lifted(**batch).logits, wanted, atol=1e-5, rtol=1e-5)
    tally = Tally()
    tally.add(shapes_of(stack), kept)
    assert tally.ratio == 1.0
    assert tally.shares() == [{"attention": 1.0, "ffn": 1.0}] * 3


@pytest.mark.parametrize("name", ALL)
def test_counted_work_is_the_formula_on_true_survivors(tiny: Any, name: str) -> None:
    """Check 9: counted MACs equal the sum over layers and sequences of the card's formula, with scoring."""
    model = lift(tiny.build(name))
    definition = check(tiny, model, name, tiny.inputs(name, (12, 7, 1, 5)), (0.8, 0.0, 0.9))
    alive = [definition.living, *definition.found.living]
    d, f, heads = 32, 44, 4
    macs = dense = 0
    for index in range(3):
        for n, m, n0 in zip(*(alive[i].sum(1).tolist() for i in (index, index + 1, 0)), strict=True):
            macs += 4 * d * d * n + 2 * d * n * n + 2 * d * f * m + (heads * n * n if index != 1 else 0)
            dense += 4 * d * d * n0 + 2 * d * n0 * n0 + 2 * d * f * n0
    tally = Tally()
    with stack_of(model).using(Threshold((0.8, 0.0, 0.9))):
        tally.add(shapes_of(stack_of(model)), definition.found.kept)
    assert tally.cost.macs == macs and tally.dense.macs == dense and tally.ratio == macs / dense
    assert dense_cost(shapes_of(stack_of(model)), alive[0].sum(1).numpy()).macs == dense


@pytest.mark.parametrize("name", TEXT)
def test_padding_changes_no_keep_set(tiny: Any, name: str) -> None:
    """Check 5: the same text padded to 12, 20 or 40 keeps the same tokens and gives the same logits."""
    model = lift(tiny.build(name), Plan(name, (LayerPlan(),) * 3, TokenPlan("ltp", (0.8, 0.9, 1.0))))
    plain = tiny.text((12, 7, 5))
    results = []
    for width in (12, 20, 40):
        batch = {
            key: torch.nn.functional.pad(x, (0, width - 12), value=1 if key == "input_ids" else 0)
            for key, x in plain.items()
        }
        with torch.no_grad(), stack_of(model).recording() as kept:
            logits = model(**batch).logits
        results.append((logits, [n.tolist() for n in kept.ffn]))
    for logits, kept_lengths in results[1:]:
        torch.testing.assert_close(logits, results[0][0], atol=1e-5, rtol=1e-5)
        assert kept_lengths == results[0][1]
    assert results[0][1][-1] != [12, 7, 5]


class Spy:
    """A rule that another rule decides for, and that writes down what it saw and kept."""

    def __init__(self, rule: Any) -> None:
        self.rule, self.soft = rule, rule.soft
        self.seen: list[Living] = []
        self.kept: list[set[tuple[int, int]]] = []

    def prunes(self, layer: int) -> bool:
        return bool(self.rule.prunes(layer))

    def wants_scores(self, layer: int) -> bool:
        return bool(self.rule.wants_scores(layer))

    def start(self, tokens: int) -> Any:
        return self.rule.start(tokens)

    def step(self, state: Any, living: Living) -> tuple[Any, Decision]:
        state, decision = self.rule.step(state, living)
        self.seen.append(living)
        pairs = zip(
            living.sequences[decision.keep].tolist(), living.positions[decision.keep].tolist(), strict=True
        )
        self.kept.append(set(pairs))
        return state, decision


@pytest.mark.parametrize("name", ALL)
def test_keep_sets_shrink_and_protected_stay(tiny: Any, name: str) -> None:
    """Check 6: what a layer keeps it kept before; the class token (for DeiT two tokens) always; scores sum to n."""
    model = lift(tiny.build(name))
    spy = Spy(Threshold((0.7, 0.9, 1.1)))
    with torch.no_grad(), stack_of(model).using(spy):
        model(**tiny.inputs(name))
    for earlier, later in zip(spy.kept, spy.kept[1:], strict=False):
        assert later < earlier
    protected = FAMILIES[name].protected
    assert all((row, place) in kept for kept in spy.kept for row in range(4) for place in range(protected))
    for living in spy.seen:
        assert living.scores is not None
        sums = torch.zeros(4).index_add(0, living.sequences, living.scores)
        torch.testing.assert_close(sums, living.lengths.float(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("threshold", [float("inf"), ONLY_PROTECTED])
def test_infinite_threshold_leaves_the_protected(tiny: Any, name: str, threshold: float) -> None:
    """Check 6: a threshold without bound leaves exactly the protected tokens, and finite logits."""
    model = lift(tiny.build(name))
    with (
        torch.no_grad(),
        stack_of(model).using(Threshold((threshold,) * 3)),
        stack_of(model).recording() as kept,
    ):
        logits = model(**tiny.inputs(name)).logits
    assert bool(logits.isfinite().all())
    wanted = [min(FAMILIES[name].protected, n) for n in ((12, 7, 1, 5) if name in TEXT else (17,) * 4)]
    assert [n.tolist() for n in kept.ffn] == [wanted] * 3


@pytest.mark.parametrize("name", TEXT)
def test_no_padding_side_empties_a_sequence(tiny: Any, name: str) -> None:
    """With padding on the left the class token is the first living one: it is protected there, too."""
    model = lift(tiny.build(name, "ForTokenClassification"))
    with (
        torch.no_grad(),
        stack_of(model).using(Threshold((ONLY_PROTECTED,) * 3)),
        stack_of(model).recording() as kept,
    ):
        model(**tiny.text((6, 3, 1), "left"))
    assert kept.ffn[-1].tolist() == [1, 1, 1]


def test_soft_gate_hardens() -> None:
    """Check 7: the share of tokens whose gate is off by more than 1e-3 falls as the card says: 100, 70, 7, 1 %."""
    scores = torch.linspace(0, 0.02, 20_001, dtype=torch.float32)
    t = len(scores)
    living = Living(
        torch.zeros(t, 1),
        scores,
        torch.tensor([t]),
        torch.tensor([t]),
        torch.zeros(t, dtype=torch.long),
        torch.arange(t),
        torch.zeros(t, dtype=torch.bool),
        0,
    )
    for temperature, share in ((1e-2, 1.0), (1e-3, 0.69), (1e-4, 0.07), (1e-5, 0.007)):
        rule = SoftThreshold((0.008,), temperature)
        _, decision = rule.step(rule.start(t), living)
        _, hard = Threshold((0.008,)).step(None, living)
        assert decision.log_gate is not None
        off = ((decision.log_gate.exp() - hard.keep.float()).abs() > 1e-3).float().mean().item()
        assert off == pytest.approx(share, abs=0.01)


# ---- what stands at a removed token's place


@pytest.mark.parametrize("name", ALL)
def test_removed_tokens_show_their_last_state(tiny: Any, name: str) -> None:
    """After its removal a token's hidden state no longer changes, and the output shows it."""
    model = lift(tiny.build(name))
    removed, _, definition = both(tiny, model, name, tiny.inputs(name), (0.9, 0.0, 1.0))
    gone = definition.living & ~definition.found.living[0]
    assert bool(gone.any())
    for state in removed.hidden_states[2:]:
        assert torch.equal(state[gone], removed.hidden_states[1][gone])


@pytest.mark.parametrize("name", ALL)
def test_hooks_see_what_the_layer_before_gave(tiny: Any, name: str) -> None:
    """The input a hook sees is the output of the layer before, tokens removed there or earlier included."""
    model = lift(tiny.build(name))
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    for layer in layers_list(model):
        layer.register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
    with torch.no_grad(), stack_of(model).using(Threshold((0.9, 0.8, 1.0))):
        model(**tiny.inputs(name))
    assert len(seen) == 3
    for (_, gave), (took, _) in itertools.pairwise(seen):
        assert torch.equal(gave, took)


@pytest.mark.parametrize("name", TEXT)
def test_mean_over_the_mask_is_the_mean_over_survivors(tiny: Any, name: str) -> None:
    """An embedding model that means over its mask gives, with output 'survivors', the mean over what survived."""
    tokens = TokenPlan("ltp", (0.7, 0.0, 1.0), output="survivors")
    model = lift(tiny.build(name, "Model"), Plan(name, (LayerPlan(),) * 3, tokens))
    batch = tiny.text((12, 7, 1, 5))
    mask = batch["attention_mask"].bool()
    _, _, definition = both(tiny, model, name, batch, (0.7, 0.0, 1.0))
    with torch.no_grad():
        output = model(**batch)
    states, living = output.last_hidden_state, definition.found.living[-1]
    mean = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    wanted = (definition.found.x * living[..., None]).sum(1) / living.sum(1, keepdim=True)
    torch.testing.assert_close(mean.double(), wanted, atol=1e-5, rtol=1e-5)
    assert not bool(states[~mask].any())
    assert int(living.sum()) < int(mask.sum())


def test_embedding_model_loaded_by_auto_model(tiny: Any, tmp_path: Any) -> None:
    """A mean-pooled model through AutoModel, its pooler kept: dense equal to stock, pruned near it."""
    import transformers

    tiny.build("mpnet", "Model").save_pretrained(tmp_path)
    stock = transformers.AutoModel.from_pretrained(tmp_path).eval()
    batch = tiny.text((12, 7, 1, 5))
    mask = batch["attention_mask"][..., None]
    plan = Plan("mpnet", (LayerPlan(),) * 3, TokenPlan("ltp", (0.6, 0.7, 0.8), output="survivors"))
    with torch.no_grad():
        wanted = stock(**batch)
        lifted = lift(transformers.AutoModel.from_pretrained(tmp_path).eval())
        found = lifted(**batch)
        torch.testing.assert_close(found.pooler_output, wanted.pooler_output, atol=1e-5, rtol=1e-5)
        means = [
            (o.last_hidden_state * mask).sum(1) / mask.sum(1)
            for o in (wanted, found, lift(lifted, plan)(**batch))
        ]
    torch.testing.assert_close(means[1], means[0], atol=1e-5, rtol=1e-5)
    assert bool((torch.cosine_similarity(means[2], means[0]) > 0.3).all())
    assert not torch.allclose(means[2], means[0], atol=1e-4)


def test_gradients_through_removal(tiny: Any) -> None:
    """Training after removal: gradients equal those of the masked run, and are finite everywhere."""
    model = lift(tiny.build("bert"))
    thresholds = (0.8, 0.9, 1.0)
    batch = tiny.text((9, 6, 2))
    x = model.bert.embeddings(batch["input_ids"]).detach()
    living = batch["attention_mask"].bool()
    mix = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    stack = stack_of(model)
    grads = []
    for run in ("removed", "masked"):
        leaf = x.clone().requires_grad_(True)
        with stack.using(Threshold(thresholds)):
            if run == "removed":
                out = stack(leaf, living)
            else:
                out = tiny.masked(layers_list(model), "bert", leaf, living, thresholds).x * living[..., None]
        (grad,) = torch.autograd.grad((out * mix).sum(), leaf)
        grads.append(grad.double() * living[..., None])
    torch.testing.assert_close(*grads, atol=1e-4, rtol=1e-4)


def test_run_of_packed_tokens_equals_call(tiny: Any) -> None:
    """Packed tokens handed in directly, as training does, take the same road; a sequence of length 0 is allowed."""
    model = lift(tiny.build("bert"))
    stack = stack_of(model)
    batch = tiny.text((9, 6, 2))
    living = batch["attention_mask"].bool()
    living[2] = False
    stack.reads_class_token = False
    with torch.no_grad(), stack.using(Threshold((0.8, 0.9, 1.0))):
        x = model.bert.embeddings(batch["input_ids"])
        whole = stack(x, living)
        survivors, removed = stack.run(pack(x, living))
        assert (
            survivors.lengths.tolist()[2] == 0
            and sum(len(p.rows) for p in removed) + len(survivors.rows) == 15
        )
        rows = survivors.sequences, survivors.positions
        assert torch.equal(whole[rows], survivors.values)
        assert not bool(whole[2].any())
