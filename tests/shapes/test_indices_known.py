"""Indices whose bounds follow from how they are made: past the end is an error, maybe past the end is unknown."""

import textwrap

import pytest
from checking import told

from sparsam.shapes.check import Limits, check
from sparsam.shapes.verdict import Verdict

HEAD = """
import torch
from torch import nn
from torch.nn import functional as F

def f(x):
    table = nn.Embedding(64, 8)
"""


@pytest.fixture
def judged(tmp_path):
    """The report of a check of a few lines with a table of 64 rows and x of B×T, T from 1 to the given length."""

    def made(lines, longest=80):
        file = tmp_path / "lines.py"
        file.write_text(HEAD + textwrap.indent(textwrap.dedent(lines), "    "))
        arguments = ["x=B×T:int64", f"T=1..{longest}"]
        return check(f"{file}:f", arguments, sandboxed=False, limits=Limits(seconds=60))

    return made


PAST = {  # lines: the longest T that they are right for
    "table(torch.arange(x.shape[1]).unsqueeze(0) + 0)": 64,
    "table(torch.arange(1, x.shape[1] + 1).expand(x.shape[0], -1))": 63,
    "table(torch.arange(128).expand((1, -1))[:, 3 : x.shape[1] + 3])": 61,
    "table(torch.arange(x.shape[1]).repeat(x.shape[0], 1).to(torch.int32).long())": 64,
    "table(2 * torch.ones_like(x) + x.shape[1])": 61,
    "torch.index_select(torch.zeros(2, 64), 1, torch.arange(x.shape[1]))": 64,
    "torch.gather(torch.zeros(1, 64), 1, torch.arange(x.shape[1])[None])": 64,
    "torch.zeros(64)[torch.arange(x.shape[1])]": 64,
    "torch.zeros(64)[torch.arange(-x.shape[1], 0)]": 64,
    "F.cross_entropy(torch.zeros(3, 64), torch.full((3,), x.shape[1] - 1))": 64,
}


@pytest.mark.parametrize("line", PAST)
def test_index_past_the_end_is_an_error_and_no_other(line, judged):
    """Proved up to the last length that fits; one longer is an error with a length that fails."""
    fits = judged(line, PAST[line])
    assert fits.verdict is Verdict.PROVED, told(fits)
    longer = judged(line, PAST[line] + 9)
    assert longer.verdict is Verdict.ERROR, told(longer)
    (finding,) = longer.findings
    assert finding.witness["T"] > PAST[line] and finding.confirmed


MAYBE = {
    """
    mask = x.ne(1).int()
    table(torch.cumsum(mask, 1).type_as(mask) * mask + 1)
    """: 62,
    "table(torch.cat([torch.arange(x.shape[1]), torch.arange(5)]))": 64,
    "table(torch.zeros(3, x.shape[1]).argmax(1))": 64,
}


@pytest.mark.parametrize("lines", MAYBE)
def test_bounds_that_only_hold_leave_an_index_unknown(lines, judged):
    """Whether the data go as far as the bound is not known; where the bound fits, all is proved."""
    fits = judged(lines, MAYBE[lines])
    assert fits.verdict is Verdict.PROVED, told(fits)
    longer = judged(lines, MAYBE[lines] + 1)
    assert longer.verdict is Verdict.UNKNOWN, told(longer)
    assert {unknown.code for unknown in longer.unknowns} == {"index"}


WRITTEN = [
    "p = torch.arange(100); p.fill_(0)",
    "p = torch.full((3, 4), 100); p[:] = 1",
    "p = torch.full((3, 4), 100); p[p > 3] = 1",
    "p = torch.full((3, 4), 100); q = p.view(-1); q.zero_()",
    "q = torch.full((3, 4), 100); p = q.view(-1); q.zero_()",
    "p = torch.full((3, 4), 100); p.detach().clamp_(max=3)",
    "p = torch.full((3, 4), 100); p.data.zero_()",
    "p = torch.full((3,), 100); p.data = torch.zeros(3, dtype=torch.long)",
    "p = torch.full((3,), 100); torch.clamp(p, max=3, out=p)",
    "p = torch.full((3,), 100); p.numpy()[:] = 1",
    "p = torch.randint(0, 100, (3,)); p %= 4",
    "p = torch.randint(0, 100, (x.shape[0], 3)); p = p[:, 0]; p.remainder_(4)",
    "p = torch.arange(100); p = torch.where(p > 3, 0, p).clamp(max=3)",
    "p = torch.arange(64, 100)[:0]",
    "p = torch.full((3,), -100).masked_fill(torch.ones(3, dtype=torch.bool), 1)",
]


@pytest.mark.parametrize("line", WRITTEN)
def test_values_that_were_written_since_are_not_held_against_an_index(line, judged):
    """No alarm from bounds that a write, whatever way it took, has made untrue."""
    report = judged(f"{line}\ntable(p)")
    assert report.verdict is Verdict.PROVED, told(report)


def test_ids_that_come_with_the_data_are_taken_to_be_in_range(judged):
    """Of an argument's values nothing is known."""
    report = judged("table(x)")
    assert report.verdict is Verdict.PROVED, told(report)


VIEWED = """
import torch
from torch import nn


def f(n):
    return nn.Embedding(64, 4)(torch.arange(n)VIEW)
"""


@pytest.mark.parametrize(
    "view", [".view(-1, n)", ".view(1, n)", ".unsqueeze(0)", ".view(1, n).flatten(0, 1)"]
)
def test_bounds_survive_a_view(view, tmp_path):
    """Sixty-five positions of sixty-four are one too many, however they lie."""
    file = tmp_path / "viewed.py"
    file.write_text(VIEWED.replace("VIEW", view))
    found = check(f"{file}:f", ["n=1..80"], sandboxed=False)
    assert found.verdict.value == "error", found.unknowns
    assert check(f"{file}:f", ["n=1..64"], sandboxed=False).verdict.value == "proved"


LEAKED = """
import torch


def f(n):
    x = torch.zeros(n, 4)USED
    if n > 64:
        torch.zeros(2).view(3)
    if n > 1:
        x = x + 1
    return x
"""


@pytest.mark.parametrize(
    "used",
    [".view(n, 2, 2)", ".reshape(n, 2, 2)", ".t().contiguous()", ".t().flatten(0, 1)", ".unsqueeze(1)", ""],
)
def test_what_is_asked_without_a_record_decides_nothing_later(used, tmp_path):
    """A run with one row, whose layout was looked at, still asks whether there are more than sixty-four."""
    file = tmp_path / "leaked.py"
    file.write_text(LEAKED.replace("USED", used))
    assert check(f"{file}:f", ["n=1..80"], sandboxed=False).verdict.value == "error"


GIVEN = {
    "torch.zeros(8)[torch.tensor([1, 7])]": Verdict.PROVED,
    "torch.zeros(7)[torch.tensor([1, 7])]": Verdict.ERROR,
    "torch.zeros(7)[torch.tensor([[1, 2], [-8, 0]])]": Verdict.ERROR,
    "table(torch.tensor([3, 64]))": Verdict.ERROR,
    "torch.zeros(7)[torch.tensor([1, 7]) - 1]": Verdict.PROVED,
    "torch.zeros(7)[torch.tensor(7)]": Verdict.ERROR,
    "torch.zeros(7)[torch.tensor([1, 7]).clamp(max=6)]": Verdict.PROVED,
}


@pytest.mark.parametrize("line", GIVEN)
def test_numbers_that_the_program_gives_are_known(line, judged):
    """As bounds."""
    report = judged(line)
    assert report.verdict is GIVEN[line], (report.findings, report.unknowns)


COUNTED = {  # lines: the longest T that they are right for
    "torch.bincount(x[0], minlength=5) + torch.zeros(5)": 80,
    "torch.bincount(torch.zeros(3, x.shape[1]).argmax(1), minlength=64) + torch.zeros(64)": 64,
    "torch.bincount(torch.arange(x.shape[1]), minlength=64) + torch.zeros(64)": 64,
    "torch.bincount(torch.arange(x.shape[1])) + torch.zeros(x.shape[1])": 80,
    "torch.bincount(torch.arange(x.shape[1])[:0], minlength=2) + torch.zeros(2)": 80,
}


@pytest.mark.parametrize("line", COUNTED)
def test_counts_are_as_many_as_the_classes_that_there_can_be(line, judged):
    """What comes with the data is below the least length that is asked for; what the program makes is followed."""
    right = COUNTED[line]
    assert judged(line, right).verdict is Verdict.PROVED
    if right < 80:
        report = judged(line)
        assert report.verdict is not Verdict.PROVED
        assert all(finding.witness["T"] > right for finding in report.findings)


def test_counts_of_unknown_classes_are_of_an_unknown_number(judged):
    """Without a least length they do not fit what has any size of its own."""
    assert judged("torch.bincount(x[0]) + torch.zeros(5)").verdict is not Verdict.PROVED


@pytest.mark.parametrize(
    ("odds", "verdict"), [("0, 1", Verdict.PROVED), ("1, 0", Verdict.ERROR), ("0.5, 0.5", Verdict.ERROR)]
)
def test_what_is_never_drawn_is_not_counted(odds, verdict, tmp_path):
    """A choice with odds of 0 or 1 is none."""
    file = tmp_path / "drawn.py"
    file.write_text(
        "import numpy as np\nimport torch\n\n\ndef f(n):\n"
        f"    some = np.random.choice([True, False], n, p=[{odds}])\n"
        "    if some.sum() > 0:\n        torch.zeros(2, 3) @ torch.zeros(2, 3)\n"
    )
    assert check(f"{file}:f", ["n=1..9"], sandboxed=False).verdict is verdict
