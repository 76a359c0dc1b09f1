"""SpAtten on recorded attention: the cascade over layers, costs, machines, and what it leaves out."""

import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest

import sparsam.hardware.spatten as spatten
from sparsam.errors import Refused
from sparsam.hardware import DESIGNS, How, LayerCost, simulate
from sparsam.hardware.machine import machine_of
from sparsam.hardware.spatten_cascade import Cascade, Schedule
from sparsam.hardware.spatten_datapath import Replayed
from sparsam.workload import Attention, Gemm, Tensor, Workload, bf16_bits, rounded

FULL = machine_of("spatten")
UNPRUNED = {"token_prune_mean": 0.0, "head_prune_mean": 0.0}


def attention(name, lengths, *, heads=4, width=16, seed=0, sharp=2.0, causal=False, **more):
    """A layer of random numbers, 8 bits."""
    rng = np.random.default_rng(seed)
    q, k, v = (rng.standard_normal((sum(lengths), heads, width)) for _ in range(3))
    return Attention(
        name,
        rounded(q * sharp),
        rounded(k),
        rounded(v),
        np.array(lengths),
        width**-0.5,
        causal=causal,
        **more,
    )


def run(lengths=(30, 12), layers=6, **more):
    """A workload of so many attention layers."""
    return Workload([attention(f"layer {i}", lengths, seed=i, **more) for i in range(layers)])


def test_without_pruning_it_is_its_dense_baseline():
    """The same cycles of computing, all multiplications, fewer bytes: 8 bits beside 12."""
    found = simulate(run(), FULL.varied(**UNPRUNED))
    for one in found.layers:
        assert one.compute_cycles == one.dense_cycles
        assert one.effectual == one.macs
        assert one.dram_bytes < one.dense_dram_bytes
        assert one.detail["tokens"] == [30, 12]
        assert one.detail["heads"] == [4, 4]
        assert one.mode == "exact"
        assert one.cycles == one.pipeline_cycles >= one.compute_cycles
    assert found.speedup >= 1


def test_dense_cycles_by_hand():
    """4 heads, 30 queries on 30 keys of width 16: 32 keys a cycle, but 8 probabilities."""
    one = simulate(run((30,), 1), FULL.varied(**UNPRUNED)).layers[0]
    score = 4 * 30 * 4
    assert one.detail["busy"]["scores"] == score
    assert one.detail["busy"]["values"] == 4 * 30
    assert score < one.dense_cycles < score + 150
    assert one.detail["key_value_bytes"] == 2 * 4 * 30 * 32  # 16 bytes fill half of a transaction


def test_pruned_run_keeps_fewer_and_takes_less():
    """Tokens and heads fall along the schedule, cycles and bytes with them."""
    machine = FULL.varied(token_prune_mean=0.15, head_prune_mean=0.1)
    found = simulate(run((64, 40), 8), machine)
    tokens = [one.detail["tokens"] for one in found.layers]
    schedule = Schedule(8, 0.15, 0.0, 0.15)
    expected = [64, 40]
    for number, seen in enumerate(tokens):
        expected = [int(n * (1 - schedule.share(number)) + 1e-9) for n in expected]
        assert seen == expected
    assert tokens[-1][0] < 30
    assert [one.detail["heads"][0] for one in found.layers][-1] < 4
    assert found.layers[-1].cycles < found.layers[0].cycles
    assert found.layers[-1].dram_bytes < found.layers[0].dram_bytes
    assert found.speedup > 1
    assert found.energy_pj["dram"] > 0
    assert found.layers[-1].detail["cascade_select_cycles"] > 0


def test_two_runs_are_the_same():
    """Nothing is carried from one simulation to the next; seeds repeat."""
    a, b = (simulate(run(), FULL.varied(value_prune=0.5), How(seed=3)) for _ in range(2))
    assert a == b


@pytest.mark.parametrize("causal", [False, True])
def test_replay_agrees_with_the_dense_integers(causal):
    """Every head's schedule, carried out with tokens, heads and values pruned, on bfloat16 too."""
    machine = FULL.varied(token_prune_mean=0.2, head_prune_mean=0.1, value_prune=0.4)
    layers = list(run((14, 5), 5, causal=causal))
    q = layers[4].q
    layers[4] = Attention(
        "real",
        Tensor(bf16_bits(q.real()), "bf16"),
        layers[4].k,
        layers[4].v,
        layers[4].lengths,
        0.25,
        causal=causal,
    )
    found = simulate(Workload(layers), machine, How(check=True))
    assert len(found.layers) == 5
    assert found.layers[4].effectual < found.layers[0].effectual


def test_wrong_schedule_is_found(monkeypatch):
    """A replay whose scores differ by one is refused by the layer's name."""

    def wrong(*arguments):
        ran = right(*arguments)
        return Replayed(ran.scores + 1, ran.context, ran.cycles, ran.times, ran.most)

    right = spatten.replay
    monkeypatch.setattr(spatten, "replay", wrong)
    with pytest.raises(Refused, match="layer 0: the replayed schedule"):
        simulate(run(layers=1), FULL, How(check=True))


def test_importance_is_conserved():
    """With nothing pruned, tokens' scores sum to heads x queries x layers."""
    layers = run((20, 9), 3)
    carry = spatten.start(FULL.varied(**UNPRUNED), How(), layers)
    for number, layer in enumerate(layers):
        spatten.layer_cost(layer, FULL.varied(**UNPRUNED), How(), carry)
        sums = [one.token_score.sum() for one in carry.living]
        assert sums == pytest.approx([4 * 20 * (number + 1), 4 * 9 * (number + 1)], rel=1e-5)


def test_kept_sets_are_nested_and_scores_are_carried():
    """A token that left never returns; a survivor's score only grows; the class token stays."""
    machine = FULL.varied(token_prune_mean=0.3, head_prune_mean=0.1)
    layers = run((40,), 6)
    carry = spatten.start(machine, How(), layers)
    tokens, heads, score = np.arange(40), np.arange(4), np.zeros(40)
    for layer in layers:
        spatten.layer_cost(layer, machine, How(), carry)
        one = carry.living[0]
        assert set(one.places) <= set(tokens)
        assert set(one.heads) <= set(heads)
        assert 0 in one.places
        assert (one.token_score[one.places] > score[one.places]).all()
        gone = np.setdiff1d(np.arange(40), one.places)
        assert (one.token_score[gone] == score[gone]).all()
        tokens, heads, score = one.places, one.heads, one.token_score.copy()
    assert len(tokens) < 15


def looking_at(name, favourites, n=3):
    """One head; all queries look at one key with these weights."""
    q = np.zeros((n, 1, n))
    q[:] = np.log(np.asarray(favourites))
    k = np.eye(n)[:, None]
    return Attention(name, rounded(q, 12), rounded(k, 12), rounded(np.ones((n, 1, n))), np.array([n]), 1.0)


def test_accumulated_scores_choose_not_the_last_layer():
    """Token 1 was looked at in the first layer, token 2 a little more in the second: the sum keeps token 1."""
    first, second = looking_at("a", [0.1, 0.8, 0.1]), looking_at("b", [0.2, 0.35, 0.45])
    machine = FULL.varied(key_bits=12)
    carry = Cascade(Schedule(3, 0.6, 0.35, 0.35), Schedule(3, 0.3, 0.0, 0.0), 0, 16)
    for layer in (first, second):
        spatten.layer_cost(layer, machine, How(), carry)
    third = carry.enter(looking_at("c", [1 / 3] * 3))[0]
    assert third.places.tolist() == [1]  # floor(3 x 0.65): of 0.9, 3.45 and 1.65 the largest
    fresh = Cascade(Schedule(3, 0.6, 0.35, 0.35), Schedule(3, 0.3, 0.0, 0.0), 0, 16)
    fresh.enter(replace(second, name="a"))
    spatten.layer_cost(second, machine, How(), fresh)
    assert fresh.enter(looking_at("c", [1 / 3] * 3))[0].places.tolist() == [2]  # the last layer alone


def test_two_of_three_tokens_are_kept_by_hand():
    """Probabilities given, a third removed: the one looked at least leaves."""
    carry = Cascade(Schedule(2, 0.0, 1 / 3, 1 / 3), Schedule(2, 0.3, 0.0, 0.0), 0, 16)
    spatten.layer_cost(looking_at("a", [0.5, 0.2, 0.3]), FULL, How(), carry)
    assert carry.enter(looking_at("b", [1 / 3] * 3))[0].places.tolist() == [0, 2]


def test_schedule_grows_around_its_mean():
    """None in the first 15 %, then linear, start and end summing to twice the mean."""
    plan = Schedule(12, 0.15, 0.02, 0.1)
    shares = [plan.share(i) for i in range(12)]
    assert shares[:2] == [0, 0]
    assert shares[2] == pytest.approx(0.02)
    assert shares[11] == pytest.approx(0.18)
    assert np.mean(shares[2:]) == pytest.approx(0.1)
    assert np.allclose(np.diff(shares[2:]), 0.16 / 9)
    assert plan.left(11) == pytest.approx(np.prod([1 - x for x in shares]))
    assert Schedule(2, 0.0, 0.1, 0.2).share(1) == pytest.approx(0.2)


def test_heads_named_by_the_model_are_followed():
    """A layer that has heads 1 and 3 alone counts them as themselves."""
    first, second = attention("a", (10,)), attention("b", (10,), heads=2)
    named = Attention("b", second.q, second.k, second.v, second.lengths, second.scale, heads=(1, 3))
    carry = Cascade(Schedule(3, 0.15, 0.0, 0.0), Schedule(3, 0.3, 0.0, 0.0), 1, 16)
    spatten.layer_cost(first, FULL, How(), carry)
    before = carry.living[0].head_score.copy()
    spatten.layer_cost(named, FULL, How(), carry)
    grown = carry.living[0].head_score > before
    assert grown.tolist() == [False, True, False, True]


def test_tokens_the_model_itself_removed_are_followed():
    """Places are those of the whole sequence, so scores meet the right tokens."""
    whole = attention("a", (8,))
    rest = attention("b", (4,), seed=1, tokens=np.array([0, 2, 5, 7]))
    carry = Cascade(Schedule(2, 0.15, 0.0, 0.0), Schedule(2, 0.3, 0.0, 0.0), 1, 16)
    spatten.layer_cost(whole, FULL, How(), carry)
    before = carry.living[0].token_score.copy()
    spatten.layer_cost(rest, FULL, How(), carry)
    assert np.flatnonzero(carry.living[0].token_score > before).tolist() == [0, 2, 5, 7]


@pytest.mark.parametrize("lengths", [(9, 7), (12,)])
def test_other_sequences_begin_a_new_run(lengths):
    """More sequences, or longer ones: the cascade starts afresh."""
    carry = Cascade(Schedule(2, 0.0, 0.5, 0.5), Schedule(2, 0.3, 0.0, 0.0), 1, 16)
    for layer in (attention("a", (9,)), attention("b", (9,))):
        spatten.layer_cost(layer, FULL, How(), carry)
    assert len(carry.living[0].places) == 4
    living = carry.enter(attention("c", lengths))
    assert [len(one.places) for one in living] == list(lengths)


def test_places_that_do_not_rise_are_refused():
    """By the layer's name."""
    with pytest.raises(Refused, match="odd: places of sequence 0"):
        simulate(Workload([attention("odd", (3,), tokens=np.array([0, 2, 1]))]), FULL)


def test_other_layers_are_left_out_with_a_reason():
    """Products, gradients, wide heads, long sequences."""
    product = Gemm("fc", rounded(np.ones((2, 4))), rounded(np.ones((3, 4))))
    layers = [
        product, attention("back", (4,), role="grad_input"), attention("wide", (4,), heads=1, width=600),
        attention("long", (2100,), heads=1, width=64), attention("bare", (4,), heads=0), attention("good", (4,)),
    ]  # fmt: skip
    found = simulate(Workload(layers), FULL)
    assert [one.name for one in found.layers] == ["good"]
    reasons = dict(found.left_out)
    assert reasons["fc"] == "SpAtten computes attention alone"
    assert reasons["back"] == "SpAtten computes no gradients"
    assert reasons["bare"] == "it multiplies nothing"
    assert "width 600" in reasons["wide"]
    assert "2100 tokens" in reasons["long"]


def test_causal_rows_see_what_came_before():
    """The k-th query works on k keys; keys are fetched once."""
    one = simulate(run((20,), 1, causal=True), FULL.varied(**UNPRUNED)).layers[0]
    assert one.effectual == 4 * 16 * 2 * 20 * 21 // 2
    assert one.detail["key_value_bytes"] == 2 * 4 * 20 * 32
    assert one.compute_cycles == one.dense_cycles


def test_pruned_values_cost_the_selector():
    """With 16 comparators, selecting among 128 takes longer than scoring them: why it is off in encoders."""
    layers = run((128,), 1, heads=2, width=64)
    plain = simulate(layers, FULL.varied(**UNPRUNED)).layers[0]
    pruned = simulate(layers, FULL.varied(**UNPRUNED, value_prune=0.5)).layers[0]
    assert pruned.detail["values_kept"] == 0.5
    assert pruned.detail["busy"]["values"] == plain.detail["busy"]["values"] / 2
    assert pruned.compute_cycles > 2 * plain.compute_cycles
    wide = simulate(layers, FULL.varied(**UNPRUNED, value_prune=0.5, comparators=64)).layers[0]
    assert wide.compute_cycles < pruned.compute_cycles


def test_eighth_has_an_eighth():
    """A long layer takes about eight times as long on the small machine."""
    layers = run((128,), 1, heads=4, width=64)
    big, small = (simulate(layers, machine_of(name)) for name in ("spatten", "spatten-eighth"))
    assert small.cycles / big.cycles == pytest.approx(8, rel=0.08)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"multipliers": 0}, "multipliers"), ({"softmax_lanes": 0}, "softmax_lanes"), ({"comparators": 0}, "comparators"),
        ({"key_lines": 0}, "key_lines"), ({"dram_channels": 12}, "power of two"), ({"dram_efficiency": 1.5}, "at most 1"),
        ({"dram_efficiency": 0.0}, "dram_efficiency"), ({"key_bits": 7}, "key_bits"), ({"value_bits": 3}, "value_bits"),
        ({"upper_bits": 12}, "upper_bits"), ({"value_prune": 1.0}, "value_prune"), ({"query_bits": 13}, "query_bits"),
        ({"token_prune_mean": 0.7}, "end is 1.4"), ({"head_prune_start": -0.1}, "start is -0.1"),
        ({"dram_latency": -1}, "dram_latency"), ({"clock_mhz": 0.0}, "clock_mhz"), ({"protected_tokens": -1}, "protected"),
    ],
)  # fmt: skip
def test_impossible_machines_are_refused(changes, said):
    """Nothing to compute with, shares beyond 1, widths that are not built."""
    with pytest.raises(Refused, match=said):
        simulate(run(layers=1), FULL.varied(**changes))


def test_designs_without_a_carry_are_asked_as_before(monkeypatch):
    """A module without start gets a layer, a machine and how alone."""
    module = ModuleType("plain_design")
    module.check = lambda machine: None
    module.layer_cost = lambda layer, machine, how: LayerCost(
        layer.name, layer.kind, layer.role, 1, 10.0, 5.0, "exact", 1.0, dram_bytes=0.0
    )
    monkeypatch.setitem(sys.modules, "plain_design", module)
    monkeypatch.setitem(DESIGNS, "spatten", "plain_design")
    found = simulate(run(layers=2), FULL)
    assert found.cycles == 10
    assert found.dense_cycles == 20


def test_later_batches_are_new_runs_of_the_same_layers():
    """Two batches of four layers: a schedule over four layers, and a cascade for each batch, of the same length or not."""
    machine = FULL.varied(token_prune_mean=0.2)
    first = list(run((20, 9), 4))
    alone = simulate(Workload(first), machine)
    again = [replace(one, name=f"{one.name}#2") for one in first]
    both = simulate(Workload(first + again), machine)
    tokens = [one.detail["tokens"] for one in both.layers]
    assert tokens[:4] == tokens[4:] == [one.detail["tokens"] for one in alone.layers]
    assert tokens[0] == [20, 9] != tokens[3]


def test_logits_with_a_bias_are_left_out():
    """The datapath adds nothing to a product."""
    layer = attention("biased", (4,))
    object.__setattr__(layer, "bias", np.zeros(64, np.float32))
    found = simulate(Workload([layer, attention("good", (4,))]), FULL)
    assert "bias" in dict(found.left_out)["biased"]


def test_stored_workload_tells_its_outline_from_the_index(tmp_path):
    """No layer is read for it; memory and disk say the same."""
    layers = Workload([attention("a", (3,)), Gemm("fc", rounded(np.ones((2, 4))), rounded(np.ones((3, 4))))])
    layers.save(tmp_path / "trace")
    for file in (tmp_path / "trace").glob("layer-*"):
        file.unlink()
    assert Workload.load(tmp_path / "trace").outline == layers.outline == (("a", "attention"), ("fc", "gemm"))
