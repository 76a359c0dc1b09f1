"""A grid of parameters: how it is read, what is worth having, that it goes on where it stopped, and on several processes."""

import json

import fake_design
import pytest
from fake_design import machine_file

from sparsam.errors import InputOutput, Refused, Usage
from sparsam.hardware import explore as exploring
from sparsam.hardware.explore import FILE, explore, pareto, values_of
from sparsam.hardware.machine import Parameter, read_machine
from sparsam.hardware.simulate import How, simulate
from sparsam.report.explored import markdown_of, page_of
from sparsam.workload import Workload


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("lanes=1..4", (1, 2, 3, 4)),
        ("lanes=8,16,32", (8, 16, 32)),
        ("lanes = 1..2, 8", (1, 2, 8)),
        ("lanes=4,4,2..4", (4, 2, 3)),
        ("dram_gb_per_s=1,2.5", (1.0, 2.5)),
        ("order=patent,other", ("patent", "other")),
        ("two_sided=true,false", (True, False)),
    ],
)
def test_values_are_of_the_parameters_kind(fake, text, values):
    """Ranges and lists of whole numbers, numbers, words, and yes and no."""
    machine = read_machine(fake)
    more = {"order": Parameter("patent", "", "x"), "two_sided": Parameter(True, "", "x")}
    machine = type(machine)("fake", "fake", "", "", dict(machine.parameters) | more)
    found = values_of(machine, text)[1]
    assert found == values
    assert [type(one) for one in found] == [type(one) for one in values]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("lanes", "explore-vary"), ("lanes=", "explore-vary"), ("lanes=a", "explore-vary"), ("lanes=4..1", "explore-vary"),
        ("lanes=1.5", "explore-vary"), ("lanes=1..99999999999", "explore-vary"), ("lines=1..2", "machine-parameter"),
        ("dram_gb_per_s=inf", "explore-vary"), ("dram_gb_per_s=1..2", "explore-vary"), ("lanes=1,,2", "explore-vary"),
    ],
)  # fmt: skip
def test_values_that_cannot_be_read_are_named(fake, text, code):
    """The parameter or value that is off stands in the error, with what is expected."""
    with pytest.raises(Usage) as caught:
        values_of(read_machine(fake), text)
    assert caught.value.code == code


def test_front_is_what_no_other_beats():
    """Fewer of one and no more of the other; equals stand beside each other; None is no point."""
    costs = [(1.0, 9.0), (2.0, 5.0), (2.0, 6.0), (3.0, 5.0), None, (2.0, 5.0), (9.0, 1.0)]
    assert pareto(costs) == [True, True, False, False, False, True, True]
    assert pareto([(1.0, 1.0), (1.0 + 1e-13, 1.0 - 1e-13)]) == [True, True]
    assert pareto([]) == []


def test_grid_holds_every_combination_with_the_figures_of_one_simulation(fake, trace, tmp_path):
    """Each point is what simulating that machine alone gives, in the order of the grid."""
    found = explore(
        trace, read_machine(fake), {"lanes": (8, 16), "depth": (1, 2, 3)}, tmp_path / "out", workers=1
    )
    assert [tuple(point.values.values()) for point in found.points] == [
        (8, 1), (8, 2), (8, 3), (16, 1), (16, 2), (16, 3)
    ]  # fmt: skip
    for point in found.points:
        alone = simulate(Workload.load(trace), read_machine(fake).varied(**point.values))
        assert point.cycles == alone.cycles
        assert point.energy_pj == alone.energy_pj
        assert point.left_out == 1
    assert any(point.on_front for point in found.points)
    assert json.loads((tmp_path / "out" / FILE).read_text())["points"][0]["values"] == {
        "lanes": 8,
        "depth": 1,
    }


def test_machines_that_cannot_be_are_said_and_left_out(fake, trace, tmp_path):
    """No lanes, or a depth that the design finds impossible on the way, ends that point alone."""
    found = explore(
        trace, read_machine(fake), {"lanes": (0, 8), "depth": (1, 7)}, tmp_path / "out", workers=1
    )
    refused = {tuple(point.values.values()): point.refused for point in found.points if point.refused}
    assert set(refused) == {(0, 1), (0, 7), (8, 7)}
    assert "lanes of machine fake[lanes=0,depth=1] is 0" in refused[0, 1]
    assert "7 is unlucky" in refused[8, 7]
    assert not any(point.on_front for point in found.points if point.refused)
    for text in (page_of(found), markdown_of(found)):
        assert "7 is unlucky" in text
    with pytest.raises(Refused, match="no point of the grid is a machine"):
        explore(trace, read_machine(fake), {"lanes": (0, 65)}, tmp_path / "none", workers=1)


def test_points_that_stand_there_are_not_simulated_again(fake, trace, tmp_path, monkeypatch):
    """A wider grid takes over what it can; another seed, trace or value starts anew; the file of the end is the same."""
    machine, out = read_machine(fake), tmp_path / "out"
    explore(trace, machine, {"lanes": (8, 16)}, out, workers=1)
    begun = []
    real = exploring.point_of
    monkeypatch.setattr(exploring, "point_of", lambda job: begun.append(dict(job.values)) or real(job))
    wider = explore(trace, machine, {"lanes": (8, 16, 32)}, out, workers=1)
    assert begun == [{"lanes": 32}]
    assert wider.reused == 2
    begun.clear()
    explore(trace, machine, {"lanes": (8,)}, out, How(seed=1), workers=1)
    explore(trace, machine.varied(depth=2), {"lanes": (8,)}, out, workers=1)
    assert len(begun) == 2
    begun.clear()
    explore(trace, machine, {"lanes": (8, 16, 32)}, out, workers=1)  # of the first grid: still there
    assert begun == []
    other = fake_design.small_workload(zeros=0.1)
    other.save(tmp_path / "other")
    explore(tmp_path / "other", machine.varied(depth=2), {"lanes": (8,)}, out, workers=1)
    assert len(begun) == 1


def test_what_was_done_before_an_interruption_is_kept(fake, trace, tmp_path, monkeypatch):
    """A run stopped in its third point goes on with the third."""
    machine, out = read_machine(fake), tmp_path / "out"
    real, begun = exploring.point_of, []

    def stopping(job):
        if len(begun) == 2:
            raise KeyboardInterrupt
        begun.append(job.values["lanes"])
        return real(job)

    monkeypatch.setattr(exploring, "point_of", stopping)
    with pytest.raises(KeyboardInterrupt):
        explore(trace, machine, {"lanes": (1, 2, 4, 8)}, out, workers=1)
    monkeypatch.setattr(exploring, "point_of", lambda job: begun.append(job.values["lanes"]) or real(job))
    found = explore(trace, machine, {"lanes": (1, 2, 4, 8)}, out, workers=1)
    assert begun == [1, 2, 4, 8]
    assert found.reused == 2
    assert len({point.cycles for point in found.points}) == 4


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", '{"kind": "other", "schema": 1}',
        '{"kind": "sparsam-exploration", "schema": 1, "points": [{"key": 1}], "earlier": []}',
        '{"kind": "sparsam-exploration", "schema": 1, "points": [{"key": "a", "values": {}, "cycles": "many"}], "earlier": []}',
    ],
)  # fmt: skip
def test_a_damaged_file_is_refused_and_kept(fake, trace, tmp_path, text):
    """Points that cannot be read are neither trusted nor overwritten."""
    out = tmp_path / "out"
    out.mkdir()
    (out / FILE).write_text(text)
    with pytest.raises(InputOutput, match="cannot be taken up again"):
        explore(trace, read_machine(fake), {"lanes": (8,)}, out, workers=1)
    assert (out / FILE).read_text() == text


def test_limits_of_a_grid_are_said(fake, trace, tmp_path):
    """Too many points, none, and no worker are named."""
    machine = read_machine(fake)
    with pytest.raises(Usage, match=r"10,000 points; at most 4,096"):
        explore(trace, machine, {"lanes": range(1, 101), "depth": range(1, 101)}, tmp_path / "out")
    with pytest.raises(Usage, match="name at least one parameter"):
        explore(trace, machine, {}, tmp_path / "out")
    with pytest.raises(Usage, match="workers must be 1 or more"):
        explore(trace, machine, {"lanes": (1,)}, tmp_path / "out", workers=0)


def test_several_processes_give_the_points_of_one(fake, trace, tmp_path, monkeypatch):
    """The same file, whichever process made which point, apart from the seconds they took."""
    monkeypatch.setattr(exploring, "_one_thread", fake_design.register)
    machine, grid = read_machine(fake), {"lanes": (4, 8, 16), "depth": (1, 7)}
    told = []
    here = explore(trace, machine, grid, tmp_path / "here", workers=1).to_json()
    there = explore(
        trace, machine, grid, tmp_path / "there", workers=2, progress=lambda *done: told.append(done)
    ).to_json()
    for one in (*here["points"], *there["points"]):
        one["seconds"] = 0
    assert here == there
    assert told == [(done, 6) for done in range(1, 7)]


def test_an_error_in_another_process_keeps_its_name(fake, tmp_path, monkeypatch):
    """What is wrong with a layer arrives with its code and the layer."""
    monkeypatch.setattr(exploring, "_one_thread", fake_design.register)
    fake_design.small_workload("boom.").save(tmp_path / "bad")
    with pytest.raises(
        Refused, match=r"boom\.encoder\.0\.up: counters of 32 bits overflow at 5000000000"
    ) as caught:
        explore(tmp_path / "bad", read_machine(fake), {"lanes": (1, 2)}, tmp_path / "out", workers=2)
    assert caught.value.code == "layer-overflow"


@pytest.mark.slow  # starts a Ray cluster
@pytest.mark.timeout(300)
def test_a_ray_cluster_gives_the_points_of_one_process(tmp_path, monkeypatch):
    """The same points from the workers of a cluster."""
    pytest.importorskip("ray")
    from pathlib import Path

    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    monkeypatch.setitem(exploring.design_of.__globals__["DESIGNS"], "fake", "fake_design")
    machine = read_machine(machine_file(tmp_path))
    fake_design.small_workload().save(tmp_path / "trace")
    monkeypatch.setattr(exploring, "_one_thread", fake_design.register)
    grid = {"lanes": (4, 8, 16)}
    here = explore(tmp_path / "trace", machine, grid, tmp_path / "here", workers=1)
    there = explore(tmp_path / "trace", machine, grid, tmp_path / "there", ray="local")
    assert [one.cycles for one in here.points] == [one.cycles for one in there.points]


def test_a_cluster_that_does_not_answer_is_named(fake, trace, tmp_path):
    """Ray would wait for minutes; the address is tried first."""
    pytest.importorskip("ray")
    with pytest.raises(InputOutput, match=r"no Ray cluster answers at '127\.0\.0\.1:1'"):
        explore(trace, read_machine(fake), {"lanes": (1,)}, tmp_path / "out", ray="127.0.0.1:1")
