"""What a check is, and how it looks at sizes."""

from collections.abc import Callable
from typing import Any

import torch

Check = Callable[[dict[str, Any]], None]
"""Called with the arguments of an operator by name, "self" for the first tensor, and "name" for the operator's."""


def nothing(a: dict[str, Any]) -> None:
    """No check."""


def printed(tensor: torch.Tensor) -> str:
    """The shape as the kernels print it."""
    return f"[{', '.join(str(size) for size in tensor.shape)}]"


def numel(tensor: torch.Tensor) -> Any:
    """The number of elements, which may be a symbol."""
    count: Any = 1
    for size in tensor.shape:
        count = count * size
    return count


def counted(tensor: torch.Tensor, number: int) -> int | None:
    """A dimension counted from the front; None where there is none, which torch says itself."""
    rank = tensor.dim()
    return number % rank if -rank <= number < rank else None
