"""Arguments of a call of the framework, as a report shows them."""

import inspect
from typing import Any

import torch

from sparsam.shapes.devices import shown
from sparsam.shapes.naming import words
from sparsam.shapes.verdict import Operand

LONGEST = 60  # characters of an argument in a message


def operands_of(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Operand, ...]:
    """Each argument of a call, with its name where the signature tells it."""
    names = _names(func)
    found = [operand(names[i] if i < len(names) else "", value) for i, value in enumerate(args)]
    found += [operand(name, value) for name, value in kwargs.items()]
    return tuple(o for group in found for o in group)


def operand(name: str, value: Any) -> tuple[Operand, ...]:
    """One argument; of a list of tensors, each."""
    if isinstance(value, torch.Tensor):
        return (
            Operand(
                name,
                "tensor",
                tuple(size_text(size) for size in value.shape),
                str(value.dtype).removeprefix("torch."),
                str(shown(value)),
            ),
        )
    if isinstance(value, (list, tuple)) and value:
        if all(isinstance(v, torch.Tensor) for v in value):
            return tuple(o for i, v in enumerate(value) for o in operand(f"{name}[{i}]", v))
        if all(isinstance(v, (int, torch.SymInt)) and not isinstance(v, bool) for v in value):
            return (Operand(name, "shape", tuple(size_text(v) for v in value)),)
    if isinstance(value, (int, float, torch.SymInt, torch.SymFloat)) and not isinstance(value, bool):
        return (Operand(name, "number", text=size_text(value)),)
    text = (
        repr(value)
        if isinstance(value, (str, bool, type(None), torch.dtype, torch.device))
        else f"<{type(value).__name__}>"
    )
    return (Operand(name, "other", text=text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"),)


def size_text(size: Any) -> str:
    """A size in the names of the symbols."""
    if isinstance(size, (torch.SymInt, torch.SymFloat)):
        return words(size.node.expr)
    return str(size)


def _names(func: Any) -> list[str]:
    if func is None:
        return []
    try:
        return list(inspect.signature(func).parameters)
    except (TypeError, ValueError):
        if getattr(func, "__objclass__", None) is torch._C.TensorBase or hasattr(
            torch.Tensor, getattr(func, "__name__", "")
        ):
            return ["self"]
        return []
