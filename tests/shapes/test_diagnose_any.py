"""Whatever the framework says, a diagnosis is given, and is not absurd: mutated failures, and torch's own error inputs."""

import dataclasses
import os
import random
import re
from pathlib import Path

import markdown  # tests/shapes/markdown.py
import pytest
import recording  # tests/shapes/recording.py

from sparsam.shapes.diagnose import RULES, explain_failure
from sparsam.shapes.verdict import Failure, Operand, Place

LONG = pytest.mark.skipif(
    os.environ.get("SPARSAM_LONG") != "1", reason="takes minutes; SPARSAM_LONG=1 asks for it"
)

pytestmark = pytest.mark.slow  # runs all pages of tests/shapes/expect, and the error inputs of all operators

SHAPES = [
    (),
    ("B",),
    ("1",),
    ("B", "T", "3"),
    ("0", "2"),
    ("(",),
    ("a b",),
    ("Mod(N, B)", "4"),
    None,
    ("-1", "-1"),
    ("9" * 40,),
]
TEXTS = ["", "B", "-3", "1.5", "((", "Linear(", "Conv2d(,)"]
SAME = re.compile(r"got (\S+), expected \1(?: |$)")


@pytest.fixture(scope="module")
def failures() -> list[Failure]:
    """How the marked lines of all pages fail, with numbers and with symbols."""
    found = []
    for page in sorted((Path(__file__).parent / "expect").glob("*.md")):
        for block in markdown.blocks(page):
            for one in block.expected:
                given = block.smallest(one.when) if one.kind == "error" else {}
                numbers = ", ".join(f"{name}={size}" for name, size in given.items())
                names = ", ".join(f"{name}={name}" for name in given)
                if one.kind == "error":
                    found.append(recording.run(f"{block.module}\nprogram({numbers})\n", {}))
                    found.append(recording.run_symbolic(f"{block.module}\nprogram({names})\n", given))
    return [failure for failure in found if failure is not None]


def mutated(failure: Failure, others: list[Failure], draw: random.Random) -> Failure:
    """The failure with operands lost, added and changed, and a text with characters and numbers changed."""
    operands, text = list(failure.operands), failure.text
    for _ in range(draw.randint(0, 3)):
        at, kind = draw.randrange(len(operands) + 1), draw.random()
        if at < len(operands) and kind < 0.35:
            operands.pop(at)
        elif at < len(operands) and kind < 0.8:
            operands[at] = dataclasses.replace(
                operands[at], shape=draw.choice(SHAPES), text=draw.choice(TEXTS)
            )
        else:
            name, of = (
                draw.choice(["", "dim", "self", "weight", "self.weight"]),
                draw.choice(["tensor", "number", "shape", "other"]),
            )
            operands.insert(at, Operand(name, of, draw.choice(SHAPES), text=draw.choice(TEXTS)))
    for _ in range(draw.randint(0, 3)):
        at, kind = draw.randrange(len(text) + 1), draw.random()
        if kind < 0.3:
            text = text[:at] + draw.choice("[]()x, 0-9%T") + text[at:]
        elif kind < 0.6:
            text = text[:at] + text[at + draw.randint(1, 8) :]
        elif kind < 0.8:
            text = re.sub(r"\d+", lambda number: draw.choice(["", "B", "0", "12*T", number[0]]), text)
    operation = draw.choice([*[failure.operation] * 6, draw.choice(others).operation, ""])
    return dataclasses.replace(failure, operands=tuple(operands), text=text, operation=operation)


def test_mutated_failure_gets_an_answer(failures):
    """20,000 failures with operands and sentences changed at random: a code, and texts of one line, for each."""
    draw = random.Random(1)
    assert len(failures) > 300
    for _ in range(20_000):
        failure = mutated(draw.choice(failures), failures, draw)
        code, *texts = explain_failure(failure, draw.choice([{}, {"B": 2, "T": 3, "N": 5}]))
        assert code in RULES and texts[0], failure
        assert all("\n" not in text and len(text) <= 300 for text in texts), failure


def test_error_inputs_of_all_operators_are_diagnosed():
    """Of torch's own error inputs two thirds get a code that says more than the framework; none wants what it got."""
    from torch.testing._internal.common_methods_invocations import op_db

    codes, absurd = [], []
    for operator in op_db:
        if operator.error_inputs_func is None:
            continue
        for error_input in operator.error_inputs("cpu"):
            sample = error_input.sample_input
            try:
                operator(sample.input, *sample.args, **sample.kwargs)
            except Exception as error:
                operands = recording.operands_of((sample.input, *sample.args), dict(sample.kwargs))
                place = Place("a.py", 1, source="x = f(y)")
                failure = Failure(
                    f"torch.{operator.name}", type(error).__name__, str(error), operands, (place,)
                )
                code, message, *_ = explain_failure(failure, {})
                codes.append(code)
                if SAME.search(message):
                    absurd.append((operator.name, message, failure.text))
    assert not absurd
    assert len(codes) > 600
    assert codes.count("framework") < len(codes) / 3
