"""Variables that nobody reads any more before they are set again are no part of the state, and no others are left out."""

import random
import sys

import pytest

from sparsam.shapes import liveness
from sparsam.shapes.check import check
from sparsam.shapes.verdict import Verdict


def unread() -> frozenset[str]:
    """What the caller's caller does not read any more: called as the last line of a piece, in its frame."""
    return liveness.unread(sys._getframe(1))


def straight(x):
    y = x + 1
    z = y * 2
    found = unread()
    return found, z


def looped(n):
    kept, found = 0, frozenset()
    for i in range(n):
        part = i * 2
        kept += part
        found = unread()
    return found, kept


def on_the_stack(x):
    y = x + 1
    return y, unread()


def in_an_argument(x):
    y = x + 1
    return max([y, len(found := unread())]), found


def handled(x):
    y = x + 1
    try:
        z = y
        found = unread()
        if x:
            raise ValueError
    except ValueError:
        return found, z
    return found, 0


def at_last(x):
    y = x + 1
    try:
        return y, 0
    finally:
        seen.append(unread())


seen: list[frozenset[str]] = []


def shared(x):
    y = x + 1
    z = [y for _ in range(2)]
    found = unread()
    return found, lambda: y, z


def by_name(x):
    y = x + 1
    del x
    return unread(), locals()


class Model:
    def eval(self, text="0"):
        return self


def with_a_mode(x):
    y = x + 1
    z = y
    Model().eval()
    return unread(), x, z


def with_a_text(x):
    y = x + 1
    z = y
    Model().eval("y")
    return unread(), x, z


def with_conditions(n):
    found = []
    for _ in (1, 2):
        part = n * 2
        if part > 1 and n:
            n += 0
        found.append(unread())
    return found


def test_a_mode_is_no_text_and_a_condition_leaves_nothing_behind():
    """`model.eval()` reads no variable; what a branch has looked at is no part of what the loop around it runs over."""
    assert with_a_mode(1)[0] == {"y"}
    assert with_a_text(1)[0] == frozenset()
    assert all("part" in names and "n" not in names for names in with_conditions(1))


def test_what_is_read_later_is_kept():
    """What no line reads any more is left out; what lies on the stack, or belongs to a handler, is kept."""
    assert straight(1)[0] == {"x", "y", "found"}
    assert looped(3)[0] == {"i", "part", "found"}  # what `n` gave lies on the stack
    assert "y" not in on_the_stack(1)[1]
    assert "y" not in in_an_argument(1)[1]
    assert "z" not in handled(1)[0]
    assert "y" in handled(1)[0]
    at_last(1)
    assert "y" not in seen[-1]
    assert "y" not in shared(1)[0]
    assert by_name(1)[0] == frozenset()


def random_code(rng: random.Random, depth: int = 0) -> list[str]:
    """Lines on variables a to e, with branches, loops, handlers."""
    lines = []
    for _ in range(rng.randint(1, 4)):
        one, two, three = (rng.choice("abcde") for _ in range(3))
        kind = rng.choice(["set", "set", "look", "if", "for", "try", "while"]) if depth < 3 else "set"
        inner = (
            ["    " + line for line in random_code(rng, depth + 1)]
            if kind in ("if", "for", "try", "while")
            else []
        )
        lines += {
            "set": [f"{one} = ({two} + {three} * 7) % 1000"],
            "look": ["look()"],
            "if": [f"if {one} % 2:", *inner, "else:", f"    {two} = {three}"],
            "for": [f"for {one} in range({two} % 3):", *inner],
            "while": [f"w{depth} = {two} % 3", f"while w{depth} > 0:", f"    w{depth} -= 1", *inner],
            "try": [
                "try:",
                *inner,
                f"    {one} = {two} // ({three} % 2)",
                "except ZeroDivisionError:",
                f"    {two} = 5",
            ],
        }[kind]
    return lines


@pytest.mark.parametrize("seed", range(60))
def test_what_is_left_out_does_not_matter(seed):
    """Whatever is put into the variables that are left out, a random function goes on as it would."""
    rng = random.Random(seed)
    body = "\n".join("    " + line for line in [*random_code(rng), "look()", *random_code(rng)])
    source = f"def run(look, a, b, c, d, e):\n{body}\n    return a, b, c, d, e\n"
    space: dict[str, object] = {}
    exec(compile(source, "<random>", "exec"), space)
    function = space["run"]
    start = [rng.randint(0, 9) for _ in range(5)]
    looks = [0]

    def only_counted() -> None:
        looks[0] += 1

    expected = function(only_counted, *start)
    for at in {0, looks[0] // 2, looks[0] - 1}:
        calls = [0]

        def disturbing(at: int = at, calls: list[int] = calls) -> None:
            frame = sys._getframe(1)
            if calls[0] == at:
                for name in liveness.unread(frame) & set("abcde"):
                    frame.f_locals[name] = -12345
                    liveness_put(frame)
            calls[0] += 1

        assert function(disturbing, *start) == expected, source


def liveness_put(frame) -> None:
    """Takes over what was put into a frame's variables, where Python does not do so by itself."""
    if sys.version_info < (3, 13):
        import ctypes

        ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(frame), ctypes.c_int(0))


SCRIPT = """
import torch

x = torch.rand(4)
left = None
for _ in range(2):
    if torch.rand(()) > 0.5:
        left = torch.rand(3)
    else:
        left = torch.rand(4)
    READ
x.view(2, 2)
"""


@pytest.mark.parametrize(("read", "verdict"), [("pass", Verdict.PROVED), ("x = x + left", Verdict.ERROR)])
def test_a_script_s_own_variables(read, verdict, tmp_path):
    """What a script leaves in a variable that it does not read any more tells no runs apart; what it reads, does."""
    file = tmp_path / "script.py"
    file.write_text(SCRIPT.replace("READ", read))
    report = check(str(file), [], sandboxed=False)
    assert report.verdict is verdict, report
    if verdict is Verdict.PROVED:
        assert report.statistics["runs"] <= 4
