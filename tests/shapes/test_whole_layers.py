"""Layers that are made as a whole give what torch gives; what does not fit is left to it, and so are gradients of gradients."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from test_operator_rules import by_rule, by_torch, lies

from sparsam.shapes.check import check
from sparsam.shapes.checker import substituted
from sparsam.shapes.verdict import Verdict

HEAD = """
import torch
from torch import nn


def f(n, m):
    x = torch.zeros(n, m, 3)
"""
KINDS = [
    ("LSTM", {}),
    ("LSTM", {"proj_size": 2}),
    ("GRU", {}),
    ("RNN", {}),
    ("RNN", {"nonlinearity": "relu"}),
]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sizes", [[2, 4], [2, 5, 4], [2, 3, 5, 4], [0, 3, 4]])
def test_a_linear_layer_is_that_of_torch(sizes, bias):
    """Whatever dimensions come before, in order or not."""

    def call(x):
        weight, more = torch.zeros(6, 4), torch.zeros(6) if bias else None
        last = x.transpose(0, -2) if x.dim() > 2 else x
        return F.linear(x, weight, more), F.linear(last, weight, more), F.linear(x.double(), weight.double())

    with substituted():
        assert by_rule(call, [sizes], lies) == by_torch(call, [sizes], lies)


@pytest.mark.parametrize(("kind", "options"), KINDS)
@pytest.mark.parametrize(
    ("layers", "both", "first", "bias"),
    [*itertools.product([1, 2], [False, True], [False, True], [True]), (2, True, False, False)],
)
def test_a_recurrent_layer_is_that_of_torch(kind, options, layers, both, first, bias):
    """Outputs and last states: their sizes, and that a pass gives every weight a gradient."""

    def call(x):
        layer = getattr(torch.nn, kind)(
            4, 5, layers, bias=bias, batch_first=first, bidirectional=both, **options
        )
        outputs, last = layer(x)
        again, _ = layer(x, last)
        (outputs.sum() + again.sum()).backward()
        graded = torch.zeros(sum(weight.grad is not None for weight in layer.parameters()))
        return [outputs * 1, last, again * 1, graded]

    with substituted():
        assert by_rule(call, [[3, 2, 4]], lies) == by_torch(call, [[3, 2, 4]], lies)


WRONG = {
    "a linear layer": "nn.Linear(4, 2)(x)",
    "inputs": "nn.LSTM(4, 5)(x)",
    "a state of another batch": "nn.GRU(3, 5)(x, torch.zeros(1, n, 5))",
    "a state of another width": "nn.RNN(3, 5)(x, torch.zeros(1, m, 4))",
    "too few states": "nn.RNN(3, 5, bidirectional=True)(x, torch.zeros(1, m, 5))",
    "a memory of another width": "nn.LSTM(3, 5)(x, (torch.zeros(1, m, 5), torch.zeros(1, m, 4)))",
    "other numbers": "nn.LSTM(3, 5)(x.double())",
    "other numbers in a linear layer": "nn.Linear(3, 5)(x.double())",
    "another device": "nn.Linear(3, 5)(x.to('meta'))",
    "a bias that does not fit": "nn.functional.linear(x, torch.zeros(2, 3), torch.zeros(4))",
    "a norm over all batches of other channels": "nn.BatchNorm1d(4, momentum=None)(torch.zeros(n + 1, 3))",
    "nothing to look at": "nn.LSTM(3, 5)(x[:0])",
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_refused(name, tmp_path):
    """As by torch, with a witness."""
    report = checked(f"    {WRONG[name]}\n", tmp_path)
    assert report.verdict is Verdict.ERROR, report.unknowns
    assert all(finding.confirmed for finding in report.findings)


RIGHT = {
    "a gradient of a gradient": """
    x.requires_grad_()
    layer = nn.Linear(3, 4)
    (slope,) = torch.autograd.grad(layer(x).sum(), x, create_graph=True)
    ((slope.norm(dim=2) - 1) ** 2).mean().backward()
    layer.weight.grad.view(12)
    slope.view(n, m * 3)
""",
    "through a recurrent layer": """
    x.requires_grad_()
    outputs, (hidden, memory) = nn.LSTM(3, 4)(x)
    (slope,) = torch.autograd.grad(hidden.sum(), x, create_graph=True)
    slope.sum().backward()
    x.grad.view(n, m * 3)
""",
    "a hook on the way": """
    seen = []
    y = nn.Linear(3, 4)(x)
    y.register_hook(lambda gradient: seen.append(gradient.view(n, m * 4)))
    y.sum().backward()
    seen[0]
""",
    "no gradient of what wants none": """
    layer = nn.Linear(3, 4)
    layer.bias.requires_grad_(False)
    layer(x).sum().backward()
    if layer.bias.grad is not None or x.grad is not None:
        x.view(1, 1)
    with torch.no_grad():
        if layer(x).requires_grad:
            x.view(1, 1)
""",
    "types that autocast gives": """
    layer = nn.Linear(3, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        if layer(x).dtype is not torch.bfloat16:
            x.view(1, 1)
""",
    "many at once": """
    layer = nn.Linear(3, 4)
    torch.func.vmap(layer)(x).view(n, m * 4)
    torch.func.functional_call(layer, dict(layer.named_parameters()), (x,)).view(n, m * 4)
""",
    "a norm over all batches": """
    norm = nn.BatchNorm1d(3, momentum=None)
    for i in range(n):
        y = norm(torch.zeros(m + 1, 3))
    if norm.momentum is not None:
        x.view(1, 1)
    norm.eval()(y).view(m + 1, 3)
""",
    "packed": """
    packed = nn.utils.rnn.pack_padded_sequence(x, torch.full((m,), n), enforce_sorted=False)
    outputs, last = nn.GRU(3, 4, 2, bidirectional=True)(packed)
    last.view(4, m * 4)
""",
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_a_pass_needs_is_there(name, tmp_path):
    """Gradients, their own, hooks, and what changes the type of results."""
    report = checked(RIGHT[name], tmp_path)
    assert report.verdict is Verdict.PROVED, (report.findings, report.unknowns)


def checked(body: str, tmp_path):
    """The report on a function of these lines."""
    file = tmp_path / "piece.py"
    file.write_text(HEAD + body)
    return check(f"{file}:f", ["n=1..6", "m=1..6"], sandboxed=False)
