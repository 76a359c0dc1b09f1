"""What is known of a tensor's values holds until somebody writes to it."""

import textwrap

import pytest

from sparsam.shapes.check import check
from sparsam.shapes.verdict import Verdict

HEAD = """
import numpy as np
import torch


def fail():
    torch.zeros(2, 3) @ torch.zeros(2, 3)


def f():
"""
WRITTEN = {
    "a factor": "x = torch.rand(())\nx.mul_(10)\nif x.item() > 5: fail()",
    "a summand": "x = torch.rand(())\nx += 10\nif x.item() > 5: fail()",
    "a number": "x = torch.rand(())\nx.fill_(10)\nif x.item() > 5: fail()",
    "another": "x = torch.rand(())\nx.copy_(torch.tensor(10.0))\nif x.item() > 5: fail()",
    "an item": "x = torch.rand(3)\nx[0] = 10\nif x[0].item() > 5: fail()",
    "through a view": "x = torch.rand(3)\nx.view(3).mul_(10)\nif x[0].item() > 5: fail()",
    "through an ellipsis": "x = torch.rand(())\ny = x[...]\ny.mul_(10)\nif x.item() > 5: fail()",
    "to a whole number": "x = torch.randint(0, 3, ())\nx.add_(10)\nif x.item() > 5: fail()",
    "to whole numbers through a view": "x = torch.randint(0, 3, (3,))\nx.view(3).add_(10)\nif x[0].item() > 5: fail()",
    "to a permutation": "x = torch.randperm(3)\nx += 10\nif x[0].item() > 5: fail()",
    "without gradients": "x = torch.rand(())\nwith torch.inference_mode():\n    x.mul_(10)\nif x.item() > 5: fail()",
    "to numbers of NumPy": "x = np.random.rand(3)\nx *= 10\nif x[0] > 5: fail()",
    "to an item of NumPy": "x = np.random.rand(3)\nx[0] = 10\nif x[0] > 5: fail()",
    "to whole numbers of NumPy": "x = np.random.randint(0, 3, 3)\nx += 10\nif x[0] > 5: fail()",
    "many at once": "x = torch.rand(3)\ntorch._foreach_mul_([x], 10)\nif x[0].item() > 5: fail()",
    "as a result": "x = torch.rand(3)\ntorch.mul(x, 10, out=x)\nif x[0].item() > 5: fail()",
    "by an array of NumPy": "x = torch.rand(3)\na = x.numpy()\na *= 10\nif x[0].item() > 5: fail()",
    "before a copy": "x = torch.rand(3)\nx.mul_(10)\nif x.to('meta').to('cpu')[0].item() > 5: fail()",
    "in some runs": "x = torch.rand(())\nif torch.rand(()).item() < 0.5:\n    x.mul_(10)\n"
                    "y = (torch.zeros(3, 3) @ torch.zeros(3, 3) + 1).relu().softmax(-1).sum(0).exp().mean().log()\n"
                    "if x.item() > 5: fail()",
    "a gradient": "x = torch.rand(()).requires_grad_()\n(x * 10).sum().backward()\nif x.grad.item() > 5: fail()",
    "in a round": "x = torch.rand(())\nfor i in range(100):\n    if x.item() > 5: fail()\n    x.mul_(10)",
}  # fmt: skip
WORTH = "y = (torch.zeros(3, 3) @ torch.zeros(3, 3) + 1).relu().softmax(-1).sum(0).exp().mean().log()\n"
COIN = "if torch.rand(()).item() < 0.5: "
GIVEN = {
    "another number": f"x = torch.tensor(3)\n{COIN}x = torch.tensor(5)\n{WORTH}if x.item() == 5: fail()",
    "other numbers": f"x = torch.tensor([3, 4])\n{COIN}x = torch.tensor([3, 5])\n{WORTH}if x[1].item() == 5: fail()",
    "an index": f"x = torch.tensor([1, 2])\n{COIN}x = torch.tensor([1, 7])\n{WORTH}torch.zeros(4)[x]",
    "an item": f"x = torch.tensor([1, 2])\n{COIN}x[1] = 7\n{WORTH}if x[1].item() == 7: fail()",
    "after a round": "x = torch.tensor(3)\nfor i in range(100):\n    if x.item() == 5: fail()\n    x = torch.tensor(5)",
    "after some rounds": "x = torch.tensor(3)\nfor i in range(100):\n    if x.item() == 5: fail()\n"
                         "    if i == 7: x = torch.tensor(5)",
    "a text after some rounds": "x = 'a'\nfor i in range(100):\n    if x == 'b': fail()\n    if i == 7: x = 'b'",
    "a text in a list after some rounds": "x = ['a']\nfor i in range(100):\n    if x[0] == 'b': fail()\n"
                                          "    if i == 7: x[0] = 'b'",
    "a member after some rounds": "import enum\nE = enum.Enum('E', 'A B')\nx = E.A\nfor i in range(100):\n"
                                  "    if x is E.B: fail()\n    if i == 7: x = E.B",
    "an object after some rounds": "class A: pass\na, b = A(), A()\na.n, b.n = 1, 2\nx = a\nfor i in range(100):\n"
                                   "    torch.zeros(x.n).view(1)\n    if i == 7: x = b\ntorch.zeros(a.n + b.n)",
    "a list after some rounds": "a, b = [1], [1, 2]\nx = a\nfor i in range(100):\n    torch.zeros(len(x)).view(1)\n"
                                "    if i == 7: x = b\ntorch.zeros(len(a) + len(b))",
    "a list after each round": "a, b = [1], [1, 2]\nx = a\nfor i in range(100):\n    torch.zeros(len(x)).view(1)\n"
                               "    x = b\ntorch.zeros(len(a) + len(b))",
    "a module after some rounds": "a, b = torch.nn.Linear(2, 2), torch.nn.Linear(3, 3)\nx = a\nfor i in range(100):\n"
                                  "    x(torch.zeros(1, 2))\n    if i == 7: x = b\na, b",
    "bytes after some rounds": "x = bytearray(b'a')\nfor i in range(100):\n    torch.zeros(len(x)).view(1)\n"
                               "    if i == 7: x.append(1)",
    "a decimal after some rounds": "import decimal\nx = decimal.Decimal(1)\nfor i in range(100):\n"
                                   "    torch.zeros(int(x)).view(1)\n    if i == 7: x += 1",
    "an attribute of a class": f"class A:\n    n = 1\na = A()\n{COIN}A.n = 2\n{WORTH}torch.zeros(a.n).view(1)",
    "a class of a class": f"class A:\n    n = 1\nclass B(A): pass\na = B()\n{COIN}A.n = 2\n{WORTH}torch.zeros(a.n).view(1)",
    "an attribute of a member": "import enum\nE = enum.Enum('E', 'A B')\nE.A.n = 1\nx = E.A\n"
                                f"{COIN}x.n = 2\n{WORTH}torch.zeros(x.n).view(1)",
    "a member with a list": "import enum\nclass E(enum.Enum):\n    A = []\nx = E.A\n"
                            f"{COIN}x.value.append(1)\n{WORTH}torch.zeros(len(x.value) + 1).view(1)",
    "bytes": f"b = bytearray(2)\nx = memoryview(b)\n{COIN}b[0] = 7\n{WORTH}torch.zeros(x[0] + 1).view(1)",
    "what a reference refers to": "import weakref\nclass A: pass\na = A()\nr = weakref.ref(a)\n"
                                  f"{COIN}del a\n{WORTH}if r() is None: fail()",
    "a variable of the context": "import contextvars\nv = contextvars.ContextVar('v', default=1)\n"
                                 f"{COIN}v.set(2)\n{WORTH}torch.zeros(v.get()).view(1)",
    "what is a warning": f"import warnings\n{COIN}warnings.simplefilter('error')\n{WORTH}warnings.warn('x')",
    "how deep calls may be": f"import sys\n{COIN}sys.setrecursionlimit(777)\n{WORTH}if sys.getrecursionlimit() == 777: fail()",
}  # fmt: skip
KEPT = {
    "a float": "x = torch.rand(())\nif x.item() > 5: fail()",
    "whole numbers": "x = torch.randint(0, 3, (4,))\nif x[1].item() > 5: fail()",
    "in all runs": "x = torch.rand(())\nif torch.rand(()).item() < 0.5:\n    y = x * 10\nif x.item() > 5: fail()",
    "an object made in each round": "for i in range(100):\n    a = [1]\n    b = [a, a]\n    torch.zeros(len(b[1])).view(1)",
    "an object and its other names": "a = b = [1]\nc = [a]\nfor i in range(100):\n    torch.zeros(len(c[0])).view(1)\n"
    "    a = [1]\n    b, c = a, [a]",
    "in all rounds": "for i in range(100):\n    x = torch.rand(())\n    if x.item() > 5: fail()",
}


def checked(lines, tmp_path):
    """The report on a function with these lines."""
    file = tmp_path / "written_to.py"
    file.write_text(HEAD + textwrap.indent(lines, "    ") + "\n")
    return check(f"{file}:f", [], sandboxed=False)


@pytest.mark.parametrize("name", WRITTEN)
def test_what_was_written_since_is_not_ruled_out(name, tmp_path):
    """Numbers that are drawn lie within a range, and those that come of them by writing do not."""
    assert checked(WRITTEN[name], tmp_path).verdict is not Verdict.PROVED


@pytest.mark.parametrize("name", GIVEN)
def test_what_differs_between_runs_belongs_to_the_state(name, tmp_path):
    """Each was left out of it once, and the program proved."""
    assert checked(GIVEN[name], tmp_path).verdict is not Verdict.PROVED


@pytest.mark.parametrize("name", KEPT)
def test_what_was_drawn_lies_in_its_range(name, tmp_path):
    """As long as nobody writes to it."""
    report = checked(KEPT[name], tmp_path)
    assert report.verdict is Verdict.PROVED, (report.findings, report.unknowns)
