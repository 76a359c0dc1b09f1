"""Torch's tensors without data, with hand-written rules for its operators, and plain numbers where there is no rule.

An operator that the framework can only run with plain sizes is run with the sizes of the hints, which become equalities on
record: the exploration then goes through the sizes one by one, or says that it only tried some.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_flatten, tree_map

from sparsam.shapes import devices, eager, notes, spans, strictness
from sparsam.shapes.direct import DIRECT
from sparsam.shapes.environment import Shapes

Rule = Callable[..., Any]
DEVICE = torch.ops.prim.device.default
META = torch.device("meta")
AS_STRIDED = torch.ops.aten.as_strided.default
EMPTY = frozenset(
    {
        torch.ops.aten.new_empty.default,
        torch.ops.aten.new_empty_strided.default,
        torch.ops.aten.empty_like.default,
    }
)  # what their results hold is up to chance, whatever they are made like
SYMBOLS = (torch.SymInt, torch.SymFloat)


class Mode(FakeTensorMode):
    """The tensors of one run.

    Args:
        run: The run, for the rules.
        shapes: The environment of its symbols.
        unmodelled: Whether an exception says that torch has no symbolic rule, rather than that sizes are wrong.
    """

    def __init__(self, run: Any, shapes: Shapes, unmodelled: Callable[[Exception], bool]) -> None:
        super().__init__(shape_env=shapes, allow_non_fake_inputs=True)
        self.shapes = shapes
        self.run = run
        self.unmodelled = unmodelled
        self.inside = 0  # functions and operators of the framework at work
        self.operators = 0  # of these, operators
        self.rules: Mapping[Any, Rule] = {}  # by operator; called with (run, operator, args, kwargs)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Nothing is compiled here, and the guard against it costs more than most operators.
        return False

    def __deepcopy__(self, memo: Any) -> "Mode":
        return self  # a copy of a tensor is one of the same run

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[object] = (), kwargs: Any = None
    ) -> object:
        """Called for each operator."""
        if func is DEVICE:
            return META if self.in_kernel_invocation else args[0].fake_device  # type: ignore[attr-defined]
        return self.dispatch(func, types, args, kwargs)

    def dispatch(
        self, func: Any, types: Sequence[type], args: Sequence[object] = (), kwargs: Any = None
    ) -> object:
        """Runs one operator."""
        kwargs = kwargs or {}
        where = devices.named(kwargs.get("device"))
        if where is not None:
            kwargs = {**kwargs, "device": devices.CPU}
            self.run.means(where)
        self.inside += 1
        self.operators += 1
        try:
            if self.run.elsewhere and self.run.placed:
                devices.refuse(func, args, kwargs)
            if (
                func is not AS_STRIDED or self.operators == 1
            ):  # an operator's own views are within their storage
                strictness.refuse(func, args, kwargs, self)
            spans.refuse(func, args, kwargs, self.run)
            answer = self._answer(func, types, args, kwargs)
            eager.refuse(func, args, kwargs, answer, elsewhere=self.run.elsewhere)
        finally:
            self.inside -= 1
            self.operators -= 1
        notes.forget(func, args, kwargs)
        spans.follow(func, args, kwargs, answer)
        if self.run.elsewhere:
            devices.carry(func, args, kwargs, answer, where)
        return answer

    def _answer(self, func: Any, types: Sequence[type], args: Sequence[object], kwargs: Any) -> object:
        direct = DIRECT.get(func)
        if direct is not None:
            answer = direct(self, args, kwargs)
            if answer is not NotImplemented:
                return answer
        rule = self.rules.get(func)
        if rule is not None:
            with self:
                answer = rule(self.run, func, args, kwargs)
            if answer is not NotImplemented:
                return answer
        try:
            answer = super().dispatch(func, types, args, kwargs)
            if func in EMPTY and isinstance(answer, FakeTensor):
                answer.constant = None
            return answer
        except ValueError as error:
            if func is torch.ops.aten.view.default:
                raise RuntimeError(str(error)) from None  # as it is with data
            raise
        except Exception as error:
            if not self.unmodelled(error) or _makes_view(func) or not has_symbols((args, kwargs)):
                raise
            reason = error
        with self:
            (plain_args, plain_kwargs), back = _plain(args, kwargs)
        try:
            answer = super().dispatch(func, types, plain_args, plain_kwargs)
        except Exception as error:
            if self.unmodelled(error):
                raise reason from None
            raise
        return tree_map(lambda value: back.get(id(value), value), answer)


def _makes_view(func: Any) -> bool:
    """Whether a result shares its storage with an argument that it is not."""
    schema = getattr(func, "_schema", None)
    if schema is None:
        return True
    return any(r.alias_info is not None and not r.alias_info.is_write for r in schema.returns)


def device_of(tensor: torch.Tensor) -> torch.device:
    """The device that the program takes a tensor to be on, without a call of the framework where it has no data."""
    return devices.shown(tensor)


def has_symbols(arguments: Any) -> bool:
    """Whether a symbol is among the arguments or the sizes of their tensors."""
    return any(
        isinstance(value, SYMBOLS)
        or (isinstance(value, torch.Tensor) and any(isinstance(size, SYMBOLS) for size in value.shape))
        for value in tree_flatten(arguments)[0]
    )


def number(value: Any) -> Any:
    """A symbol as a plain number, on record."""
    if isinstance(value, torch.SymInt):
        return int(value)
    return float(value) if isinstance(value, torch.SymFloat) else value


def _plain(args: Any, kwargs: Any) -> tuple[Any, dict[int, Any]]:
    """The arguments with plain sizes, and the original of each tensor among them by its identity."""
    back: dict[int, Any] = {}

    def made(value: Any) -> Any:
        if isinstance(value, FakeTensor) and has_symbols(value):
            fresh = plain_view(value)
            back[id(fresh)] = value
            return fresh
        return number(value)

    return tree_map(made, (tuple(args), dict(kwargs))), back


def plain_views(arguments: Any) -> Any:
    """The arguments with plain sizes, each tensor a view of its original, gradients included."""
    return tree_map(
        lambda value: (
            plain_view(value) if isinstance(value, torch.Tensor) and has_symbols(value) else number(value)
        ),
        arguments,
    )


def plain_view(tensor: torch.Tensor) -> torch.Tensor:
    """The same tensor with its sizes as plain numbers, on record."""
    sizes = [number(size) for size in tensor.shape]
    return tensor.as_strided(sizes, [number(stride) for stride in tensor.stride()])
