"""Random loops over any number of rounds, whose state is more than numbers: never proved where a number of rounds fails.

Flags, texts, tensors that are there from the second round on, lists, modes of modules, gradients, optimizers of one's own
and names that are not set yet, changed and asked for in turn.
"""

import collections
import contextlib
import io
import os
import random

import pytest

from sparsam.shapes import program
from sparsam.shapes.checker import check_callable
from sparsam.shapes.explore import Limits
from sparsam.shapes.verdict import Verdict

ROUNDS = 14
HEAD = """
import torch
from torch import nn


class Own(torch.optim.Optimizer):
    def __init__(self, params):
        super().__init__(params, {})

    def step(self):
        for p in self.param_groups[0]["params"]:
            self.state[p]["old"] = self.state[p].get("old", 0) + 1

    def old(self):
        return sum(len(held) for held in self.state.values())


def coin():
    return torch.rand(()).item() < 0.5


def run(n, m):
    net, own = nn.Linear(3, 2), None
    own = Own(net.parameters())
    two, y = nn.Linear(3, 2), None
    flag, other, text, a, b, h, kept, size = True, None, "a", 0, 2, None, [], 3
    x = torch.zeros(m, 3)
"""
CONDITIONS = (
    "flag", "not flag", "other", "other is None", "text == 'b'", "text != 'a'", "h is None", "h is not None and h.shape[0] > 3",
    "a > 2", "a == 1", "b > 4", "i % 3 == 2", "i == 0", "i > 1", "i == n - 1", "net.training", "net.weight.grad is None",
    "'late' in locals()", "'late' not in locals()", "len(kept) > 2", "len(kept) == 1", "size != 3", "coin()", "own.old() > 0",
    "m > 2", "n > 3", "two.weight.grad is None", "y is None",
)  # fmt: skip
CHANGES = (
    ["flag = not flag"], ["flag = False"], ["flag = True"], ["other = flag"], ["other = True"], ["other = None"],
    ["text = 'b'"], ["text = 'c' if text == 'b' else 'b'"], ["a += 1"], ["a += 2"], ["a = i"], ["a = 0"], ["b = b * 2"],
    ["b += a"], ["h = torch.zeros(3, m)"], ["h = torch.zeros(4, 2)"], ["h = None"],
    ["h = torch.zeros(3, m) if h is None else torch.cat([h, h[:1]])"], ["kept.append(a)"], ["kept.append(x)"],
    ["kept = []"], ["net.eval()"], ["net.train()"], ["net(x).sum().backward()"], ["net.zero_grad()"], ["late = a"],
    ["late = x"], ["own.step()"], ["size += 1"], ["size = 4"], ["x = torch.zeros(m, size)"], ["x = x * 2"],
    ["try:", "    a += late", "except (NameError, TypeError):", "    b += 1"],
    ["for j in range(m):", "    a += 1"], ["for j in range(5):", "    flag = not flag"], ["net.weight.grad = None"],
    ["y = net(x)"], ["y = two(x)"], ["y = two(x) + (net(x) if coin() else 0)"], ["two.zero_grad()"],
    ["if y is not None:", "    y.sum().backward()", "    y = None"],
)  # fmt: skip
FAILURES = (
    "torch.zeros(2, 3) @ torch.zeros(2, 3)", "torch.zeros(3)[a]", "x.view(m, 3)", "torch.zeros(4)[len(kept)]",
    "torch.zeros(12).expand(b)", "torch.zeros(m, 3) + x", "torch.zeros(3, size).view(3, 3)", "torch.zeros(2)[own.old()]",
    "torch.zeros(2)[i // 4]", "h[3]", "torch.zeros(4, m) + torch.zeros(4, m) if h is None else h + torch.zeros(3, m)",
)  # fmt: skip


def _lines(rng: random.Random) -> list[str]:
    kind = rng.random()
    lines = rng.choice(CHANGES) if kind < 0.75 else [rng.choice(FAILURES)]
    if rng.random() < 0.55 or kind >= 0.75:
        lines = [f"if {rng.choice(CONDITIONS)}:", *("    " + line for line in lines)]
        if rng.random() < 0.3:
            lines += ["else:", *("    " + line for line in rng.choice(CHANGES))]
    return lines


def source(seed: int) -> str:
    """A program with one loop over any number of rounds, or with another one within it."""
    rng = random.Random(seed)
    inner = [line for _ in range(rng.randint(2, 5)) for line in _lines(rng)]
    body = ["    for i in range(n):", *("        " + line for line in inner)]
    if rng.random() < 0.3:
        outer = [
            line.replace("i ", "k ").replace("(i", "(k")
            for _ in range(rng.randint(1, 2))
            for line in _lines(rng)
        ]
        outer = [line.replace("= i", "= k") for line in outer]
        body = [f"    for k in range({rng.choice(['m', '5', '2'])}):", *("    " + line for line in body)]
        body += ["        " + line for line in outer]
    end = rng.choice(FAILURES).replace("[i // 4]", "[n // 99]")
    return "\n".join([HEAD.rstrip("\n"), *body, f"    return {end}", ""])


def failing(text: str) -> tuple[int, int] | None:
    """Numbers of rounds and rows for which plain Python raises, for some coins."""
    space: dict = {}
    exec(text, space)
    for m in range(1, 5):
        for n in range(ROUNDS):
            for tosses in range(3 if "coin()" in text.split("def run")[1] else 1):
                coins = random.Random(tosses)
                space["coin"] = lambda coins=coins: coins.random() < 0.5
                try:
                    space["run"](n, m)
                except Exception:
                    return n, m
    return None


def holds(seed: int, folder) -> Verdict:
    """Checks one program, and holds the verdict against plain Python."""
    text = source(seed)
    name = f"loops_{seed}"
    path = folder / f"{name}.py"
    path.write_text(text)
    module = program.load(name, str(path))
    with contextlib.redirect_stdout(io.StringIO()):
        report = check_callable(
            module.run, {"n": "n", "m": "m"}, {"n": (0, None), "m": (1, 4)}, own=lambda file: file == str(path),
            limits=Limits(paths=150, seconds=20, run_seconds=10),
        )  # fmt: skip
    found = failing(text)
    if report.verdict is Verdict.PROVED:
        assert found is None, f"{text}\nproved, and fails for {found}"
    for finding in report.findings:
        space: dict = {}
        exec(text, space)
        sizes = {key: finding.witness[key] for key in ("n", "m")}
        if "coin()" not in text.split("def run")[1]:
            with pytest.raises(Exception):  # noqa: B017, PT011
                space["run"](**sizes)
    assert not any(unknown.code == "crash" for unknown in report.unknowns), f"{text}\n{report.unknowns}"
    return report.verdict


@pytest.mark.parametrize("block", range(3))
def test_verdicts_of_random_loops_hold(block, tmp_path):
    """Six at a time."""
    for seed in range(6 * block, 6 * block + 6):
        holds(seed, tmp_path)


@pytest.mark.slow
def test_verdicts_of_more_random_loops_hold(tmp_path):
    """Forty more, most of them decided; with SPARSAM_LONG=1 four hundred."""
    many = 400 if os.environ.get("SPARSAM_LONG") == "1" else 40
    verdicts = collections.Counter(holds(seed, tmp_path) for seed in range(1000, 1000 + many))
    assert {Verdict.PROVED, Verdict.ERROR} <= set(verdicts)
    assert verdicts[Verdict.UNKNOWN] < many / 2
