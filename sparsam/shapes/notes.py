"""What rules note of a tensor's data with the tensor: it holds as long as nothing is written to it."""

from typing import Any

import torch

NOTES = frozenset({"value_range", "packed_from"})
"""Of these a copy has the same."""


def version_of(tensor: torch.Tensor) -> int:
    """How often something was written to a tensor; -1 where nobody counts."""
    return -1 if tensor.is_inference() else tensor._version


def drawn_from(tensor: torch.Tensor) -> tuple[Any, Any] | None:
    """The range that a tensor's values were made within, if nothing was written since: the least, and an end or None."""
    found: tuple[Any, Any] | None = getattr(tensor, "value_range", None)
    return None if found is None or version_of(tensor) else found


def forget(func: Any, args: Any, kwargs: Any) -> None:
    """After an operator: what it has written to has other values. Some do not count (`torch._foreach_mul_`)."""
    if not func._schema.is_mutable:
        return
    for argument, value in zip(func._schema.arguments, args, strict=False):
        if argument.alias_info is not None and argument.alias_info.is_write:
            _forget(value)
    for name in kwargs:
        if any(argument.name == name and argument.is_out for argument in func._schema.arguments):
            _forget(kwargs[name])


def _forget(value: Any) -> None:
    for one in value if isinstance(value, (list, tuple)) else [value]:
        for tensor in (one, getattr(one, "_base", None)):
            if isinstance(tensor, torch.Tensor):
                tensor.__dict__.pop("value_range", None)
                tensor.__dict__.pop("span", None)


def notes_of(tensor: torch.Tensor) -> dict[str, Any]:
    """What a copy of the tensor has to have, too."""
    known = {name: note for name, note in vars(tensor).items() if name in NOTES}
    if drawn_from(tensor) is None:
        known.pop("value_range", None)
    return known
