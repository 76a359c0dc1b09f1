"""A machine whose clock stands still: what a model takes there is counted, so no test waits for one."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sparsam.models import plan_of
from sparsam.models.apply import units_of
from sparsam.search import Speed


@dataclass
class Clockwork:
    """A head takes 1 ms, ten filters as long, everything else 2 ms; in integers ``integers`` times as much."""

    integers: float = 0.5


@pytest.fixture
def clockwork(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clockwork:
    """Tables and timers of that machine, for models of three layers of 4 heads and 44 filters."""
    tables, searching = (sys.modules[f"sparsam.{name}"] for name in ("search.tables", "compress.timer"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    machine = Clockwork()

    def measured(block: Any, profile: Any, progress: Any) -> Any:
        total, factor = sum(profile["lengths"]), machine.integers if profile["products"] == "int8" else 1.0
        rows = len(profile["lengths"])
        heads, filters = tuple(range(5)), tuple(tables.offered_filters(profile["filters"]))
        of_heads = tables.Table(
            heads, (1, total), tuple((factor * one / total, factor * one) for one in heads)
        )
        each = [0.1 * factor * one for one in filters]
        of_filters = tables.Table(  # a row each, as the last layer's are: as long as all
            filters, (rows, rows + 1, total), tuple((one, one * (rows + 1) / total, one) for one in each)
        )
        return tables.Tables(tables.facts_here(), profile, of_heads, of_heads, of_filters)

    def of(timer: Any, model: Any, rounds: int = 5) -> Any:
        plan = plan_of(model)
        factor = machine.integers if plan is not None and plan.layers[0].formats else 1.0
        dense, own = (
            2.0 + each * sum(h + 0.1 * f for h, f in units)
            for units, each in (([(4, 44)] * 3, 1.0), (units_of(model), factor))
        )
        size = 1 if timer.single else len(timer.batches[0].lengths if texts_in(timer) else timer.batches[0])
        found = Speed(
            (1000 * size / dense, 1000 * size / own),
            (dense, own),
            (1.0, dense / own),
            (1.0, own / dense),
            1.0,
        )
        return own / dense, found

    def texts_in(timer: Any) -> bool:
        return hasattr(timer.batches[0], "lengths")

    monkeypatch.setattr(tables, "_measured", measured)
    monkeypatch.setattr(searching.Timer, "of", of)
    return machine
