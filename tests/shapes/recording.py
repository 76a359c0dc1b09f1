"""Runs a snippet in eager torch and writes down how it failed, as the checker would.

What failed is the innermost call of the framework that the snippet made: a function, a method, or a module, with its
arguments (lists one by one), and for a module its settings and parameters.
"""

import dataclasses
import linecache
import logging
import re
import warnings
from types import FrameType, TracebackType
from typing import Any

import numpy as np
import torch
import torch.utils.data
from torch import nn
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode, resolve_name

from sparsam.shapes.verdict import Failure, Operand, Place

FRAMEWORK = ("/torch/", "/numpy/")
GIVEN = {"torch": torch, "nn": nn, "F": F, "data": torch.utils.data, "np": np}


class Recorder(TorchFunctionMode):
    """Keeps the outermost function of the framework that raised."""

    def __init__(self) -> None:
        super().__init__()
        self.raised: tuple[Any, tuple[Any, ...], dict[str, Any]] | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        try:
            return func(*args, **kwargs)
        except Exception:
            self.raised = (func, args, kwargs)
            raise


def symbols(sizes: dict[str, int]) -> tuple[ShapeEnv, dict[str, Any], dict[str, str]]:
    """Symbolic integers with these values, and under which names the framework prints them."""
    env, made, names = ShapeEnv(specialize_zero_one=False, duck_shape=False), {}, {}
    for name, size in sizes.items():
        source = ConstantSource(name)
        symbol = env.create_symbol(size, source=source, dynamic_dim=DimDynamic.DYNAMIC, constraint_dim=None)
        made[name] = env.create_symintnode(symbol, hint=size, source=source)
        names[str(symbol)] = name
    return env, made, names


def run_symbolic(source: str, sizes: dict[str, int], file: str = "snippet.py") -> Failure | None:
    """Run the source on tensors without data, with symbols for the sizes; the failure in their names."""
    env, made, names = symbols(sizes)
    logging.disable(logging.CRITICAL)  # the framework logs what it then raises
    try:
        with FakeTensorMode(shape_env=env, allow_non_fake_inputs=True):
            failure = run(source, made, file)
    finally:
        logging.disable(logging.NOTSET)
    if failure is None:
        return None

    def named(text: str) -> str:
        return re.sub(r"\bs\d+\b", lambda symbol: names.get(symbol[0], symbol[0]), text)

    operands = tuple(
        dataclasses.replace(o, shape=o.shape and tuple(map(named, o.shape)), text=named(o.text))
        for o in failure.operands
    )
    return dataclasses.replace(failure, text=named(failure.text), operands=operands)


def run(source: str, names: dict[str, Any], file: str = "snippet.py") -> Failure | None:
    """Run the source with the names given; the failure, or None if it ran to its end."""
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    torch.manual_seed(0)
    recorder = Recorder()
    try:
        with recorder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec(compile(source, file, "exec"), {**GIVEN, **names, "__name__": "snippet"})
    except Exception as error:
        return recorded(error, recorder, file)
    return None


def recorded(error: Exception, recorder: Recorder, file: str) -> Failure:
    """The failure that an exception is."""
    chain, below = [], None
    step: TracebackType | None = error.__traceback__
    frames: list[tuple[FrameType, int]] = []
    while step is not None:
        frames.append((step.tb_frame, step.tb_lineno))
        step = step.tb_next
    last = max(at for at, (frame, _) in enumerate(frames) if frame.f_code.co_filename == file)
    for frame, line in frames[: last + 1]:
        if frame.f_code.co_filename == file:
            source = linecache.getline(file, line).rstrip("\n")
            indent = len(source) - len(source.lstrip())
            chain.append(Place(file, line, indent + 1, len(source) + 1, frame.f_code.co_name, source))
    below = frames[last + 1 :]
    operation, operands = _called(below, recorder)
    return Failure(operation, type(error).__name__, str(error), operands, tuple(chain))


def _called(below: list[tuple[FrameType, int]], recorder: Recorder) -> tuple[str, tuple[Operand, ...]]:
    modules = [
        (frame.f_locals["self"], frame.f_locals["args"])
        for frame, _ in below
        if frame.f_code.co_name == "_call_impl" and isinstance(frame.f_locals.get("self"), nn.Module)
    ]
    if modules:
        module, args = next((m for m in modules if not isinstance(m[0], nn.Sequential)), modules[-1])
        given = operands_of(*recorder.raised[1:]) if recorder.raised is not None else operands_of(args, {})
        return f"torch.nn.{type(module).__name__}", (*given, *_of_module(module))
    loading = any("/torch/utils/data/" in frame.f_code.co_filename for frame, _ in below)
    if recorder.raised is not None:
        func, args, kwargs = recorder.raised
        if loading:
            return "torch.utils.data.DataLoader", operands_of(args, kwargs)
        name = resolve_name(func) or f"torch.{getattr(func, '__name__', 'call')}"
        return name, operands_of(args, kwargs)
    frames = [frame for frame, _ in below if any(part in frame.f_code.co_filename for part in FRAMEWORK)]
    if not frames:
        return "", ()
    frame = frames[0]
    owner = frame.f_locals.get("self")
    names = frame.f_code.co_varnames[: frame.f_code.co_argcount]
    given = {name: frame.f_locals[name] for name in names if name != "self" and name in frame.f_locals}
    if owner is not None and frame.f_code.co_name in ("__init__", "__next__"):
        name = type(owner).__name__
    else:
        name = frame.f_code.co_name
    return f"torch.{name}", operands_of((), given)


def _of_module(module: nn.Module) -> list[Operand]:
    """Parameters and settings of a module."""
    weights = {f"self.{name}": weight for name, weight in module.named_parameters(recurse=False)}
    settings = Operand("self", "other", text=f"{type(module).__name__}({module.extra_repr()})")
    return [*operands_of((), weights), settings]


def operands_of(args: Any, kwargs: dict[str, Any]) -> tuple[Operand, ...]:
    """The arguments of a call."""
    found: list[Operand] = []
    for name, value in [*(("", value) for value in args), *kwargs.items()]:
        if isinstance(value, torch.Size) or (
            isinstance(value, tuple | list)
            and len(value)
            and all(type(v) in (int, torch.SymInt) for v in value)
        ):
            found.append(Operand(name, "shape", tuple(map(str, value)), text=str(tuple(value))))
        elif isinstance(value, tuple | list):
            found += [
                Operand(name, o.kind, o.shape, o.dtype, o.device, o.text) for o in operands_of(value, {})
            ]
        elif isinstance(value, torch.Tensor):
            dtype = str(value.dtype).removeprefix("torch.")
            found.append(Operand(name, "tensor", tuple(map(str, value.shape)), dtype, str(value.device)))
        elif isinstance(value, np.ndarray):
            found.append(Operand(name, "tensor", tuple(map(str, value.shape)), str(value.dtype), "cpu"))
        elif isinstance(value, int | float | torch.SymInt) and not isinstance(value, bool):
            found.append(Operand(name, "number", text=str(value)))
        elif value is not None:
            found.append(Operand(name, "other", text=repr(value)[:80]))
    return tuple(found)
