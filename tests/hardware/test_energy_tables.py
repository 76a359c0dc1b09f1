"""Energy is linear in what happened, and a table is a table: swapped, scaled, refused by name."""

from pathlib import Path

import numpy as np
import pytest

from sparsam.errors import Refused, Usage
from sparsam.hardware import How, machines, simulate
from sparsam.hardware.energy import FOLDER, PARTS, EnergyTable, energy_pj, energy_table
from sparsam.workload import Gemm, Tensor, Workload

TABLES = sorted(file.stem for file in FOLDER.glob("*.toml"))
ONE = EnergyTable("one", "one event", 40, {"hop": (2.0, "compute", "a test")})


def small() -> Workload:
    """One product of small integers."""
    draw = np.random.default_rng(0)
    a, b = (Tensor(draw.integers(-3, 4, shape).astype(np.int8), "int8") for shape in ((9, 40), (7, 40)))
    return Workload([Gemm("one", a, b)])


def test_one_event_costs_its_number() -> None:
    """A table of one event gives counts times its picojoules, in its part."""
    assert energy_pj({"hop": 3}, ONE) == dict.fromkeys(PARTS, 0.0) | {"compute": 6.0}


@pytest.mark.parametrize("name", TABLES)
def test_energy_is_linear_in_counts(name: str) -> None:
    """Twice the events take twice the energy, and events of two runs add up."""
    table, draw = energy_table(name), np.random.default_rng(1)
    one, two = ({x: float(draw.integers(0, 1000)) for x in table.picojoules} for _ in range(2))
    both = {x: 2 * one[x] + two[x] for x in one}
    for part in PARTS:
        expected = 2 * energy_pj(one, table)[part] + energy_pj(two, table)[part]
        assert energy_pj(both, table)[part] == pytest.approx(expected)


def test_unknown_and_negative_events_are_refused() -> None:
    """What a table has no number for is not counted as nothing."""
    with pytest.raises(Refused, match="table one has no number for 'leap'; it has hop") as raised:
        energy_pj({"leap": 1}, ONE)
    assert raised.value.code == "energy-event"
    with pytest.raises(Refused, match="hop happened -1 times"):
        energy_pj({"hop": -1}, ONE)
    with pytest.raises(Usage, match="no energy table is called 'nothing'; there are default40"):
        energy_table("nothing")


def test_tables_know_the_same_events_each_with_a_source() -> None:
    """Any design runs with any table; every number is positive, has a part and says where it is from."""
    assert {"default40", "horowitz45"} <= set(TABLES)
    known = set(energy_table("default40").picojoules)
    for name in TABLES:
        table = energy_table(name)
        assert set(table.picojoules) == known, name
        for event, (pj, part, source) in table.picojoules.items():
            assert pj > 0 and part in PARTS and len(source) > 5, (name, event)
        assert table.about and table.node_nm > 0


def test_a_table_from_memory_says_so() -> None:
    """Numbers that nobody has checked are marked, in the file itself."""
    text = (Path(FOLDER) / "horowitz45.toml").read_text()
    assert text.count("from memory, not checked against the paper") >= 5


def test_swapping_tables_changes_energy_alone() -> None:
    """Cycles, bytes and events are as they were; only picojoules and the table's name differ."""
    machine = machines()["systolic-os"]
    first, second = (simulate(small(), machine, How(), table=name) for name in ("default40", "horowitz45"))
    assert (first.constants, second.constants) == ("default40", "horowitz45")
    assert first.energy_pj != second.energy_pj
    for one, two in zip(first.layers, second.layers, strict=True):
        assert one.cycles == two.cycles and one.dram_bytes == two.dram_bytes and one.events == two.events


@pytest.mark.parametrize("name", TABLES)
def test_scaling_shrinks_the_chip_and_not_the_memory_outside(name: str) -> None:
    """Half the feature size is half the energy on the chip; memory outside stays; back again is where it was."""
    table = energy_table(name)
    half = table.scaled(table.node_nm / 2)
    assert half.name == f"{name}@{table.node_nm / 2:g}nm"
    for event, (pj, part, _) in table.picojoules.items():
        assert half.picojoules[event][0] == pytest.approx(pj if part == "dram" else pj / 2)
        assert half.scaled(table.node_nm).picojoules[event][0] == pytest.approx(pj)
