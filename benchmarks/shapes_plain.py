"""One run of a program with the framework itself: on tensors without data, or on real ones under annotations."""

import contextlib
import functools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "shapes"))
from programs.running import Sizes, run


def _one(dtype: torch.dtype) -> Any:
    if dtype == torch.bool:
        return True
    return 1.0 if dtype.is_floating_point else 1


def _rows(tensor: torch.Tensor) -> Any:
    """What `tolist` is taken to give: indices in order along one dimension, else ones."""
    if tensor.dim() == 1 and not tensor.dtype.is_floating_point:
        return list(range(len(tensor)))
    return np.full(tuple(tensor.shape), _one(tensor.dtype)).tolist()


def _numpy(tensor: torch.Tensor, **_options: Any) -> np.ndarray:
    kind = str(tensor.dtype).removeprefix("torch.")
    return np.ones(tuple(tensor.shape), dtype=kind)


def _apply(
    module: torch.nn.Module, change: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True
) -> Any:
    """`Module.to` and its kin by new parameters: the framework's swapping of tensors refuses those without data."""
    for part in module.modules() if recurse else (module,):
        for name, parameter in part._parameters.items():
            if parameter is not None:
                changed = change(parameter.detach())
                part._parameters[name] = torch.nn.Parameter(changed, parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = change(buffer)
    return module


@contextlib.contextmanager
def without_data() -> Iterator[None]:
    """Tensors have no data; where a program asks for a value it gets one, and nothing is saved."""
    stood_in: dict[str, Callable[..., Any]] = {
        "item": lambda tensor: _one(tensor.dtype),
        "tolist": _rows,
        "numpy": _numpy,
        "__bool__": lambda tensor: True,
        "__int__": lambda tensor: 1,
        "__index__": lambda tensor: 1,
        "__float__": lambda tensor: 1.0,
    }

    def chosen(name: str, plain: Callable[..., Any], stand_in: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(plain)
        def method(tensor: torch.Tensor, *given: Any, **named: Any) -> Any:
            return (stand_in if isinstance(tensor, FakeTensor) else plain)(tensor, *given, **named)

        return method

    before = {name: getattr(torch.Tensor, name) for name in stood_in}
    save, apply = torch.save, torch.nn.Module._apply
    for name, stand_in in stood_in.items():
        setattr(torch.Tensor, name, chosen(name, before[name], stand_in))
    torch.save = lambda *given, **named: None
    torch.nn.Module._apply = _apply  # type: ignore[method-assign]
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            yield
    finally:
        torch.save, torch.nn.Module._apply = save, apply  # type: ignore[method-assign]
        for name, plain in before.items():
            setattr(torch.Tensor, name, plain)


def tried(source: str, program: str, sizes: Sizes, folder: Path, *, fake: bool) -> dict[str, Any]:
    """Runs the program once; says whether it raised, and at which of its lines."""
    with without_data() if fake else contextlib.nullcontext():
        outcome = run(source, program, sizes, folder)
    if outcome.error is None:
        return {"verdict": "fine", "lines": [], "said": ""}
    said = f"{type(outcome.error).__name__}: {str(outcome.error).splitlines()[:1]}"
    return {"verdict": "error", "lines": [outcome.line], "said": said[:200]}


def in_a_fork(work: Callable[[], dict[str, Any]], seconds: float) -> dict[str, Any]:
    """The work's answer from a process of its own, with its CPU and wall time (s) and peak memory (bytes)."""
    reading, writing = os.pipe()
    start = time.perf_counter()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            told = work()
        except BaseException as error:
            told = {"verdict": "crash", "lines": [], "said": f"{type(error).__name__}: {error}"[:200]}
        with os.fdopen(writing, "w") as out:
            json.dump(told, out)
        os._exit(0)
    os.close(writing)
    alarm = threading.Timer(seconds, os.kill, (child, signal.SIGKILL))
    alarm.start()
    with os.fdopen(reading) as answer:
        text = answer.read()
    _, _, used = os.wait4(child, 0)
    alarm.cancel()
    told = json.loads(text) if text else {"verdict": "time", "lines": [], "said": f"over {seconds:.0f} s"}
    return told | {
        "wall": time.perf_counter() - start,
        "cpu": used.ru_utime + used.ru_stime,
        "bytes": used.ru_maxrss * 1024,
    }
