"""Tables of this machine: what they hold, that another machine's are refused, and prices made of them."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sparsam.errors import Refused
from sparsam.models import lift
from sparsam.models.apply import units_of
from sparsam.runtime import freeze, frozen
from sparsam.runtime import integers as in_integers
from sparsam.runtime.encoder import machine
from sparsam.search import tables
from sparsam.search.compose import Curve, between, in_bytes, in_time, price_of
from sparsam.search.integers import quickly_in_integers
from sparsam.search.speed import batches_of, compare
from sparsam.search.tables import Table, Tables, facts_here, offered_filters, tables_of
from sparsam.structure.ftpp import Scores, search


@pytest.fixture
def made(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tables:
    monkeypatch.setattr(tables, "SWEEPS", 2)
    return tables_of(lift(tiny.build("bert")), [5, 9, 12], "float32", cache=tmp_path)


def test_a_table_has_every_number_of_units(made: Tables, tmp_path: Path) -> None:
    """Heads from none to all, filters in steps, tokens from one a sequence to the whole batch; and it is kept."""
    assert made.attention.units == (0, 1, 2, 3, 4) == made.last_attention.units
    assert made.ffn.units == (0, 16, 32, 44)
    assert made.ffn.tokens[0] == 3 and made.ffn.tokens[-1] == 26
    assert all(time > 0 for row in made.ffn.times for time in row)
    (file,) = tmp_path.glob("*.json")
    assert Tables.load(file) == made


def test_a_second_search_measures_nothing(
    made: Tables, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same machine, format, layer and lengths: read from the cache; other lengths are measured."""
    monkeypatch.setattr(tables, "_measured", lambda *args: pytest.fail("measured again"))
    model = lift(tiny.build("bert"))
    assert tables_of(model, [5, 9, 12], "float32", cache=tmp_path) == made
    with pytest.raises(pytest.fail.Exception):
        tables_of(model, [5, 9, 13], "float32", cache=tmp_path)


def test_another_machines_table_is_refused(made: Tables, tmp_path: Path) -> None:
    """Named with what differs; a file that is none is refused, too."""
    other = dataclasses.replace(made, machine=made.machine | {"processor": "Z80", "threads": 1_000})
    other.save(tmp_path / "other.json")
    with pytest.raises(Refused, match="measured on another machine.*processor 'Z80'.*threads 1000, here"):
        Tables.load(tmp_path / "other.json")
    for text in ('{"schema": 2}', '{"schema": 7}', '{"schema": 2, "attention": []}'):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(Refused, match="not a table of times"):
            Tables.load(tmp_path / "bad.json")
    assert json.loads(json.dumps(facts_here())) == facts_here()


@pytest.mark.parametrize("integers", [False, True])
@pytest.mark.parametrize("compiler", [False, True])
def test_what_freezing_would_run_is_what_is_timed(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, integers: bool, compiler: bool
) -> None:
    """In two calls a layer where there is a compiler, else as blocks; each has a table of its own, and so have integers."""
    if compiler and machine() is None:
        pytest.skip("no compiler")
    if not compiler:
        monkeypatch.setattr(frozen, "machine", lambda: None)
        monkeypatch.setattr(in_integers, "machine", lambda: None)
    monkeypatch.setattr(tables, "SWEEPS", 1)
    model = lift(tiny.build("bert"))
    found = tables_of(
        model, [5, 9, 12], "bfloat16" if integers else "float32", integers=integers, cache=tmp_path
    )
    assert found.profile["products"] == ("int8" if integers else "float32")
    made = quickly_in_integers(model) if integers else model
    assert found.profile["calls"] == (freeze(made, dtype="float32").encoder.stack.layers is not None)
    assert (found.out is not None) == found.profile["calls"]
    if found.out is not None:
        assert found.out.units == found.attention.units and found.out.tokens == found.ffn.tokens
        assert not any(found.out.times[0]) and min(map(min, found.out.times)) == 0
    (file,) = tmp_path.glob("*.json")
    assert Tables.load(file) == found


def test_the_output_product_is_paid_for_by_tokens_that_go_on() -> None:
    """Heads that many tokens ask, of which few go on: most of the price is the attention's."""
    heads = Table((0, 1), (4, 40), ((0.0, 0.0), (0.2, 2.0)))
    out = Table((0, 1), (4, 40), ((0.0, 0.0), (0.1, 1.0)))
    made = Tables(facts_here(), {"lengths": [10] * 4}, heads, heads, heads, out)
    curve = Curve(0.5, (1.0, 0.5), (0.1, 0.5))
    prices = in_time(made, curve, [(1, 1)] * 2, limit=9.0, fixed=0.0, alone=True)
    assert prices.heads[0][1].tolist() == [0.0, pytest.approx(2.1)]
    assert prices.heads[1][1].tolist() == [0.0, pytest.approx(1.1)]  # the last layer: one token a sequence


def test_times_between_tokens_are_interpolated() -> None:
    """And in proportion beyond the table."""
    table = Table((0, 1), (10, 20), ((1.0, 3.0), (2.0, 6.0)))
    assert table.at(15).tolist() == [2.0, 4.0]
    assert table.at(40).tolist() == [6.0, 12.0]
    assert table.at(1).tolist() == [1.0, 2.0]


def test_filters_on_offer() -> None:
    """Multiples of 16, about fifty of them, none and all."""
    for count in (44, 512, 1536, 3072):
        found = offered_filters(count)
        assert found[0] == 0 and found[-1] == count and len(found) <= 60
        assert all(number % 16 == 0 for number in found[:-1])


def test_curves_are_interpolated() -> None:
    """Between two strengths; no rule is a curve, too."""
    half = Curve(0.5, (1.0, 0.4), (0.5, 0.2), 0.2)
    found = between([half, Curve.whole(2)], 0.75)
    assert (found.macs, found.attention) == (0.75, (1.0, 0.7))
    assert found.ffn == pytest.approx((0.75, 0.6)) and found.divergence == pytest.approx(0.1)


def test_prices_follow_survivors_and_search_keeps_them() -> None:
    """Units that few tokens reach are cheap; what the knapsack keeps is within the limit by the same prices."""
    heads = Table((0, 1, 2), (4, 40), ((0.1, 0.5), (0.2, 1.5), (0.3, 2.5)))
    ffn = Table((0, 16, 32), (4, 40), ((0.1, 0.4), (0.3, 2.0), (0.5, 4.0)))
    made = Tables(facts_here(), {"lengths": [10, 10, 10, 10]}, heads, heads, ffn)
    curve = Curve(0.5, (1.0, 0.5, 0.25), (0.5, 0.25, 0.1))
    prices = in_time(made, curve, [(2, 32)] * 3, limit=6.0, fixed=0.5, alone=True)
    assert [p[1][1] for p in prices.heads] == sorted((p[1][1] for p in prices.heads), reverse=True)
    assert prices.filters[2][1].tolist() == [0.1, 0.3, 0.5]  # one token a sequence
    draw = np.random.default_rng(0)
    scores = Scores(tuple(draw.random(2) for _ in range(3)), tuple(draw.random(32) for _ in range(3)))
    keep = search(scores, prices)
    units = [(int(h.sum()), int(f.sum())) for h, f in keep]
    assert price_of(prices, units) <= 6.0
    assert all(f % 16 == 0 for _, f in units)
    small = in_time(made, curve, [(1, 20)] * 3, limit=6.0, fixed=0.5, alone=True)
    assert small.heads[0][0].tolist() == [0, 1] and small.filters[0][0].tolist() == [0, 16, 20]


def test_bytes_are_those_of_the_weights(tiny: Any) -> None:
    """A head's and a filter's price is what the model has fewer of parameters without it."""
    model = lift(tiny.build("bert"))
    from sparsam.models.apply import cut
    from sparsam.plan import LayerPlan

    prices = in_bytes(32, 8, units_of(model), 1, budget=0.0, fixed=0.0)
    before = 4 * sum(p.numel() for p in model.parameters())
    cut(model, [LayerPlan((0, 1), tuple(range(40))), LayerPlan(), LayerPlan()])
    after = 4 * sum(p.numel() for p in model.parameters())
    assert before - after == 2 * prices.heads[0][1][1] + 4 * prices.filters[0][1][1]


@pytest.mark.parametrize("bits", [8, 4, 3])
def test_bytes_of_integers_are_those_of_the_file(tiny: Any, bits: int) -> None:
    """Scales, and half bytes of an odd number of filters, included; a half of nothing has its bias alone."""
    from sparsam.compress import weight_bytes
    from sparsam.models.apply import cut
    from sparsam.plan import LayerPlan

    model = lift(tiny.build("bert"))
    prices = in_bytes(32, 8, units_of(model), 1, budget=0.0, fixed=0.0, bits=bits)
    before = weight_bytes(quickly_in_integers(model, bits))
    cut(model, [LayerPlan((0, 1), tuple(range(41))), LayerPlan((), ()), LayerPlan()])
    saved = before - weight_bytes(quickly_in_integers(model, bits))
    of_heads, of_filters = prices.heads[0][1], prices.filters[0][1]
    assert (
        saved
        == (of_heads[4] - of_heads[2]) + of_heads[4] + (of_filters[44] - of_filters[41]) + of_filters[44]
    )
    assert of_heads[0] == of_filters[0] == 0


def test_models_are_timed_in_turn(tiny: Any) -> None:
    """The first one is the measure: its own ratios are one, and the others' come with it."""
    from sparsam.task import Encoded

    rows = [[2, *range(4, 4 + n), 3] for n in (3, 9, 5, 1, 7)]
    encoded = Encoded(np.zeros(5, np.int64), rows)
    batches = batches_of(encoded, 2)
    assert [batch.lengths.tolist() for batch in batches] == [[5, 11], [7, 3], [9]]
    frozen = freeze(tiny.build("bert"), dtype="float32")
    found = compare([frozen, frozen], batches, 5, rounds=3)
    assert found.ratios[0] == found.latency_ratios[0] == 1.0
    assert found.throughput[0] > 0 and found.spread >= 1.0
    pixels = Encoded(np.zeros(3, np.int64), pixel_values=np.zeros((3, 3, 8, 8), np.float32))
    assert [tuple(batch.shape) for batch in batches_of(pixels, 2)] == [(2, 3, 8, 8), (1, 3, 8, 8)]
    assert torch.is_tensor(batches_of(pixels, 2)[0])
