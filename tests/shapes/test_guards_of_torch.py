"""What torch's symbolic run really writes down is understood: every guard of some dozens of operators."""

import logging
import math

import pytest
import sympy
import torch
import torch.nn.functional as F
from random_conditions import satisfied
from torch import nn
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from sparsam.shapes import evaluate
from sparsam.shapes.solver import Domain, Solver, text

PROGRAMS = {
    "conv2d": (lambda x, w, b: F.conv2d(x, w, b, stride=2, padding=1), (2, 3, 17, 19), (8, 3, 3, 3), (8,)),
    "conv_transpose2d": (
        lambda x, w: F.conv_transpose2d(x, w, stride=2, padding=1, output_padding=1), (2, 3, 17, 19), (3, 8, 3, 3)
    ),
    "grouped conv1d": (lambda x, w: F.conv1d(x, w, groups=x.shape[1], padding="same"), (2, 6, 17), (6, 1, 3)),
    "max_pool2d": (lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True), (2, 3, 17, 19)),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, 3), (2, 3, 17, 19)),
    "adaptive_avg_pool2d": (lambda x: F.adaptive_avg_pool2d(x, 6), (2, 3, 17, 19)),
    "view -1": (lambda x: x.view(-1, x.shape[1] // 2, 2), (4, 6, 5)),
    "view -1, 16": (lambda x: x.view(-1, 16), (4, 8, 5)),
    "reshape of a transpose": (lambda x: x.transpose(0, 1).reshape(x.shape[0], -1), (4, 8, 5)),
    "heads": (lambda x: x.permute(0, 2, 1, 3).reshape(x.shape[0], x.shape[2], -1), (2, 12, 5, 64)),
    "cat": (lambda x, y: torch.cat([x, y], 1), (4, 6), (4, 7)),
    "chunk": (lambda x: x.chunk(3, -1), (4, 9)),
    "split": (lambda x: x.split(4, -1), (4, 9)),
    "interpolate": (lambda x: F.interpolate(x, scale_factor=1.5, mode="bilinear"), (2, 3, 17, 19)),
    "unfold": (lambda x: F.unfold(x, 3, padding=1, stride=2), (2, 3, 17, 19)),
    "fold": (lambda x: F.fold(x, (16, 16), 4, stride=4), (2, 48, 16)),
    "tensor unfold": (lambda x: x.unfold(1, 4, 3), (2, 17)),
    "attention": (F.scaled_dot_product_attention, (2, 4, 5, 8), (2, 4, 7, 8), (2, 4, 7, 8)),
    "attention by hand": (lambda q, k: (q @ k.transpose(-1, -2)).softmax(-1), (2, 4, 5, 8), (2, 4, 7, 8)),
    "cross_entropy": (lambda x: F.cross_entropy(x, torch.zeros(x.shape[0], dtype=torch.int64)), (4, 10)),
    "expand": (lambda x, y: x.expand(y.shape[0], -1, y.shape[1]), (4, 6, 1), (4, 5)),
    "einsum": (lambda x, y: torch.einsum("bij,bkj->bik", x, y), (4, 6, 3), (4, 5, 3)),
    "batch_norm": (lambda x, m, v: F.batch_norm(x, m, v, training=True), (4, 6, 3), (6,), (6,)),
    "group_norm": (lambda x: F.group_norm(x, 3), (4, 6, 3)),
    "layer_norm": (lambda x, w: F.layer_norm(x, (x.shape[-1],), w), (4, 6, 3), (3,)),
    "pixel_shuffle": (lambda x: F.pixel_shuffle(x, 2), (2, 12, 5, 6)),
    "pixel_unshuffle": (lambda x: F.pixel_unshuffle(x, 2), (2, 3, 6, 8)),
    "stft": (lambda x, w: torch.stft(x, 16, 4, window=w, return_complex=True), (2, 50), (16,)),
    "broadcast": (lambda x, y, z: torch.where(x > 0, y, z), (9, 4), (1, 4), (9, 1)),
    "linear": (F.linear, (2, 5, 6), (8, 6), (8,)),
    "encoder layer": (lambda x: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()(x), (2, 5, 8)),
    "topk": (lambda x: x.topk(3), (2, 5)),
    "slices": (lambda x: (x[:, 1:-1:2, None], x[-1:]), (2, 9)),
    "pad": (lambda x: F.pad(x, (1, 2, 3, 4), mode="reflect"), (2, 3, 9, 8)),
    "flatten, unflatten": (lambda x: x.flatten(1).unflatten(1, (-1, 3)), (4, 2, 6)),
    "matmul": (lambda x, y: x @ y, (3, 4, 5, 6), (4, 6, 7)),
    "grid_sample": (lambda x, g: F.grid_sample(x, g, align_corners=False), (2, 3, 6, 8), (2, 5, 5, 2)),
    "root": (lambda x: x.view(x.shape[0], int(x.shape[1] ** 0.5), -1), (4, 16)),
    "bits": (
        lambda x: x.new_zeros(x.shape[0] << 1, x.shape[1] >> 1, x.shape[0] & 3, x.shape[0] | 1), (4, 16)
    ),
    "rounding": (
        lambda x: x.new_zeros(math.ceil(x.shape[1] / 3), round(x.shape[0] * 0.7), math.floor(x.shape[1] / 2.5)).view(
            -1, 2
        ),
        (4, 16),
    ),
    "negative numbers": (
        lambda x: x if -x.shape[0] // 3 < -1 and (-x.shape[0]) % 3 == 2 and x.shape[0] % -3 else x + 1, (4, 16)
    ),
    "min, max": (lambda x: x[: min(x.shape[0], 5), : max(x.shape[1], 3)].view(-1), (4, 16)),
    "power": (lambda x: x.new_zeros(2 ** x.shape[0]).view(-1, 4), (4, 16)),
}  # fmt: skip


def recorded(name):
    """Guards of the program's symbolic run, and the sizes under which it ran."""
    program, *shapes = PROGRAMS[name]
    environment = ShapeEnv(specialize_zero_one=False, duck_shape=False)
    mode = FakeTensorMode(shape_env=environment)
    tensors = [
        mode.from_tensor(
            torch.zeros(shape),
            source=ConstantSource(f"x{i}"),
            symbolic_context=StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC] * len(shape)),
        )
        for i, shape in enumerate(shapes)
    ]
    logging.disable(logging.ERROR)
    try:
        with mode:
            result = program(*tensors)
    finally:
        logging.disable(logging.NOTSET)
    sizes = [
        s.node.expr
        for t in (result if isinstance(result, tuple) else (result,))
        for s in t.shape
        if isinstance(s, torch.SymInt)
    ]
    hints = {symbol.name: int(value) for symbol, value in environment.backed_var_to_val.items()}
    return [guard.expr for guard in environment.guards], sizes, hints


@pytest.mark.parametrize("name", PROGRAMS)
def test_guards_of_an_operator_are_understood(name):
    """Each guard holds under the sizes it was recorded with; what would break it first is found or refuted."""
    guards, sizes, hints = recorded(name)
    assert guards or sizes
    domains = {symbol: Domain(0, 1 << 20) for symbol in hints}
    solver = Solver()
    for i, guard in enumerate(guards):
        assert evaluate.function(guard)(hints) is True
        assert solver.solve(guards[: i + 1], domains, hints).model == hints
        region = [*guards[:i], sympy.Not(guard)]
        answer = solver.solve(region, domains, hints)
        assert answer.kind != "unknown", (text(guard), answer.reason)
        if answer.model is not None:
            assert satisfied(region, answer.model)
    for size in sizes:
        assert evaluate.function(size)(hints) >= 0
        assert text(size)
