"""What is broadcast, where no question about a symbol has to be answered for it.

The framework asks of each size whether it is 1, also where that makes no difference: where the other tensor has no such
dimension, or the same size there. Each question is a case to be looked at.
"""

from typing import Any

from sparsam.shapes.environment import symbolic


def broadcast_shape(shapes: list[Any]) -> Any:
    """The shape of what is broadcast where there are symbols and nothing has to be asked about them, else None."""
    if not any(symbolic(size) for shape in shapes for size in shape):
        return None
    made: list[Any] = [1] * max(map(len, shapes))
    for shape in shapes:
        for axis in range(-len(shape), 0):
            size, other = shape[axis], made[axis]
            if is_one(other):
                made[axis] = size
            elif not is_one(size) and not same_size(size, other):
                return None
    return type(shapes[0])(made) if type(shapes[0]) in (tuple, list) else tuple(made)


def is_one(size: Any) -> bool:
    """Whether a size is the number 1, and no symbol that may be."""
    return type(size) is int and size == 1


def same_size(one: Any, other: Any) -> bool:
    """Whether two sizes are the same number or expression."""
    if symbolic(one) and symbolic(other):
        return bool(one.node.expr == other.node.expr)
    return type(one) is int and type(other) is int and one == other
