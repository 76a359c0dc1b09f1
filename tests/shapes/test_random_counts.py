"""Numbers that are drawn, added up and compared, held against all that can be drawn: no failure is lost, none is made up."""

import itertools
import random

import pytest

from sparsam.shapes.check import check
from sparsam.shapes.verdict import Verdict

LEAST, MOST = 0, 2  # of what is drawn
HEAD = """import torch


def draw():
    return torch.randint(0, 3, ()).item()


def more(x):
    global total
    total += x
    return x


"""
NAMES = ("a", "b", "c", "total")


class Grower:
    """A program with at most so many draws on each way through it."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.left = 5

    def program(self) -> str:
        lines = [f"{name} = 0" for name in NAMES]
        while self.left > 0:
            lines += self.statement(2)
        shown, other = self.rng.sample(NAMES, 2)
        condition = self.rng.choice(
            (
                f"{shown} - {other} == {self.rng.randint(0, 4)}",
                f"{shown} > {self.rng.randint(2, 6)}",
                f"{shown} + 1 == {other}",
            )
        )
        return (
            "\n".join([HEAD + lines[0], *lines[1:], f"if {condition}:", "    torch.zeros(3).view(2)"]) + "\n"
        )

    def value(self) -> str:
        draws = self.left > 0 and self.rng.random() < 0.7
        self.left -= draws
        return self.rng.choice(("draw()", "draw()", "more(draw())")) if draws else self.rng.choice(NAMES)

    def condition(self) -> str:
        one = self.rng.choice(NAMES)
        return self.rng.choice(
            (
                f"{one} > {self.rng.randint(0, 3)}",
                f"{one} == {self.rng.choice(NAMES)}",
                f"{self.value()} == 1",
            )
        )

    def statement(self, depth: int) -> list[str]:
        name, kind = self.rng.choice(NAMES), self.rng.random()
        if kind < 0.45 or depth == 0:
            sign = self.rng.choice(("=", "+=", "+=", "+=", "-="))
            return [f"{name} {sign} {self.value()}"]
        body = [line for _ in range(self.rng.randint(1, 2)) for line in self.statement(depth - 1)]
        if kind < 0.75:
            lines = [f"if {self.condition()}:", *("    " + line for line in body)]
            if self.rng.random() < 0.5:
                lines += ["else:", *("    " + line for line in self.statement(depth - 1))]
            return lines
        if kind < 0.85:
            return [f"{name} = 2 * {self.rng.choice(NAMES)}"]
        rounds = self.rng.choice(("range(2)", "range(draw())", "(1, 2)"))
        self.left -= "draw" in rounds
        return [f"for i in {rounds}:", *("    " + line for line in body)]


def fails(source: str) -> bool:
    """Whether it fails for something that can be drawn; draws behind the sixth give the least."""
    code = compile(source.replace("torch.randint(0, 3, ()).item()", "next(tape)"), "program", "exec")
    for drawn in itertools.product(range(LEAST, MOST + 1), repeat=6):
        tape = itertools.chain(drawn, itertools.repeat(LEAST))
        try:
            exec(code, {"__name__": "__main__", "tape": tape})
        except RuntimeError:
            return True
    return False


def counted(seed: int, folder) -> str:
    """The verdict on a program, which is that of all its tapes."""
    source = Grower(seed).program()
    file = folder / f"counts_{seed}.py"
    file.write_text(source)
    report = check(str(file), [], sandboxed=False)
    failing = fails(source)
    if report.verdict is Verdict.PROVED:
        assert not failing, f"proved, and fails\n{source}"
    if report.verdict is Verdict.ERROR and not failing:
        # More draws than the tapes have may show what these do not.
        assert "for " in source, f"fails, and no tape does\n{source}"
    return str(report.verdict)


@pytest.mark.parametrize("seed", range(12))
def test_counts(seed, tmp_path):
    """What is told apart at a node, and what is not, loses no failure."""
    counted(seed, tmp_path)
