"""Torch's own samples of its operators and modules as small checked programs of one call each.

`torch.testing._internal` lists, for its own tests, valid calls of nearly all operators and modules, and calls that must
be refused. Each becomes a program whose tensors have symbols for sizes, and `plain` says what torch does with the same call
on tensors without data and plain sizes.
"""

import copy
import dataclasses
import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map

from sparsam.shapes.checker import check_entry
from sparsam.shapes.environment import Unknown
from sparsam.shapes.explore import Limits
from sparsam.shapes.places import Places
from sparsam.shapes.run import Run, quiet_framework
from sparsam.shapes.verdict import Report


@dataclasses.dataclass
class Case:
    """One call.

    Args:
        name: Of the operator or module, such as "nn.functional.conv2d".
        number: Of the sample.
        call: Takes `arguments` apart and makes the call.
        arguments: All of it, as a tuple (input, args, kwargs); of a module (constructor's, forward's).
        error: Class that torch's list expects, None for a valid call.
    """

    name: str
    number: int
    call: Callable[[Any], Any]
    arguments: Any
    error: Any = None

    @property
    def expected(self) -> str:
        """Name of that class."""
        return getattr(self.error, "__name__", "")


def called(call: Callable[[Any], Any], arguments: Any) -> Any:
    """The line that is checked."""
    return call(arguments)


def _operator(op: Callable[..., Any]) -> Callable[[Any], Any]:
    def call(arguments: Any) -> Any:
        value, args, kwargs = arguments
        return op(value, *args, **kwargs)

    return call


def _module(
    kind: type[torch.nn.Module], *, forward: bool = True, training: bool = True
) -> Callable[[Any], Any]:
    def call(arguments: Any) -> Any:
        (args, kwargs), (inputs, named) = arguments
        made = kind(*args, **kwargs).train(training)
        return made(*inputs, **named) if forward else made

    return call


def operator_errors(every: int = 1) -> Iterator[Case]:
    """Calls that torch's own list says must be refused, of every so many-th of the operators that have some."""
    from torch.testing._internal.common_methods_invocations import op_db

    for op in [op for op in op_db if op.error_inputs_func is not None][::every]:
        for number, given in enumerate(op.error_inputs("cpu")):
            sample = given.sample_input
            arguments = (sample.input, tuple(sample.args), dict(sample.kwargs))
            yield Case(_name(op), number, _operator(op.get_op()), arguments, given.error_type)


def operator_samples(most: int, every: int = 1) -> Iterator[Case]:
    """Calls of every so many-th operator that eager torch takes, at most so many of each."""
    from torch.testing._internal.common_methods_invocations import op_db

    for op in op_db[::every]:
        dtypes = op.supported_dtypes("cpu")
        if not dtypes:
            continue
        dtype = torch.float32 if torch.float32 in dtypes else min(dtypes, key=str)
        samples = op.sample_inputs("cpu", dtype, requires_grad=False)
        for number, sample in enumerate(itertools.islice(samples, most)):
            arguments = (sample.input, tuple(sample.args), dict(sample.kwargs))
            case = Case(_name(op), number, _operator(op.get_op()), arguments)
            if taken(case):
                yield case


def _name(op: Any) -> str:
    return f"{op.name}.{op.variant_test_name}" if op.variant_test_name else str(op.name)


def module_errors() -> Iterator[Case]:
    """Modules that must be refused, built or called."""
    from torch.testing._internal.common_modules import ModuleErrorEnum, module_db

    for info in module_db:
        if info.module_error_inputs_func is None:
            continue
        given = info.module_error_inputs_func(
            info, device="cpu", dtype=torch.float32, requires_grad=False, training=True
        )
        for number, one in enumerate(given):
            sample = one.module_error_input
            forward = one.error_on is not ModuleErrorEnum.CONSTRUCTION_ERROR
            yield Case(
                info.name, number, _module(info.module_cls, forward=forward), _parts(sample), one.error_type
            )


def module_samples(most: int) -> Iterator[Case]:
    """Uses of every module that eager torch takes, in training and, where that differs, not in training."""
    from torch.testing._internal.common_modules import module_db

    for info in module_db:
        for training in (True, False) if info.train_and_eval_differ else (True,):
            samples = info.module_inputs_func(
                info, device="cpu", dtype=torch.float32, requires_grad=False, training=training
            )
            for number, sample in enumerate(itertools.islice(samples, most)):
                case = Case(info.name, number, _module(info.module_cls, training=training), _parts(sample))
                if sample.forward_input is not None and taken(case):
                    yield case


def _parts(sample: Any) -> Any:
    made, called = sample.constructor_input, sample.forward_input
    forward = (tuple(called.args), dict(called.kwargs)) if called is not None else ((), {})
    return (tuple(made.args), dict(made.kwargs)), forward


def plain(case: Case) -> Exception | None:
    """What torch raises for the call on tensors without data and plain sizes; None if nothing."""
    with warnings.catch_warnings(), quiet_framework():
        warnings.simplefilter("ignore")
        try:
            with FakeTensorMode(allow_non_fake_inputs=True) as mode:
                arguments = tree_map(
                    lambda value: mode.from_tensor(value) if isinstance(value, torch.Tensor) else value,
                    case.arguments,
                )
                called(case.call, arguments)
        except Exception as error:
            return error
    return None


def taken(case: Case) -> bool:
    """Whether eager torch takes a call of the lists of valid ones, which are made for other precisions, too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            called(case.call, copy.deepcopy(case.arguments))
        except Exception:
            return False
    return True


def sizes_of(case: Case) -> list[int]:
    """Sizes of all tensors of the call, in order."""
    found: list[int] = []
    tree_map(lambda value: found.extend(value.shape) if _symbolic(value) else None, case.arguments)
    return found


def _symbolic(value: Any) -> bool:
    """Whether a tensor is made anew with symbols: the others are handed on as they are."""
    return (
        isinstance(value, torch.Tensor)
        and type(value) in (torch.Tensor, torch.nn.Parameter)
        and value.layout is torch.strided
        and not value.is_quantized
        and not value.is_nested
    )


def with_sizes(case: Case, sizes: Iterator[Any], *, strides: bool) -> Any:
    """The arguments with these sizes for the tensors, in order.

    Args:
        strides: Keep unusual strides and what lies before the first element, as numbers.
    """
    found: dict[int, torch.Tensor] = {}  # a tensor that is given twice stays one

    def made(value: Any) -> Any:
        if not _symbolic(value):
            return value
        shape = [next(sizes) for _ in value.shape]
        kind = {"dtype": value.dtype, "device": value.device}
        if strides and value.storage_offset():
            whole = torch.empty(value.untyped_storage().nbytes() // value.itemsize, **kind)
            fresh = whole.as_strided(shape, value.stride(), value.storage_offset())
        elif strides and not value.is_contiguous():
            fresh = torch.empty_strided(shape, value.stride(), **kind)
        else:
            fresh = torch.empty(shape, **kind)
        return found.setdefault(id(value), fresh.requires_grad_() if value.requires_grad else fresh)

    return tree_map(made, case.arguments)


def check(
    case: Case, names: list[str], ranges: Mapping[str, tuple[int, int]], limits: Limits, *, strides: bool
) -> Report:
    """Checks the call with a symbol for each size: `names`, of which several may be the same."""
    declared = [Unknown(name, *ranges[name]) for name in dict.fromkeys(names)]

    def entry(run: Run) -> Any:
        symbols = {unknown.name: run.shapes.declare(unknown) for unknown in declared}
        arguments = with_sizes(case, iter([symbols[name] for name in names]), strides=strides)
        return called(case.call, arguments)

    places = Places(lambda file: file == __file__)
    return check_entry(entry, declared, places, limits=limits, name=case.name)


def pinned(case: Case, limits: Limits | None = None) -> Report:
    """Each size a symbol whose range is the sample's size."""
    sizes = sizes_of(case)
    names = [f"n{i}" for i in range(len(sizes))]
    ranges = {name: (size, size) for name, size in zip(names, sizes, strict=True)}
    return check(case, names, ranges, limits or Limits(seconds=20, paths=60), strides=True)


def opened(case: Case, limits: Limits | None = None) -> tuple[Report, dict[str, tuple[int, int]]]:
    """Equal sizes are one symbol, from 0 to two more than the sample's size."""
    sizes = sizes_of(case)
    names = [f"n{size}" for size in sizes]
    ranges = {name: (0, size + 2) for name, size in zip(names, sizes, strict=True)}
    return check(case, names, ranges, limits or Limits(seconds=20, paths=100), strides=False), ranges


def instance(case: Case, sizes: Mapping[str, int]) -> Exception | None:
    """What torch raises for the call opened at some sizes, on tensors without data."""
    names = [f"n{size}" for size in sizes_of(case)]
    with warnings.catch_warnings(), quiet_framework():
        warnings.simplefilter("ignore")
        try:
            with FakeTensorMode(allow_non_fake_inputs=True):
                called(case.call, with_sizes(case, iter([sizes[name] for name in names]), strides=False))
        except Exception as error:
            return error
    return None
