"""`interpolate` and `affine_grid`, whose kernels want the new sizes as plain numbers."""

import inspect
import math
from typing import Any

import torch
from torch.nn import functional

from sparsam.shapes.environment import symbolic
from sparsam.shapes.mode import has_symbols
from sparsam.shapes.run import Run

SIGNATURE = inspect.signature(functional.interpolate)
AFFINE_GRID = inspect.signature(functional.affine_grid)


def interpolate(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`F.interpolate`: the sizes are given, or those of the input times a factor, rounded down.

    For plain numbers too, for without data the framework lets empty pictures pass. Whatever does not depend on sizes is
    refused by the framework itself, for a tensor of the same rank.
    """
    given = SIGNATURE.bind(*args, **kwargs)
    given.apply_defaults()
    tensor, size, factor = (given.arguments[name] for name in ("input", "size", "scale_factor"))
    if not isinstance(tensor, torch.Tensor) or not 3 <= tensor.dim() <= 5:
        return NotImplemented
    if any(isinstance(value, torch.Tensor) for value in (size, factor)):
        return NotImplemented
    trial = tensor.new_empty([1, 1, *[4] * (tensor.dim() - 2)])
    plain = {**given.arguments, "input": trial, "size": _plain(size, 4), "scale_factor": _plain(factor, 1.0)}
    functional.interpolate(**plain)
    spatial = tensor.shape[2:]
    if size is not None:
        new = list(size) if isinstance(size, (list, tuple)) else [size] * len(spatial)
    else:
        factors = list(factor) if isinstance(factor, (list, tuple)) else [factor] * len(spatial)
        new = [_times(*pair) for pair in zip(spatial, factors, strict=True)]
    torch._check(
        all(bool(value > 0) for value in (*spatial, *new)),
        lambda: (
            f"Input and output sizes should be greater than 0, but got input {tuple(spatial)} output {tuple(new)}"
        ),
    )
    torch._check(
        tensor.shape[1] > 0,
        lambda: f"Non-empty data tensor expected but got a tensor with sizes {tuple(tensor.shape)}",
    )
    made = tensor.new_empty([*tensor.shape[:2], *new])
    return made.requires_grad_() * 1 if tensor.requires_grad else made


def _plain(value: Any, number: Any) -> Any:
    """The same argument with a number that fits in place of each."""
    if isinstance(value, (list, tuple)):
        return [_plain(part, number) for part in value]
    return value if value is None or isinstance(value, bool) else number


def _times(size: Any, factor: Any) -> Any:
    if not symbolic(factor) and float(factor).is_integer():
        return size * int(factor)
    return torch.sym_int(math.floor(torch.sym_float(size) * factor)) if symbolic(size) else int(size * factor)


def affine_grid(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`F.affine_grid`: a place for each point, by a product with the matrix of its picture."""
    given = AFFINE_GRID.bind(*args, **kwargs)
    given.apply_defaults()
    matrices, size = given.arguments["theta"], given.arguments["size"]
    if not has_symbols(list(size)) or matrices.dim() != 3:
        return NotImplemented
    few = matrices.new_empty((2, *matrices.shape[1:]))
    functional.affine_grid(few, [2] * len(size), given.arguments["align_corners"])
    if not all(bool(one > 0) for one in size):
        raise ValueError(f"Expected non-zero, positive output size. Got {tuple(size)}")
    batch, _, *points = size
    places = matrices.new_empty((batch, math.prod(points), len(points) + 1))
    return torch.bmm(places, matrices.transpose(1, 2)).view(batch, *points, len(points))


RULES = {functional.interpolate: interpolate, functional.affine_grid: affine_grid}
