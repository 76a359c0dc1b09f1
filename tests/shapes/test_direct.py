"""Operators that are made at once give what torch gives, and leave to it what it refuses."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_operator_rules import by_rule, by_torch, lies, ready  # noqa: F401

from sparsam.shapes import direct
from sparsam.shapes.check import check
from sparsam.shapes.checker import substituted
from sparsam.shapes.verdict import Verdict

aten = torch.ops.aten
ALONE = [name for name in direct._SAME.split() if name not in ("clamp_min", "clamp_max")]
CALLS: dict[str, tuple[list[list[int]], Callable[..., Any]]] = {
    **{name: ([[2, 3]], lambda x, name=name: getattr(aten, name)(x)) for name in ALONE},
    **{
        f"{name} of {kind}": (
            [[2, 3], [2, 3]],
            lambda x, y, name=name, dtype=dtype: getattr(torch, name)(x.to(dtype), y.to(dtype)),
        )
        for name in ("add", "sub", "mul", "div")
        for kind, dtype in (("half", torch.float16), ("double", torch.float64))
    },
    "with a number": ([[2, 3]], lambda x: (x + 1, x * 2.5, x / 2, 1 - x)),
    "bounded": ([[2, 3]], lambda x: (x.clamp(min=0), x.clamp(max=1), x.clamp(0, 1))),
    "gelu": ([[2, 3]], lambda x: (F.gelu(x), F.gelu(x, approximate="tanh"))),
    "softmax": ([[2, 3, 4]], lambda x: (x.softmax(0), x.log_softmax(-1), x.softmax(1, dtype=torch.float64))),
    "products": ([[2, 3, 4], [2, 4, 5], [4, 5]], lambda x, y, z: (torch.bmm(x, y), x[0] @ z, (z.t() @ x[0].t()).t())),
    "linear": ([[2, 3, 4], [5, 4], [5]], lambda x, w, b: (F.linear(x, w, b), F.linear(x[0], w, b), F.linear(x, w))),
    "norms": (
        [[2, 3, 4, 4], [3], [4]],
        lambda x, c, w: (
            F.layer_norm(x, (x.shape[-1],), w, w),
            F.layer_norm(x, x.shape[1:]),
            F.batch_norm(x, c, c.abs() + 1, c, c, training=True),
            F.batch_norm(x, c, c.abs() + 1),
        ),
    ),
    "chance": ([[2, 3]], lambda x: (torch.rand_like(x), torch.randn_like(x), x.uniform_(0, 2), x.normal_(), x.bernoulli_(0.5))),
    "made": ([[2, 3]], lambda x: (torch.empty(x.shape), torch.empty(*x.shape, dtype=torch.int32), torch.empty(0))),
    "joined": (
        [[2, 3], [2, 3]],
        lambda x, y: (
            torch.stack([x, y]),
            torch.stack([x, y], -1),
            torch.cat([x, y]),
            torch.cat([x, y], -1),
            torch.cat([torch.zeros(x.shape[0], 8)[:, :4], torch.zeros(x.shape[0], 8)[:, 4:]], 1),
        ),
    ),
    "pictures joined": (
        [[2, 3, 4, 4]],
        lambda x: (torch.cat([x, x], 1), torch.cat([y := x.to(memory_format=torch.channels_last), y], 1), torch.stack([y, y])),
    ),
    "a bias of all but the first dimensions": ([[5, 2, 3], [2, 3], [3]], lambda x, y, z: (x + y, x * z, x - z, z + x)),
    "rows of a table": ([[7, 3], [2, 4]], lambda t, x: F.embedding(torch.zeros(x.shape, dtype=torch.int64), t)),
    "scores": (
        [[4, 3], [3]],
        lambda x, w: [
            F.nll_loss(x, torch.zeros(x.shape[0], dtype=torch.int64), weight, reduction=reduction)
            for weight in (None, w)
            for reduction in ("none", "mean", "sum")
        ],
    ),
    "convolutions": (
        [[2]],
        lambda x: [
            part
            for y in [torch.zeros(x.shape[0], 4, 9, 8)]
            for part in (
                F.conv2d(y, torch.zeros(6, 4, 3, 2)),
                F.conv2d(y, torch.zeros(6, 4, 1, 1), torch.zeros(6), stride=2),
                F.conv2d(y, torch.zeros(8, 2, 3, 3), padding=1, groups=2, dilation=2),
                F.conv2d(y, torch.zeros(4, 1, 9, 8), groups=4),
                F.conv1d(y[..., 0], torch.zeros(2, 4, 5), padding=3),
                F.conv3d(y.unsqueeze(2), torch.zeros(2, 4, 1, 2, 2)),
                F.conv_transpose2d(y, torch.zeros(4, 2, 3, 3), stride=2),
            )
        ],
    ),
    "dimensions in another order": (
        [[2, 3, 4]],
        lambda x: (x.transpose(0, 2), x.permute(2, 0, 1), x[0].t(), x.transpose(-1, -2).contiguous()),
    ),
    "parts of a known dimension": (
        [[2]],
        lambda x: [
            part
            for y in [torch.zeros(x.shape[0], 7, 3)]
            for part in (
                y.select(1, 2), y.select(1, -1), y[:, 2:], y[:, 1:6:2], y[:, :-2],
                y[:, 5:2], y[:, 9:], y[..., 1], y[:, ::3, 1:],
            )
        ],
    ),
    "views of symbols": (
        [[4, 6], [2, 3, 5]],
        lambda x, y: (
            x.view(x.shape[0] * x.shape[1]),
            x.view(-1),
            x.view(x.shape[0], 1, -1),
            y.view(y.shape[0] * y.shape[1], -1),
            y.view(-1, y.shape[2]).view(y.shape[0], y.shape[1], y.shape[2]),
            y.view(1, *y.shape, 1),
            torch.zeros(x.shape[0], 6).view(2 * x.shape[0], 3),
            torch.zeros(x.shape[0], 6).view(-1, 2),
        ),
    ),
    "in place": (
        [[2, 3]],
        lambda x: (x.clone().add_(1), x.clone().mul_(2.5), x.clone().zero_(), x.clone().relu_(), x.long().add_(3)),
    ),
    "in place, more": ([[2, 3]], lambda x: (x.clone().fill_(2), x.clone().sub_(1), x.long().fill_(3), x.long().sub_(1))),
    "compared": (
        [[2, 3], [2, 3]],
        lambda x, y: [
            part
            for name in ("eq", "ne", "lt", "le", "gt", "ge")
            for compare in [getattr(torch, name)]
            for part in (
                compare(x, 0.5), compare(x, 1), compare(x, y), compare(x, y[0]), compare(x.double(), y.double()),
                compare(x.long(), 1), compare(x.long(), 0.5), compare(x.long(), y.long()), compare(x, y.long()),
                compare(x.t(), y.t()), compare(x.long().t(), 2), compare(x > 0, True),
            )
        ],
    ),
    "totals": (
        [[2, 3]],
        lambda x: (
            x.sum(), x.t().sum(), x.half().sum(), x.long().sum(), x.int().sum(), (x > 0).sum(), x.byte().sum(),
            x.sum(dtype=torch.float64), torch.tensor(2.0).sum(), x.to(torch.complex64).sum(),
        ),
    ),
    "copies": (
        [[2, 3, 4, 4]],
        lambda x: (
            x.clone(), x.long().clone(), (x > 0).clone(), x.transpose(0, 1).clone(), torch.tensor([1.0, 2.0]).clone(),
            x.clone(memory_format=torch.contiguous_format), x.clone(memory_format=torch.channels_last),
        ),
    ),
    "made like another": (
        [[2, 3]],
        lambda x: (
            x.new_zeros(x.shape), x.new_ones(4, x.shape[0]), x.new_zeros((2, 3), dtype=torch.int64), x.new_zeros(()),
            x.t().new_zeros(x.shape), x.long().new_zeros(x.shape), x.double().new_ones(x.shape[0]),
        ),
    ),
    "numbers": (
        [[2]],
        lambda x: (
            torch.tensor(2.5), torch.tensor([3]), torch.tensor([[True]]), torch.tensor([1.0, 2.0]), torch.tensor([]),
            torch.zeros(torch.tensor(3).item()), torch.zeros(int(torch.sqrt(torch.tensor([9.0])).item())),
            torch.zeros(torch.tensor(2).add_(2).item()), torch.bernoulli(x), torch.bernoulli(x, 0.5),
        ),
    ),
    "like another": (
        [[2, 3]],
        lambda x: (torch.empty_like(x), torch.zeros_like(x), torch.empty_like(x, dtype=torch.float64), torch.ones(x.shape)),
    ),
    "views of plain sizes": (
        [[2]],
        lambda x: [
            part * 1
            for y in [torch.zeros(4, 6)]
            for part in (
                y.view(3, 8),
                y.t(),
                y.transpose(0, 1),
                y[1],
                y[1:3, ::2],
                y.unsqueeze(1),
                y.expand(2, 4, 6),
                y.permute(1, 0),
            )
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_results_are_those_of_torch(name):
    """Sizes, strides and, where a call is made of several types, those."""
    sizes, call = CALLS[name]

    def seen(value: Any) -> Any:
        parts = value if isinstance(value, (tuple, list)) else [value]
        return [(lies(part), part.dtype) for part in parts]

    with substituted():
        expected = by_torch(call, sizes, seen)
        assert not isinstance(expected, str), expected
        assert by_rule(call, sizes, seen) == expected


REFUSED = {
    "a comparison of other sizes": "torch.rand(n, 3) == torch.rand(n, 4)",
    "zeros of a size below nothing": "torch.rand(n).new_zeros(n - 4)",
    "the item of many": "torch.tensor([1.0, 2.0]).item() + n",
    "a half in whole numbers": "torch.zeros(n, dtype=torch.int64).sub_(0.5)",
    "the total along a dimension that is not there": "torch.rand(n).sum(1)",
    "no bounds": "torch.rand(n).clamp()",
    "an unknown form": "F.gelu(torch.rand(n), approximate='fast')",
    "a range from its end": "torch.empty(n).uniform_(2, 1)",
    "a negative scale": "torch.empty(n).normal_(0, -1)",
    "a share of more than all": "torch.empty(n).bernoulli_(1.5)",
    "two types": "torch.rand(n, 3) @ torch.rand(3, n).double()",
    "two devices": "torch.rand(n, 3, device='meta') + torch.rand(n, 3)",
    "matrices that are no batch of them": "torch.bmm(torch.rand(n, n), torch.rand(n, n))",
    "a batch that is no matrix": "torch.mm(torch.rand(n, n, n), torch.rand(n, n, n))",
    "a batch of matrices as weights": "torch.addmm(torch.rand(n), torch.rand(n, n), torch.rand(1, n, n))",
    "weights of another width": "F.linear(torch.rand(n, 3), torch.rand(2, 4))",
    "a norm of another width": "F.layer_norm(torch.rand(n, 3), (4,))",
    "a dimension that is not there": "torch.rand(n).softmax(1)",
    "a dimension that is not there to sort": "torch.rand(n, 2).argsort(2)",
    "halves without a kernel": "torch.bmm(torch.zeros(n, 2, 2, dtype=torch.float16), torch.zeros(n, 2, 2))",
    "rows of a table that are no whole numbers": "F.embedding(torch.rand(n), torch.rand(4, 2))",
    "tensors of other sizes to stack": "torch.stack([torch.rand(n), torch.rand(n + 1)])",
    "tensors of other sizes to join": "torch.cat([torch.rand(n, 2), torch.rand(n, 3)])",
    "tensors of other dimensions to join": "torch.cat([torch.rand(n, 2), torch.rand(n + 1)], 1)",
    "more scores than targets": "F.nll_loss(torch.rand(n + 1, 3), torch.zeros(n, dtype=torch.int64))",
    "weights of other classes": "F.nll_loss(torch.rand(n, 3), torch.zeros(n, dtype=torch.int64), torch.rand(2))",
    "a kernel larger than the picture": "F.conv2d(torch.rand(n, 1, 2, 2), torch.rand(1, 1, 3, 3))",
    "channels that are not there": "F.conv2d(torch.rand(n, 3, 4, 4), torch.rand(2, 4, 3, 3))",
    "a bias of other channels": "F.conv2d(torch.rand(n, 3, 4, 4), torch.rand(2, 3, 3, 3), torch.rand(3))",
    "a kernel of another type": "F.conv2d(torch.rand(n, 3, 4, 4), torch.rand(2, 3, 3, 3).double())",
    "an item that is not there": "torch.rand(n, 3).select(1, 3)",
    "a step of nothing": "torch.rand(n, 3)[:, ::0]",
    "three dimensions to turn": "torch.rand(n, 3, 2).t()",
    "a dimension named twice": "torch.rand(n, 3).permute(0, 0)",
    "a view of too many": "torch.rand(n, 3).view(n, 4)",
    "a view of no such size": "torch.rand(n, 6).view(-n, 6)",
    "sizes below nothing of as many items": "torch.rand((n - 2) * (n - 2)).view(n - 2, n - 2)",
    "two sizes to be found": "torch.rand(n, 6).view(-1, n, -1)",
    "a whole number that would not be one": "torch.zeros(n, dtype=torch.int64).add_(1.5)",
    "one place for many": "torch.zeros(1, dtype=torch.int64).expand(n + 1).add_(1)",
    "a view across": "torch.zeros(3, 2, 2).unfold(-2, 2, 2).view(6, -1)",
    "a view across, of some sizes": "torch.zeros(3, 2, n).unfold(-2, 2, 2).view(3 * n, -1)",
}
TAKEN = {
    "a number that was written to": "torch.rand(4 * n).view(torch.tensor(2).add_(2).item(), n)",
    "a number that a view has written to": "[one := torch.tensor([3]), one[0].fill_(7), torch.zeros(7).view(one.item())]",
    "names in another order": "torch.matmul(other=torch.rand(2, n, 4), input=torch.rand(2, 3, n))",
    "a view of a size that another gives": "torch.rand(n, 6).view(n - 7, 6) if n == 6 else None",
    "a view of a size that is found": "torch.rand(n, 6).view(n - 7, n) if n == 6 else None",
    "a view for one of the sizes": "torch.rand(n, 8).t().view(8, n) if n == 1 else None",
    "an expression of a size": "torch.rand(8 * n, 3).t().reshape(3, 8, n).reshape(-1)",
}


def checked(line: str, tmp_path):
    """The report on a function of one line."""
    file = tmp_path / "piece.py"
    file.write_text(f"import torch\nimport torch.nn.functional as F\n\n\ndef f(n):\n    return {line}\n")
    return check(f"{file}:f", ["n=1..6"], sandboxed=False)


@pytest.mark.parametrize("name", REFUSED)
def test_what_torch_refuses_is_left_to_it(name, tmp_path):
    """What is not plain to see is no operator of these."""
    report = checked(REFUSED[name], tmp_path)
    assert report.verdict is Verdict.ERROR, report.unknowns
    assert all(finding.confirmed for finding in report.findings)


@pytest.mark.parametrize("name", TAKEN)
def test_what_torch_takes_raises_no_alarm(name, tmp_path):
    """For all sizes."""
    report = checked(TAKEN[name], tmp_path)
    assert report.verdict is Verdict.PROVED, (report.findings, report.unknowns)


def test_a_message_has_the_numbers_of_the_witness(tmp_path):
    """A text is the same in all runs, but what is told of a failure is what the program says for these sizes."""
    file = tmp_path / "own.py"
    file.write_text(
        "import torch\n\n\ndef f(n):\n    if n % 3 == 2:\n        raise ValueError(f'n is {n}, which leaves 2')\n"
    )
    (finding,) = check(f"{file}:f", ["n=1.."], sandboxed=False).findings
    assert finding.failure.text == f"n is {finding.witness['n']}, which leaves 2"
