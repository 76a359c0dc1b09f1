"""Sizes that the kernels of eager torch refuse and torch's rules for tensors without data let pass.

One check for each operator, asked before torch's own rule. A check compares the same sizes as the kernel and raises what
the kernel raises, so that a symbolic size is split there. Types are the business of `sparsam.shapes.eager`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sparsam.shapes.strictness import images, indices, numbers
from sparsam.shapes.strictness.sizes import Check, nothing

CHECKS: Mapping[str, Check] = {**numbers.CHECKS, **images.CHECKS, **indices.CHECKS}
"""A check by operator: by its whole name, else by its name without the underscore of an operator in place."""

_checks: dict[Any, Check] = {}


def refuse(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], mode: Any) -> None:
    """Raises what the operator's kernel says of the sizes that it is given.

    Args:
        func: The operator.
        args: What it is called with, on tensors without data.
        kwargs: The same.
        mode: Of those tensors, for a check that calls operators itself.

    Raises:
        RuntimeError: As the kernel does; also IndexError.
    """
    check = _checks.get(func)
    if check is None:
        check = _checks[func] = _check_of(getattr(func, "_schema", None))
    if check is nothing:
        return
    named = {argument.name: value for argument, value in zip(func._schema.arguments, args, strict=False)}
    for argument in func._schema.arguments[len(args) :]:
        named[argument.name] = kwargs.get(argument.name, argument.default_value)
    named.setdefault("self", named.get("input"))
    named["name"] = func._schema.name.removeprefix("aten::").strip("_")
    if check in indices.CALLING:
        with mode:
            check(named)
    else:
        check(named)


def _check_of(schema: Any) -> Check:
    if schema is None:
        return nothing
    name = schema.name
    whole = f"{name}.{schema.overload_name}" if schema.overload_name else name
    return CHECKS.get(whole) or CHECKS.get(name.rstrip("_")) or nothing
