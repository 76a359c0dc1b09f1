"""The report on simulated machines: what stands on it for figures that can be counted, and that foreign words stay text."""

import json
import re

import numpy as np
import pytest
from fake_design import machine_file, small_workload

from sparsam.errors import InputOutput, Refused, Usage
from sparsam.hardware.energy import energy_table
from sparsam.hardware.machine import read_machine
from sparsam.hardware.simulate import How
from sparsam.hardware.simulation import SAYS, Simulation, simulate_on
from sparsam.hardware.writing import folder_for, json_text, plain_json, write_whole
from sparsam.report.bars import scatters, share_of, stacked
from sparsam.report.hardware import by_reason, cell, markdown_of, page_of, seconds_words, write_simulation
from sparsam.workload import Workload

HOSTILE = (
    "<script>alert(1)</script>", "\"><img src=x onerror=alert(1)>", "{{ 7 * 7 }}", "a|b\n# c", "\u202egnp.exe\x1b[31m",
    "](http://evil.example) `x` *y* _z_",
)  # fmt: skip


@pytest.fixture
def simulation(fake) -> Simulation:
    """The small workload on two made-up machines, one of them starved of memory."""
    slow = machine_file(fake.parent, "starved", bandwidth=0.05)
    machines = [read_machine(fake).varied(depth=3), read_machine(slow)]
    return simulate_on(small_workload(), machines, How(), name="tiny trace")


def text_of(page: str) -> str:
    """The words of a page."""
    import html

    return html.unescape(re.sub(r"<[^>]+>", "", re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)))


def test_page_says_that_its_figures_are_simulated(simulation):
    """The sentence stands at the head of the page, in the table, and in the JSON."""
    page = page_of(simulation)
    assert SAYS in text_of(page).split("Speedup over")[0]
    assert SAYS in markdown_of(simulation)
    assert simulation.to_json()["says"] == SAYS


def test_page_shows_the_figures_of_each_machine(simulation):
    """Speedups alone and with memory, energy by part, bytes, shares, modes and sources stand on page and table."""
    page, table = text_of(page_of(simulation)), markdown_of(simulation)
    for cost in simulation.costs:
        for shown in (
            f"{cost.compute_speedup:.2f}×",
            f"{cost.speedup:.2f}×",
            f"{100 * cost.utilisation:.1f} %",
        ):
            assert shown in page
            assert shown in table
        assert f"{cost.cycles:,.0f}" in table
        assert f"{cost.dram_bytes:.0f} B" in page or f"{cost.dram_bytes / 1e3:.2f} kB" in page
    assert simulation.costs[1].memory_bound == 1.0
    assert simulation.costs[0].memory_bound == 0.0
    for shown in (
        "100.0 %",
        "default40",
        "aladdin plug-in",
        "from memory, not checked against the paper",
        "2 of 3",
    ):
        assert shown in page
    assert "multipliers" in table


def test_layers_left_out_stand_with_the_reason(simulation):
    """Page, table and JSON name each layer that a design does not compute, and why."""
    assert "encoder.0.attention: it does products with weights alone" in text_of(page_of(simulation))
    assert "- it does products with weights alone: encoder.0.attention" in markdown_of(simulation)
    assert simulation.to_json()["machines"][0]["left_out"] == [
        {"layer": "encoder.0.attention", "reason": "it does products with weights alone"}
    ]


def test_layers_left_out_for_one_reason_stand_together():
    """Forty layers with one reason are one line, their names still to be had."""
    many = [(f"layer {at}", "it does attention alone") for at in range(40)] + [("x", "too odd")]
    assert [line[:2] for line in by_reason(many)] == [
        ("40 layers, layer 0 to layer 39", "it does attention alone"), ("x", "too odd")
    ]  # fmt: skip
    assert by_reason(many)[0][2] == [f"layer {at}" for at in range(40)]


def test_every_layer_of_every_machine_is_listed(simulation):
    """The tables of layers hold each computed layer with its multiplications."""
    table = markdown_of(simulation)
    assert table.count("| encoder.0.up |") == 2
    assert table.count(f"{24 * 32 * 48:,}") == 2
    assert "skipped" in text_of(page_of(simulation))


def test_sampled_figures_stand_with_their_error(fake):
    """A sampled layer's standard error is a share of its cycles; the sum's is smaller than either's."""
    found = simulate_on(small_workload(), [read_machine(fake)], How("sampled"))
    assert "sampled ± 1 %" in text_of(page_of(found))
    assert found.costs[0].error < 0.01 * found.costs[0].cycles


def test_scaled_tables_are_named_as_such(fake):
    """Constants for another process carry its size in their name, on page and table."""
    found = simulate_on(small_workload(), [read_machine(fake)], table=energy_table("default40").scaled(28))
    assert "default40@28nm" in text_of(page_of(found))
    assert "default40@28nm" in markdown_of(found).replace("\\", "")


@pytest.mark.parametrize("word", HOSTILE)
def test_foreign_words_stay_text(fake, word):
    """Names of layers, facts, machines and sources from outside make no element, no template and no Markdown."""
    bad = read_machine(fake)
    source = bad.parameters["lanes"].__class__(16, word, word)
    machine = type(bad)(word, "fake", word, word, dict(bad.parameters) | {"lanes": source})
    found = simulate_on(small_workload(word), [machine], name=word)
    page = page_of(found)
    tags = re.findall(r"<([a-z]+)", page)
    plain_tags = re.findall(r"<([a-z]+)", page_of(simulate_on(small_workload("w"), [type(bad)(
        "w", "fake", "w", "w", dict(bad.parameters) | {"lanes": source.__class__(16, "w", "w")})], name="w")))  # fmt: skip
    assert tags == plain_tags
    if "{{" in word:
        assert word in text_of(page)
    assert "\x1b" not in page
    assert "\u202e" not in page
    markdown = markdown_of(found)
    assert "\n# c" not in markdown
    assert "<script>" not in markdown.replace("\\<", "")
    assert "](http" not in markdown.replace("\\]", "")


def test_long_facts_are_cut_on_the_page_alone(fake):
    """A plan of thousands of numbers does not fill the page; the JSON has it whole."""
    workload = small_workload()
    long = Workload(workload.layers, dict(workload.facts) | {"plan": {"filters": list(range(5000))}})
    found = simulate_on(long, [read_machine(fake)])
    assert "4999" not in page_of(found)
    assert "(whole in simulation.json)" in page_of(found)
    assert found.to_json()["facts"]["plan"]["filters"][-1] == 4999


def test_page_refers_to_nothing_outside(simulation):
    """No address, no script; the policy names the style sheet by digest."""
    page = page_of(simulation)
    assert "http" not in page.replace("http-equiv", "")
    assert "<script" not in page
    assert "style=" not in page
    assert "Content-Security-Policy" in page


def test_same_simulation_gives_the_same_files(simulation, tmp_path):
    """Page, table and JSON are the same bytes each time; the JSON is read back whole."""
    first, again = tmp_path / "a", tmp_path / "b"
    write_simulation(simulation, first)
    write_simulation(simulation, again)
    for name in ("simulation.html", "simulation.md", "simulation.json"):
        assert (first / name).read_bytes() == (again / name).read_bytes()
    read = json.loads((first / "simulation.json").read_text())
    assert read["machines"][0]["cycles"] == simulation.costs[0].cycles
    assert read["machines"][0]["parameters"]["depth"]["value"] == 3
    assert sorted(path.name for path in first.iterdir()) == [
        "simulation.html",
        "simulation.json",
        "simulation.md",
    ]


def test_energies_of_the_table_sum_to_the_total(simulation):
    """Parts add up, in JSON and in bars."""
    for machine in simulation.to_json()["machines"]:
        layers = sum(sum(layer["energy_pj"].values()) for layer in machine["layers"])
        assert sum(machine["energy_pj"].values()) == pytest.approx(layers)
    bars = stacked({"compute": 1.0, "sram": 0.0, "dram": 3.0}, 8.0)
    assert [(one.part, one.x, one.width) for one in bars] == [("compute", 0.0, 12.5), ("dram", 12.5, 37.5)]


def test_a_folder_with_other_files_is_left_alone(simulation, tmp_path):
    """Results go to a new folder, an empty one, or one with results; a file is no folder."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(Usage, match=r"mine holds files and no simulation\.json"):
        write_simulation(simulation, tmp_path / "mine")
    with pytest.raises(Usage, match="is a file"):
        folder_for(tmp_path / "mine" / "thesis.txt", "simulation.json")
    write_simulation(simulation, tmp_path / "new")
    write_simulation(simulation, tmp_path / "new")


def test_a_place_that_cannot_be_written_is_an_error_of_output(tmp_path):
    """The name of the file stands in the error."""
    (tmp_path / "file").write_text("")
    with pytest.raises(InputOutput, match=r"x\.json cannot be written"):
        write_whole(tmp_path / "file" / "x.json", "")


def test_numbers_of_any_kind_reach_json():
    """NumPy's numbers and arrays become JSON's; what is not finite becomes text."""
    value = {
        "a": np.int64(3),
        "b": np.float32(0.5),
        "c": np.arange(2),
        "d": (1, {"e": np.inf}),
        "f": np.bool_(True),
    }
    assert json.loads(json_text(value)) == {"a": 3, "b": 0.5, "c": [0, 1], "d": [1, {"e": "inf"}], "f": True}
    assert plain_json(object).startswith("<class")


def test_two_machines_of_one_name_are_refused(fake):
    """Figures are told apart by the machine's name."""
    with pytest.raises(Usage, match="machine fake is named twice"):
        simulate_on(small_workload(), [read_machine(fake)] * 2)
    with pytest.raises(Usage, match="no machine is named"):
        simulate_on(small_workload(), [])


def test_machines_are_checked_before_any_layer(fake):
    """A second machine with impossible parameters stops the run before the first has begun."""
    begun = []
    machines = [read_machine(fake), read_machine(fake).varied(lanes=0)]
    with pytest.raises(Refused, match="lanes of machine fake"):
        simulate_on(small_workload(), machines, progress=lambda *told: begun.append(told))
    assert begun == []


def test_markdown_cells_hold_one_line():
    """Bars, brackets and line breaks do not leave the cell."""
    assert cell("a|b\n<i>[x](y)") == r"a\|b \<i>\[x\](y)"


def test_times_are_in_the_unit_that_suits_them():
    """From seconds to nanoseconds."""
    assert [seconds_words(x) for x in (2.0, 0.0125, 3e-5, 4e-9)] == ["2 s", "12.5 ms", "30 µs", "4 ns"]


def test_points_of_the_picture_stand_where_their_figures_say():
    """Fewer cycles are further left, less energy further down; shares are of the largest."""
    for plot in scatters([(100.0, 9.0, True, "a"), (200.0, 3.0, True, "b"), (300.0, 8.0, False, "c")]):
        first, second = plot.marks
        assert first.x < second.x < plot.others[0][0]
        assert first.y < plot.others[0][1] < second.y
        assert plot.line.startswith(f"M{first.x} {first.y}L")
        assert all(
            plot.left <= mark.x <= plot.right and plot.top <= mark.y <= plot.bottom for mark in plot.marks
        )
    assert share_of(3, 4) == 75
    assert share_of(3, 0) == 0
