"""Where the items of a tensor lie in memory, by the expressions of its sizes and strides."""

import functools
from collections.abc import Sequence
from typing import Any

import sympy
import torch

from sparsam.shapes.environment import symbolic


def expression(size: Any) -> sympy.Basic:
    """A size, or a stride, as sympy has it."""
    if type(size) is int:
        return sympy.Integer(size)
    if isinstance(size, sympy.Basic):
        return size
    return size.node.expr if symbolic(size) else sympy.Integer(size)


def expressions(sizes: Sequence[Any]) -> tuple[sympy.Basic, ...]:
    """Sizes, or strides, as sympy has them."""
    for size in sizes:
        if type(size) is not int:
            return tuple(map(expression, sizes))
    return _numbers(tuple(sizes))


@functools.lru_cache(maxsize=4096)
def _numbers(sizes: tuple[int, ...]) -> tuple[sympy.Basic, ...]:
    return tuple(map(sympy.Integer, sizes))


def layout_of(value: torch.Tensor) -> str:
    """Where the items of a tensor lie, as text: empty where they lie one behind the other, whatever the sizes are."""
    if value.layout is not torch.strided:
        return str(value.layout)
    return laid_out(value.shape, value.stride())


def laid_out(sizes: Sequence[Any], strides: Sequence[Any]) -> str:
    """The strides as text, empty where they are those of items that lie one behind the other."""
    return _laid_out(expressions(sizes), expressions(strides))


@functools.lru_cache(maxsize=65536)
def _laid_out(sizes: tuple[sympy.Basic, ...], strides: tuple[sympy.Basic, ...]) -> str:
    plain: sympy.Basic = sympy.S.One
    for size, stride in zip(reversed(sizes), reversed(strides), strict=True):
        if size != 1 and stride != plain and sympy.expand(counted(stride) - plain) != 0:
            return str(list(strides))
        plain = plain * size
    return ""


def counted(stride: sympy.Basic) -> sympy.Basic:
    """Strides count a dimension without items like one of a single item, which moves nothing."""
    return stride.replace(lambda part: part.func.__name__ == "Max" and 1 in part.args and len(part.args) == 2,
                          lambda part: part.args[1] if part.args[0] == 1 else part.args[0])  # fmt: skip
