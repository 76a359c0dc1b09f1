"""Generation on SpAtten: the cache that shrinks, planes on demand, and what is fetched."""

from dataclasses import replace

import numpy as np
import pytest

from sparsam.errors import Refused
from sparsam.hardware.machine import machine_of
from sparsam.hardware.spatten_generation import Decoder, Pruning, generate
from sparsam.hardware.spatten_pipeline import Engine
from sparsam.hardware.spatten_rows import channel_load

ENGINE = Engine.of(machine_of("spatten"))
DECODER = Decoder.random(4, 4, 16, tokens=64, sharp=1.0)
PROMPT = np.random.default_rng(1).integers(0, 256, 33)
PRUNING = Pruning((1.0, 0.7, 0.5, 0.3), 0.25, 6, 4, 6)


def test_pruned_cache_generates_what_a_masked_full_one_does():
    """Same tokens, same hidden states within 1e-5, same rows, step by step."""
    for bits in (6, 8):
        pruning = replace(PRUNING, value_bits=bits)
        small, full = (
            generate(DECODER, PROMPT, 10, pruning, ENGINE, masked=masked) for masked in (False, True)
        )
        assert small.tokens == full.tokens
        assert np.allclose(small.hidden, full.hidden, atol=1e-5)
        assert np.array_equal(small.rows.keys, full.rows.keys)
        assert all(
            np.array_equal(a, b)
            for x, y in zip(small.ids, full.ids, strict=True)
            for a, b in zip(x, y, strict=True)
        )


def test_living_tokens_are_nested_and_the_newest_stays():
    """Each layer's keys are among those of the layer before and, but for the newest, of the step before."""
    found = generate(DECODER, PROMPT, 8, PRUNING, ENGINE)
    rows, ids = found.rows, {}
    for number, (keys, values) in enumerate(found.ids):
        step, layer = int(rows.iteration[number]), int(rows.layer[number])
        newest = len(PROMPT) - 1 + step
        assert newest in keys
        assert set(values) <= set(keys)
        assert len(keys) == rows.keys[number]
        assert len(values) == rows.values[number]
        if layer:
            assert set(keys) <= set(ids[step, layer - 1])
        if step:
            assert set(keys) - {newest} <= set(ids[step - 1, layer])
        ids[step, layer] = keys
    assert rows.keys[rows.iteration == 0].min() == len(PROMPT)
    assert rows.keys[(rows.iteration == 3) & (rows.layer == 3)].tolist() == [int(0.3 * len(PROMPT))] * 4


def test_every_kept_vector_is_fetched_once_and_low_planes_of_unsure_rows():
    """Bytes are counts times vectors; the channels' loads are never below their mean."""
    found = generate(DECODER, PROMPT, 6, PRUNING, ENGINE)
    taken = found.rows.bytes
    assert 0 < found.rows.refetch.mean() < 1
    line = 16  # a head's half of the 32 bytes that two heads' 24 take
    assert taken["keys"].tolist() == [line * len(keys) for keys, _ in found.ids]
    assert taken["values"].tolist() == [line * len(values) for _, values in found.ids]
    assert (taken["low"] > 0).tolist() == (found.rows.refetch == 1).tolist()
    assert (found.fetch["keys"] * ENGINE.rate >= taken["keys"]).all()
    assert found.cost(ENGINE).cycles > found.cost(ENGINE).interval


def test_no_channel_moves_more_than_a_transaction_a_cycle():
    """Transactions of each channel, all rows together, fit into the cycles that the fetcher worked."""
    found = generate(DECODER, PROMPT, 6, replace(PRUNING, upper_bits=8, value_bits=8), ENGINE)
    moved = np.zeros(16, np.int64)
    for (keys, values), again in zip(found.ids, found.rows.refetch, strict=True):
        for ids, times in (
            (keys, 1 + again),
            (values, 1),
        ):  # 8 bits and low planes of width 16 take a transaction each
            moved += times * channel_load(ids, 32, 16)
    taken = found.cost(ENGINE)
    assert moved.max() <= taken.busy["fetch"]
    assert moved.sum() * 32 == sum(taken.bytes.values())


def test_thresholds_fetch_none_some_all():
    """0, 0.1 and above 1; more low planes cost more cycles."""
    found = [generate(DECODER, PROMPT, 5, replace(PRUNING, threshold=at), ENGINE) for at in (0.0, 0.1, 1.1)]
    shares = [one.rows.refetch.mean() for one in found]
    assert shares[0] == 0 < shares[1] < shares[2] == 1
    assert found[0].cost(ENGINE).cycles < found[2].cost(ENGINE).cycles


def test_nothing_pruned_sees_the_whole_cache():
    """Each row works on all tokens so far; both planes give what keys of 12 bits in one give."""
    everything = Pruning((1.0,) * 4, 1.0, 8, 4, 8, threshold=1.1)
    found = generate(DECODER, PROMPT, 5, everything, ENGINE)
    assert np.array_equal(found.rows.keys, len(PROMPT) + found.rows.iteration)
    assert found.select.sum() == 0
    assert found.rows.refetch.all()
    whole = generate(DECODER, PROMPT, 5, replace(everything, upper_bits=12, low_bits=0), ENGINE)
    assert whole.tokens == found.tokens
    assert np.array_equal(whole.hidden, found.hidden)
    upper = generate(DECODER, PROMPT, 5, replace(everything, threshold=0.0), ENGINE)
    assert not np.array_equal(upper.hidden, found.hidden)


def test_importance_grows_by_one_a_row():
    """The prompt's probabilities and each row's sum to the number of rows."""
    found = generate(DECODER, PROMPT, 5, PRUNING, ENGINE)
    rows = 4 * 4 * (len(PROMPT) - 1) + len(found.rows)
    assert found.importance.sum() == pytest.approx(rows, rel=1e-5)


def test_machine_gives_widths_and_threshold():
    """What its file says."""
    pruning = Pruning.of(machine_of("spatten"), (1.0,))
    assert (pruning.upper_bits, pruning.low_bits, pruning.value_bits, pruning.threshold) == (6, 4, 6, 0.1)
    assert pruning.values == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("tokens", "said"),
    [((1.0,), "1 shares for 4 layers"), ((0.5, 0.6, 0.5, 0.4), "falling"), ((1.0, 0.5, 0.2, 0.0), "above 0")],
)
def test_impossible_pruning_is_refused(tokens, said):
    """Another number of layers, shares that rise, nothing left."""
    with pytest.raises(Refused, match=said):
        generate(DECODER, PROMPT, 2, Pruning(tokens), ENGINE)


def test_too_many_tokens_are_refused():
    """More than the decoder has places for."""
    with pytest.raises(Refused, match="64 places"):
        generate(DECODER, PROMPT, 40, PRUNING, ENGINE)
