"""One round stands for all, the first among them, and not where the first does what no other does."""

import textwrap

import pytest

from sparsam.shapes.check import check
from sparsam.shapes.verdict import Verdict

HEAD = """
import torch
from torch import nn


class Own(torch.optim.Optimizer):
    def __init__(self, params):
        super().__init__(params, {})

    def step(self):
        for p in self.param_groups[0]["params"]:
            old = self.state[p].setdefault("old", torch.zeros(2))
            if self.state[p].get("steps"):
                old.view(SIZE)
            self.state[p]["steps"] = True


FAILS = torch.zeros(2, 3)


def f(n):
    net = nn.Linear(3, 2)
    own, sgd = Own(net.parameters()), torch.optim.SGD(net.parameters(), lr=0.1)
    flag, other, text, h, kept, count = True, False, "a", None, [], 0
    for i in range(n):
"""
# What fails in the second round, or later, and not in the first.
LATER = {
    "a text": ["if text == 'b':", "    FAILS @ FAILS", "text = 'b'"],
    "a flag": ["if not flag:", "    FAILS @ FAILS", "flag = False"],
    "a tensor that is there now": ["if h is not None:", "    FAILS @ FAILS", "h = torch.zeros(3)"],
    "a tensor of another type": ["h = torch.zeros(2) if h is None else h.view(3)"],
    "a name": ["try:", "    late @ late", "except NameError:", "    pass", "late = FAILS"],
    "a name that is asked for": ["if 'late' in locals():", "    FAILS @ FAILS", "late = 1"],
    "a list": ["if len(kept) == 1:", "    FAILS @ FAILS", "kept.append(1)"],
    "a gradient": ["if net.weight.grad is not None:", "    FAILS @ FAILS", "net(FAILS).sum().backward()"],
    "an optimizer": ["own.step()"],
    "a mode": ["if not net.training:", "    FAILS @ FAILS", "net.eval()"],
    "a number": ["if count == 5:", "    FAILS @ FAILS", "count = 5"],
    "a number that grows": ["if count == 4:", "    FAILS @ FAILS", "count += 2"],
    "flags in turn": ["if other and not flag:", "    FAILS @ FAILS", "if i % 7 == 3:", "    flag = False",
                      "if i % 7 == 5 and not flag:", "    other = True"],
    "a mode in a loop within": ["for j in range(n):", "    if not net.training and net.weight.grad is not None:",
                                "        FAILS @ FAILS", "    net(FAILS).sum().backward()", "net.eval()"],
}  # fmt: skip
# The like, without anything that fails.
NEVER = {
    "a text": ["if text == 'c':", "    FAILS @ FAILS", "text = 'b'"],
    "a tensor that is there now": ["if h is not None:", "    h.view(3)", "h = torch.zeros(3)"],
    "a gradient": ["sgd.zero_grad()", "if net.weight.grad is not None:", "    FAILS @ FAILS",
                   "net(FAILS).sum().backward()", "sgd.step()"],
    "a mode": ["net.train()", "if not net.training:", "    FAILS @ FAILS", "net.eval()"],
    "flags in turn": ["if other and flag:", "    FAILS @ FAILS", "if i % 7 == 3:", "    flag = False",
                      "if i % 7 == 5 and not flag:", "    other = True"],
    "a mode in a loop within": ["for j in range(n):", "    sgd.zero_grad()", "    net.train()",
                                "    if not net.training or net.weight.grad is not None:", "        FAILS @ FAILS",
                                "    net(FAILS).sum().backward()", "net.eval()"],
}  # fmt: skip


def checked(lines: list[str], tmp_path, size: str = "3"):
    """The report on a loop with these lines, any number of times."""
    file = tmp_path / "looped.py"
    file.write_text(
        HEAD.replace("SIZE", size) + textwrap.indent("\n".join(lines), "        ") + "\n    return net\n"
    )
    return check(f"{file}:f", ["n=0.."], sandboxed=False)


@pytest.mark.parametrize("name", LATER)
def test_what_fails_from_the_second_round_on_is_found(name, tmp_path):
    """With the number of rounds that it takes."""
    report = checked(LATER[name], tmp_path)
    if name == "flags in turn":  # in the seventh at the earliest, and it is not known that there are so many
        assert report.verdict is not Verdict.PROVED
        return
    assert report.verdict is Verdict.ERROR, report.unknowns
    assert all(finding.confirmed and finding.witness["n"] > 1 for finding in report.findings)


@pytest.mark.parametrize("name", NEVER)
def test_what_never_fails_is_proved(name, tmp_path):
    """For every number of rounds."""
    report = checked(NEVER[name], tmp_path)
    assert report.verdict is Verdict.PROVED, (report.findings, report.unknowns)


def test_an_optimizer_that_remembers(tmp_path):
    """What it has noted in the first round belongs to the second."""
    assert checked(["own.step()"], tmp_path, "2").verdict is Verdict.PROVED


TRAINING = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

n, m = 2000, 300
net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 2))
optimizer = torch.optim.Adam(net.parameters())
best, steps = -1.0, 0
for epoch in range(EPOCHS):
    for x, y in DataLoader(TensorDataset(torch.rand(n, 4), torch.zeros(n, dtype=torch.long)), batch_size=BATCH):
        net.train()
        optimizer.zero_grad()
        steps += 1
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        if steps % 100 == 0:
            net.eval()
            right = 0
            with torch.no_grad():
                for a, b in DataLoader(TensorDataset(torch.rand(m, 4), torch.zeros(m)), batch_size=BATCH):
                    right += (net(a).argmax(1) == b).sum().item()
            if right / m > best:
                best = right / m
                torch.save(net.state_dict(), f"best_{best:.2f}.pt")
        elif steps % 10 == 0:
            print(epoch, steps, loss.item(), best)
net(torch.rand(3, WIDTH))
"""


@pytest.mark.parametrize(
    ("epochs", "width", "verdict"), [("50", "4", Verdict.PROVED), ("6", "5", Verdict.ERROR)]
)
def test_a_test_now_and_then_within_an_epoch(epochs, width, verdict, tmp_path):
    """Modes, gradients and the best so far change in some rounds: fifty epochs of batches are covered by some tens of runs.

    What fails behind them is confirmed by a run of all rounds one by one, of which there are fewer here.
    """
    file = tmp_path / "training.py"
    file.write_text(TRAINING.replace("EPOCHS", epochs).replace("WIDTH", width).replace("BATCH", "64"))
    report = check(str(file), [], sandboxed=False)
    assert report.verdict is verdict, (report.findings, report.unknowns)
    assert report.statistics["runs"] <= 60
