"""Lists whose items are alike but not the same: what stands for all of them is not one of them."""

import textwrap

import pytest
import torch
from random_programs import HEADER

from sparsam.shapes.check import check
from sparsam.shapes.verdict import Verdict

FAILING = {
    "numbers that a loop appends": (
        """
        def f(x):
            seen = []
            for i in range(x.shape[0]):
                seen.append(i)
            return torch.zeros(3, 2)[seen[-1]]
        """,
        {"x": (5, 1)},
    ),
    "the sum of numbers that a loop appends": (
        """
        def f(x):
            seen = []
            for i in range(x.shape[0]):
                seen.append(i)
            return torch.zeros(4, 2)[sum(seen)]
        """,
        {"x": (5, 1)},
    ),
    "pairs of numbers": (
        """
        def f(x):
            pairs = [(1, 2), (3, 4), (5, 6)]
            for i in range(x.shape[0] % 3):
                first, second = pairs[i]
                x = x.view(-1, 1) @ torch.zeros(1, 1)
                y = torch.zeros(first) + torch.zeros(1)
            return torch.zeros(2)[pairs[x.shape[0] % 3][0] - 1]
        """,
        {"x": (2, 1)},
    ),
    "truths": (
        """
        def f(x):
            wide = [True, False]
            return torch.zeros(2, 3) @ torch.zeros(3 if wide[x.shape[0] % 2] else 2, 1)
        """,
        {"x": (1, 1)},
    ),
    "the last of a comprehension": (
        """
        def f(x):
            sizes = [i + 1 for i in range(x.shape[0])]
            return torch.zeros(2, 3)[sizes[-1] - 1]
        """,
        {"x": (3, 1)},
    ),
}


@pytest.mark.parametrize("name", FAILING)
def test_what_fails_for_a_later_item_is_not_proved(name, tmp_path):
    """Torch fails for these sizes, so the program is no proved one; what is the same in all rounds still is."""
    code, sizes = FAILING[name]
    source = HEADER + textwrap.dedent(code)
    space: dict = {}
    exec(source, space)
    with pytest.raises((RuntimeError, IndexError)):
        space["f"](*(torch.zeros(shape) for shape in sizes.values()))
    file = tmp_path / "items.py"
    file.write_text(source)
    report = check(f"{file}:f", ["x=A×1", "A=0..9"], sandboxed=False)
    assert report.verdict is not Verdict.PROVED, report.paths


def test_equal_numbers_stay_what_they_are(tmp_path):
    """Each round appends the same number: its sum is its multiple, and an index of it is known."""
    file = tmp_path / "equal.py"
    code = """
    def f(x):
        seen = []
        for i in range(x.shape[0]):
            seen.append(2)
        return torch.zeros(3, 2)[seen[-1]] if seen else x
    """
    file.write_text(HEADER + textwrap.dedent(code))
    assert check(f"{file}:f", ["x=A×1", "A=0..9"], sandboxed=False).verdict is Verdict.PROVED
