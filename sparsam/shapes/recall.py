"""Operators that were run before: the same arguments and the same answers give the same result, in this run or another.

The framework works out the sizes of a result by Python code, which asks about sizes. What it asked and what was answered is
kept with the sizes of the result, in terms of the symbols. When the operator comes again with arguments of the same
sizes, the questions are asked again, so that this run has them on record; if all answers are the same, so is the result.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any

import sympy
import torch
from torch._subclasses.fake_tensor import FakeTensor, in_kernel_invocation_manager

from sparsam.shapes.environment import Question, Shapes, printed

NUMBERS = (int, float, bool, complex)
PLAIN = (type(None), str, torch.dtype, torch.device, torch.layout, torch.memory_format)
VARIANTS = 8  # results kept of one operator with arguments of the same sizes
DATA = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape, torch.Tag.inplace_view)
NAMES = ("lift", "set_", "resize", "detach", "_local_scalar", "_unsafe_view")


@dataclasses.dataclass(frozen=True)
class Form:
    """A tensor of a result: sizes, strides and offset are numbers or expressions."""

    sizes: tuple[Any, ...]
    strides: tuple[Any, ...]
    offset: Any
    dtype: torch.dtype
    device: torch.device

    @functools.cached_property
    def contiguous(self) -> bool:
        """Whether the tensor is contiguous as it is written."""
        return self.strides == contiguous(self.sizes)


@dataclasses.dataclass(eq=False)
class Call:
    """An operator that was run.

    Args:
        questions: What it asked, with the answers.
        names: Symbols that it asked about.
        forms: Of its results, None for one that is none; empty where the result is the first argument.
        many: None for a single result, else the type of the collection.
    """

    questions: tuple[Question, ...]
    names: tuple[str, ...]
    forms: tuple[Form | None, ...]
    many: type | None


def contiguous(sizes: Iterable[Any]) -> tuple[Any, ...]:
    """The strides of a contiguous tensor, where no size is nothing."""
    strides: list[Any] = []
    stride: Any = sympy.Integer(1)
    for size in reversed(tuple(sizes)):
        strides.append(stride)
        stride = stride * size
    return tuple(reversed(strides))


class NotKept(Exception):
    """The arguments or results are of a kind that is not kept."""


class Calls:
    """The operators that were run, of all runs of one exploration."""

    def __init__(self) -> None:
        self.known: dict[Any, list[Call]] = {}
        self._kinds: dict[Any, str] = {}

    def kind(self, func: Any) -> str:
        """What an operator returns: a new tensor, a view, its first argument, which it writes to, or something else."""
        kind = self._kinds.get(func)
        if kind is None:
            kind = self._kinds[func] = _kind(func)
        return kind

    def key(self, func: Any, args: Any, kwargs: Mapping[str, Any], mode: Any) -> Any:
        """What the result depends on but for answers; None where that is not known."""
        found: list[Any] = [func, torch.get_default_dtype()]
        try:
            _describe(args, found, mode)
            for name, value in kwargs.items():
                found.append(name)
                _describe(value, found, mode)
        except NotKept:
            return None
        return tuple(found)

    def recalled(self, key: Any, shapes: Shapes) -> Call | None:
        """A call with this key whose questions have the same answers now."""
        return next(
            (call for call in self.known.get(key, ()) if shapes.agrees(call, call.questions, call.names)),
            None,
        )

    def keep(self, key: Any, kind: str, answer: Any, questions: Iterable[Question], shapes: Shapes) -> None:
        """Remembers a call and its result, if it is of a kind that can be."""
        calls = self.known.setdefault(key, [])
        asked = tuple(dict.fromkeys(questions))
        if len(calls) >= VARIANTS or not all(question.repeatable for question in asked):
            return
        names = sorted({symbol.name for question in asked for symbol in question.expression.free_symbols})
        if any(printed_name in shapes.fresh for printed_name in map(_printed, names)):
            return
        many = type(answer) if isinstance(answer, (list, tuple)) else None
        if many not in (None, list, tuple) or (kind != "new" and many is not None):
            return
        with contextlib.suppress(NotKept):
            parts = answer if many is not None else (answer,)
            forms = () if kind == "write" else tuple(_form(part, shapes) for part in parts)
            calls.append(Call(asked, tuple(names), forms, many))

    def keep_forms(self, key: Any, forms: tuple[Form, ...]) -> Call:
        """Remembers results about which nothing needs to be asked."""
        call = Call((), (), forms, None if len(forms) == 1 else tuple)
        self.known.setdefault(key, []).append(call)
        return call

    def result(self, call: Call, kind: str, args: Any, mode: Any, shapes: Shapes) -> Any:
        """The result of a call that is recalled."""
        if kind == "write":
            return args[0]
        made = [None if form is None else _made(form, kind, args, mode, shapes) for form in call.forms]
        return made[0] if call.many is None else call.many(made)


def _printed(name: str) -> str:
    return printed(sympy.Symbol(name))


def _kind(func: Any) -> str:
    if not isinstance(func, torch._ops.OpOverload) or func.namespace != "aten":
        return ""
    name = func._schema.name.partition("::")[2]
    if any(tag in func.tags for tag in DATA) or name.startswith(NAMES):
        return ""
    returns = func._schema.returns
    if not func._schema.is_mutable and all(part.alias_info is None for part in returns):
        return "new"
    if len(returns) != 1 or returns[0].alias_info is None or str(returns[0].type) != "Tensor":
        return ""
    writes = [i for i, arg in enumerate(func._schema.arguments) if arg.alias_info is not None]
    if writes != [0]:
        return ""
    if not func._schema.is_mutable:
        return "view" if func.is_view else ""
    return "write" if returns[0].alias_info.is_write else ""


def _describe(value: Any, found: list[Any], mode: Any) -> None:
    kind = type(value)
    if kind is FakeTensor:
        if value.constant is not None or value.fake_mode is not mode or value.layout is not torch.strided:
            raise NotKept
        found.append((value.dtype, value.fake_device, value.requires_grad, value.is_conj(), value.is_neg()))
        found.append(tuple(map(_expression, value.shape)))
        found.append(tuple(map(_expression, value.stride())))
        found.append(_expression(value.storage_offset()))
    elif kind in NUMBERS:
        found.append((kind, value))
    elif kind in PLAIN:
        found.append(value)
    elif kind in (torch.SymInt, torch.SymFloat):
        found.append((kind, value.node.expr))
    elif kind in (list, tuple, torch.Size):
        found.append(("list", len(value)))
        for part in value:
            _describe(part, found, mode)
    else:
        raise NotKept


def _expression(size: Any) -> Any:
    return size if type(size) is int else size.node.expr


def _form(value: Any, shapes: Shapes) -> Form | None:
    if value is None:
        return None
    if type(value) is not FakeTensor or value.constant is not None or value.layout is not torch.strided:
        raise NotKept
    if value.is_conj() or value.is_neg() or value.requires_grad:
        raise NotKept
    form = Form(
        tuple(map(_expression, value.shape)),
        tuple(map(_expression, value.stride())),
        _expression(value.storage_offset()),
        value.dtype,
        value.fake_device,
    )
    for part in (*form.sizes, *form.strides, form.offset):
        for symbol in getattr(part, "free_symbols", ()):
            if printed(symbol) in shapes.fresh:
                raise NotKept
    return form


def _made(form: Form, kind: str, args: Any, mode: Any, shapes: Shapes) -> Any:
    number = shapes.number
    sizes, strides = tuple(map(number, form.sizes)), tuple(map(number, form.strides))
    if form.contiguous:
        # It is so whatever the sizes are: what is asked to find that out is no decision.
        with shapes.unrecorded(), shapes.suppress_guards():
            return _with(sizes, strides, form, kind, args, mode, shapes)
    return _with(sizes, strides, form, kind, args, mode, shapes)


def _with(sizes: Any, strides: Any, form: Form, kind: str, args: Any, mode: Any, shapes: Shapes) -> Any:
    with in_kernel_invocation_manager(mode):
        made = torch.empty_strided(sizes, strides, dtype=form.dtype, device="meta")
        if kind == "view":
            made.set_(args[0].untyped_storage(), shapes.number(form.offset), sizes, strides)
    return FakeTensor(mode, made, form.device)
