"""Which parameters a tensor depends on belongs to the state: after the backward pass these have gradients, and others not."""

import pytest

from sparsam.shapes.check import check
from sparsam.shapes.verdict import Verdict

HEAD = """
import torch
from torch import nn


def coin():
    return torch.rand(()).item() < 0.5


class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        return WHAT


def f(n):
    one, other, x, kept = nn.Linear(3, 2), nn.Linear(3, 2), torch.zeros(n, 3), []
"""
CASES = {
    "one of two layers": """
    if coin():
        y = one(x)
    else:
        y = other(x)
    y.sum().backward()
""",
    "a layer that is left out": """
    y = other(x)
    if coin():
        y = y + one(x)
    y.sum().backward()
""",
    "one that was kept": """
    for i in range(3):
        kept.append(one(x) if coin() else other(x))
    sum(kept).sum().backward()
""",
    "known to the optimizer alone": """
    layers = [one, other]
    optimizer = torch.optim.SGD([*one.parameters(), *other.parameters()], lr=0.1)
    y = layers[0](x) if coin() else layers[1](x)
    y.sum().backward()
    one = type("Held", (), {"weight": optimizer.param_groups[0]["params"][0]})
""",
}


def checked(body: str, tmp_path, what: str = "gradient"):
    """The report on a program that ends with these lines."""
    file = tmp_path / "graph.py"
    file.write_text(HEAD.replace("WHAT", what) + body)
    return check(f"{file}:f", ["n=1.."], sandboxed=False)


@pytest.mark.parametrize("none", ["is None", "is not None"])
@pytest.mark.parametrize("name", CASES)
def test_a_gradient_that_is_there_on_one_way_alone(name, none, tmp_path):
    """Either question fails for one side of the coin, whichever is looked at first."""
    report = checked(
        f"{CASES[name]}    if one.weight.grad {none}:\n        torch.zeros(2).view(3)\n", tmp_path
    )
    assert report.verdict is Verdict.ERROR, report.unknowns
    report = checked(f"{CASES[name]}    one.weight.view(6)\n", tmp_path)
    assert report.verdict is Verdict.PROVED, (report.findings, report.unknowns)


@pytest.mark.parametrize("swapped", [False, True])
def test_a_pass_of_the_program_s_own(swapped, tmp_path):
    """It runs on the way that has come by it."""
    ways = "one(x)", "Twice.apply(one(x))"
    body = f"""
    if coin():
        y = {ways[swapped]}
    else:
        y = {ways[not swapped]}
    y.sum().backward()
"""
    assert checked(body, tmp_path).verdict is Verdict.PROVED
    assert checked(body, tmp_path, "gradient @ gradient.new_zeros(3, 3)").verdict is Verdict.ERROR


KEPT = """
import torch


class Cut(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, size):
        KEEP
        return x.sum()

    @staticmethod
    def backward(ctx, gradient):
        return gradient.new_zeros(2, 3).view(READ, -1), None


def f(n):
    x = torch.zeros(2, 3, requires_grad=True)
    if torch.rand(()).item() < 0.5:
        y = Cut.apply(x, SIZES)
    else:
        y = Cut.apply(x, OTHERS)
    z = torch.zeros(n)
    y.backward()
    return z
"""


WAYS = {
    "ctx.size = size": "ctx.size",
    "ctx.save_for_backward(x.new_zeros(size))": "ctx.saved_tensors[0].shape[0]",
}


@pytest.mark.parametrize(("keep", "read"), WAYS.items())
@pytest.mark.parametrize("sizes", [("2", "4"), ("4", "2")])
def test_what_a_pass_of_the_program_s_own_has_kept(keep, read, sizes, tmp_path):
    """It may fail for one of two ways that differ in nothing else."""
    file = tmp_path / "kept.py"
    made = KEPT.replace("KEEP", keep).replace("READ", read)
    file.write_text(made.replace("SIZES", sizes[0]).replace("OTHERS", sizes[1]))
    assert check(f"{file}:f", ["n=1.."], sandboxed=False).verdict is Verdict.ERROR
    file.write_text(made.replace("SIZES", "2").replace("OTHERS", "2"))
    assert check(f"{file}:f", ["n=1.."], sandboxed=False).verdict is Verdict.PROVED
