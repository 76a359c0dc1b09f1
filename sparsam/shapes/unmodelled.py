"""Calls that the framework has no symbolic rule for: how its exceptions tell, and what is done instead."""

import dis
import os
from types import TracebackType
from typing import Any

import torch
from torch._subclasses import fake_tensor

from sparsam.shapes.mode import has_symbols, plain_views

TORCH = os.path.dirname(torch.__file__) + os.sep
UNMODELLED = (
    fake_tensor.UnsupportedFakeTensorException,
    fake_tensor.DynamicOutputShapeException,
    fake_tensor.DataDependentOutputException,
    fake_tensor.UnsupportedOperatorException,
)
UNMODELLED_TEXTS = (
    "on tensor with symbolic sizes/strides",
    "Cannot call sizes()",
    "Cannot access data pointer of Tensor",
    "FakeTensor",
    "fake tensor",
    "when it was not expected",
    "isIntList()",
    "Expected a value of type 'int'",
    "is not symbolically traceable",
    "SymInt",
    "python_arg_parser.cpp",
    "its data is not allocated yet",
    "SymFloat",
    "SymBool",
)

ARGUMENT_TEXTS = (
    "invalid combination of arguments",
    "must be",
    "unsupported operand type",
    "not supported between",
)


def says_so(error: BaseException) -> bool:
    """Whether a layer of the framework itself says that there is no such thing, whatever the sizes."""
    return _raised_in("nn", error)


def _raised_in(folder: str, error: BaseException) -> bool:
    """Whether a `raise` of the framework's own Python below this folder raised."""
    step = error.__traceback__
    while step is not None and step.tb_next is not None:
        step = step.tb_next
    place = os.path.join(TORCH, folder) + os.sep
    return step is not None and step.tb_frame.f_code.co_filename.startswith(place) and explicit_raise(step)


def no_rule(error: BaseException) -> bool:
    """Whether an exception says that there is no symbolic rule, rather than that sizes are wrong."""
    if isinstance(error, UNMODELLED):
        return True
    if isinstance(error, ValueError) and _raised_in("distributions", error):
        return False  # which names the class of the tensor that it refuses
    text = str(error)
    if isinstance(error, TypeError) and any(part in text for part in ARGUMENT_TEXTS):
        # The framework lists the types that it got: a tensor is no news among them, a symbol is.
        text = text.replace("FakeTensor", "Tensor")
    return isinstance(error, (RuntimeError, TypeError, AssertionError, ValueError)) and any(
        part in text for part in UNMODELLED_TEXTS
    )


def explicit_raise(step: TracebackType | None) -> bool:
    """Whether an exception was raised by a `raise` or `assert` of the line itself."""
    if step is None:
        return False
    code = step.tb_frame.f_code.co_code
    return step.tb_lasti < len(code) and code[step.tb_lasti] == _RAISE


_RAISE = dis.opmap["RAISE_VARARGS"]


def called(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The framework's answer; with plain sizes where it has none for symbols."""
    try:
        return func(*args, **kwargs)
    except Exception as error:
        again = isinstance(func, BUILT_IN) and not getattr(func, "__name__", "_").endswith("_")
        if not again or "out" in kwargs or not no_rule(error) or not has_symbols((args, kwargs)):
            raise
        reason = error
    plain, named = plain_views((args, kwargs))
    try:
        return func(*plain, **named)
    except Exception as error:
        raise reason if no_rule(error) else error from None


BUILT_IN = (type(torch.add), type(torch.Tensor.add), type(torch.nn.functional.linear))
