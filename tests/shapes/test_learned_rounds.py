"""What a loop's round changes is seen once; flags, numbers that change in some rounds, and unused tensors stop no induction."""

import logging

import pytest

from sparsam.shapes.check import check
from sparsam.shapes.verdict import Verdict

HEAD = """
import torch
from torch import nn

net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Dropout(), nn.Linear(4, 4))


def f(n):
    data, best, first, last, step = torch.rand(n, 4), -1, True, torch.zeros(1), 0
    for i in range(n):
"""
CASES = {
    "a mode that some rounds change": (
        [
            "x = net(data)",
            "if i % 10 == 9:",
            "    net.eval()",
            "else:",
            "    net.train()",
            "data = x.detach()",
        ],
        "data.view(n, 2, 2)",
        "data.view(n, 3)",
    ),
    "the best so far": (
        ["loss = (data * 2).mean().item()", "if i % 5 == 4 and loss > best:", "    best = loss"],
        "data[:, :4] if best > 0 else data",
        "data[:, :4].view(n, 5)",
    ),
    "a flag that is lowered": (
        ["if first:", "    data = data * 1", "    first = False", "else:", "    data = data + 1"],
        "data.view(n, 4)",
        "data.view(n, 3)",
    ),
    "a tensor that is set before it is read": (
        [
            "if i % 7 == 6:",
            "    last = torch.zeros(3, 3, dtype=torch.long)",
            "else:",
            "    last = data.sum()",
            "step += 1",
        ],
        "data[step - n:]",
        "data.view(n, 3)",
    ),
}


def checked(lines: list[str], end: str, tmp_path):
    """The report on the loop with these lines and what follows it."""
    file = tmp_path / "looped.py"
    body = "".join(f"        {line}\n" for line in lines)
    file.write_text(f"{HEAD}{body}    return {end}\n")
    return check(f"{file}:f", ["n=1.."], sandboxed=False)


@pytest.mark.parametrize("name", CASES)
def test_rounds_that_are_not_all_alike(name, tmp_path):
    """The loop is summarised, and what follows it is judged as torch does for every number of rounds."""
    lines, right, wrong = CASES[name]
    report = checked(lines, right, tmp_path)
    assert report.verdict is Verdict.PROVED, (report.findings, report.unknowns)
    report = checked(lines, wrong, tmp_path)
    assert report.verdict is Verdict.ERROR, report.unknowns
    assert all(finding.confirmed for finding in report.findings)


def test_an_unused_tensor_that_is_used_is_not_known(tmp_path):
    """What an earlier round left is not told where it may be one of several, and that is said."""
    lines = [
        "if i % 7 == 6:",
        "    last = torch.zeros(3, 3, dtype=torch.long)",
        "elif i % 7 == 5:",
        "    last = data.sum()",
    ]
    for use in ("last + 1", "1 if torch.is_tensor(last) else data.view(3)", "1 if last.dim() else 2"):
        report = checked(lines, use, tmp_path)
        assert report.verdict is (Verdict.PROVED if "is_tensor" in use else Verdict.UNKNOWN), (
            use,
            report.findings,
        )


MODES = """
import os

import torch


def f(n):
    try:
        for i in range(n):
            if i == 1:
                torch.set_default_dtype(torch.float64)
            if i == 3:
                torch.rand(2, 2) @ torch.rand(2, 2, dtype=torch.float32)
    finally:
        torch.set_default_dtype(torch.float32)
"""


@pytest.mark.parametrize("environment", [False, True])
def test_what_some_rounds_set_for_the_whole_process_is_no_induction(environment, tmp_path):
    """A default type or a variable of the environment holds in the next rounds, and such a loop is not proved."""
    file = tmp_path / "modes.py"
    made = MODES.replace("torch.set_default_dtype(torch.float64)", 'os.environ["WIDE"] = "1"').replace(
        "if i == 3:", 'if i == 3 and "WIDE" in os.environ:'
    )
    made = made.replace("torch.rand(2, 2, dtype=torch.float32)", "torch.rand(3, 2)")
    file.write_text(made if environment else MODES)
    assert check(f"{file}:f", ["n=1..9"], sandboxed=False).verdict is not Verdict.PROVED


EPOCHS = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

n = 1000
net = nn.Sequential(*[nn.Linear(4, 4) for _ in range(60)])
losses = []
for epoch in range(40):
    for x, in DataLoader(TensorDataset(torch.rand(n, 4)), batch_size=32):
        y = net(x)
    losses.append(y.sum().item())
assert len(losses) == 40
y.view(8, LAST)
"""


@pytest.mark.parametrize(("last", "verdict"), [("4", Verdict.PROVED), ("5", Verdict.ERROR)])
def test_long_rounds_of_a_known_number_are_summarised(last, verdict, tmp_path):
    """Forty epochs cost no more than a few."""
    file = tmp_path / "epochs.py"
    file.write_text(EPOCHS.replace("LAST", last))
    report = check(str(file), [], sandboxed=False)
    assert report.verdict is verdict, (report.findings, report.unknowns)
    if verdict is Verdict.PROVED:
        assert report.statistics["operations"] < 30_000  # round by round it would be more than sixty thousand


def coins(count: int) -> list[str]:
    """Lines of a round in which so many coins say what becomes of x."""
    lines = []
    for i in range(count):
        lines += [
            f"        coin{i} = torch.rand(()).item()",
            f"        if coin{i} < 0.5:",
            "            x = x * 2",
        ]
    return lines


def test_rounds_that_there_are_two_of_at_most_come_together(tmp_path):
    """No run shows what a third would change: six coins in each round are no case for each way that they fall."""
    lines = ["import torch", "", "", "def f(n, x):", "    for _ in range(n):", *coins(6)]
    file = tmp_path / "twice.py"
    for size, verdict in (("2, 3", Verdict.PROVED), ("3, 2", Verdict.ERROR)):
        file.write_text("\n".join([*lines, f"    return x + torch.zeros({size})", ""]))
        report = check(f"{file}:f", ["n=0..2", "x=2×3"], sandboxed=False)
        assert report.verdict is verdict, report.unknowns
        assert report.statistics["runs"] < 60


def test_rounds_that_are_learned_late_forget_where_runs_came_together(tmp_path):
    """Nine ways fail in the first round, and those that go on have rounds that one can stand for."""
    lines = ["import torch", "", "", "def f(n, x):", "    for i in range(n):"]
    for i in range(9):
        lines += [f"        if n == {i + 5}:", "            raise ValueError(n)"]
    lines += ["        coin = torch.rand(()).item()", "        if coin < 0.5:", "            x = x + 1"]
    file = tmp_path / "late.py"
    file.write_text("\n".join([*lines, "        if i == 40:", "            x.view(5)", "    return x", ""]))
    report = check(f"{file}:f", ["n=5..", "x=2×3"], sandboxed=False)
    assert {finding.failure.error for finding in report.findings} == {"ValueError", "RuntimeError"}
    assert not report.unknowns


LOGGED = """
import logging

import torch

logger = logging.getLogger("of_this_test")


def f(n, x):
    for i in range(n):
        x = x * 2
        logger.debug("round %d", i)
        logging.getLogger(f"of_this_test.{{i % 2}}").isEnabledFor(10)
        {line}
    return x
"""


@pytest.mark.parametrize(
    ("line", "verdict"),
    [("pass", Verdict.PROVED), ("logger.disabled or x.view(6)\n        logger.disabled = True", Verdict.PROVED),
     ("logger.disabled and x.view(5)\n        logger.disabled = True", Verdict.ERROR)],
)  # fmt: skip
def test_what_loggers_have_been_asked_is_no_state(line, verdict, tmp_path):
    """What they let pass is."""
    file = tmp_path / "logged.py"
    file.write_text(LOGGED.format(line=line))
    report = check(f"{file}:f", ["n=0..", "x=2×3"], sandboxed=False)
    logging.getLogger("of_this_test").disabled = False
    assert report.verdict is verdict, report.unknowns


def test_rounds_that_fail_in_many_ways_come_together(tmp_path):
    """The second round fails for all sizes: the ways through the first, of which there are 2^8, are no case each."""
    lines = ["import torch", "", "", "def f(n, x):", "    for i in range(n):", "        if i == 1:"]
    lines += ["            x.view(5)", *coins(8)]
    file = tmp_path / "failing.py"
    file.write_text("\n".join([*lines, "    return x", ""]))
    report = check(f"{file}:f", ["n=0..", "x=2×3"], sandboxed=False)
    assert [finding.failure.error for finding in report.findings] == ["RuntimeError"]
    assert not report.unknowns
    assert report.statistics["runs"] < 120
