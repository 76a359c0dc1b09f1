"""Where a run goes the way of another one its state is not written down again: it is the one that was foretold."""

import collections

import pytest
from test_random_counts import counted
from test_random_loops import holds

from sparsam.shapes import merging
from sparsam.shapes.check import check
from sparsam.shapes.verdict import Verdict


@pytest.fixture
def compared(monkeypatch):
    """Each foretold node is held against the state; how many there were."""
    counts: collections.Counter[str] = collections.Counter()
    foretold, arrive = merging._as_foretold, merging._arrive
    beside = []

    def looked(run, frame, site):
        visit = foretold(run, frame, site)
        together = visit is not None and not all(isinstance(one, str) for one in visit.names.values())
        if visit is not None and not (
            together and site in run.memory.apart
        ):  # where a sum has two names, or one
            seen = merging._visit(run, frame, site, merging._pending(run, frame), beside[-1])
            assert (visit.node, dict(visit.names), set(visit.known)) == (
                seen.node, dict(seen.names), set(seen.known),
            )  # fmt: skip
            counts["foretold"] += 1
        return visit

    def arrived(run, frame, site, without=()):
        beside.append(without)
        try:
            return arrive(run, frame, site, without)
        finally:
            beside.pop()

    monkeypatch.setattr(merging, "_as_foretold", looked)
    monkeypatch.setattr(merging, "_arrive", arrived)
    return counts


HEAD = """
import torch
from torch import nn


def coin():
    return torch.rand(()).item() < 0.5


def f(n):
    x = torch.zeros(n, 4)
"""
ALIKE = {
    "branches of as many statements": """
    if coin():
        a = 2
    else:
        a = 3
    if coin():
        b = 2
    else:
        b = 3
    if n > 3:
        c = 2
    else:
        c = 3
    x.view(-1, a + b + c - 2) if a == b == c == 3 else x.view(n, 4)
""",
    "rounds of as many statements": """
    kept = []
    for i in range(3):
        if coin():
            kept.append(2)
        else:
            kept.append(4)
        if n > 5:
            kept.append(2)
    if kept.count(2) == 5:
        x.view(n, 3)
""",
    "numbers that are read in another order": """
    total = 0
    for i in range(3):
        step = torch.randint(0, 3, ()).item()
        if step == 0:
            total += 1
        else:
            total += step
    if total == 6 and n == 2:
        x.view(n, 3)
""",
}


@pytest.mark.parametrize("name", ALIKE)
def test_ways_that_look_alike_are_told_apart(name, tmp_path, compared):
    """As many statements and values do not make the same way: the answers do."""
    file = tmp_path / "piece.py"
    file.write_text(HEAD + ALIKE[name])
    report = check(f"{file}:f", ["n=1..9"], sandboxed=False)
    assert report.verdict is Verdict.ERROR, report.unknowns
    assert not report.unknowns
    assert compared["foretold"]


def test_the_state_is_the_one_that_was_foretold(tmp_path, compared):
    """In random programs that draw numbers and in random loops."""
    for seed in range(40, 60):
        counted(seed, tmp_path)
    for seed in range(40, 46):
        holds(seed, tmp_path)
    assert compared["foretold"] > 20


NESTED = """
class Noted:
    def __enter__(self):
        self.count = 0
        return self

    def __exit__(self, *what):
        self.count += 1


def g(n):
    x, kept = torch.zeros(n, 4), []
    if n > 1:
        if coin():
            a = 2
        else:
            a = 4
    else:
        a = 3
    with Noted() as noted:
        if coin():
            a += 2
    try:
        if coin():
            kept.append(a)
    finally:
        kept.append(noted.count)
    for i in range(2):
        if i < 1:
            if coin():
                if n > 7:
                    kept.append(i)
            else:
                kept.append(1)
    while len(kept) < 5:
        if coin():
            kept.append(1)
        else:
            kept.append(2)
    if sum(kept) == 10:
        x.view(n, 3)
"""


def test_a_state_that_has_not_changed_is_written_once(tmp_path, monkeypatch):
    """Behind an `if` that ends where another one does, and only there."""
    write, visit, counts = merging._write, merging._visit, collections.Counter()

    def written(*arguments):
        counts["written"] += 1
        return write(*arguments)

    def twice(run, frame, site, pending, without):
        made = visit(run, frame, site, pending, without)
        kept, run.written = run.written, None
        again = visit(run, frame, site, pending, without)
        run.written = kept
        assert (made.node, made.names) == (again.node, again.names)
        counts["visits"] += 1
        return made

    monkeypatch.setattr(merging, "_write", written)
    monkeypatch.setattr(merging, "_visit", twice)
    file = tmp_path / "piece.py"
    file.write_text(HEAD + NESTED)
    report = check(f"{file}:g", ["n=1..9"], sandboxed=False)
    assert report.verdict is Verdict.ERROR, report.unknowns
    assert counts["visits"] < counts["written"] < 2 * counts["visits"]  # once more each, for comparison
