"""Processes, machines and devices: all runs in this process, once, as the only one of its kind, on the CPU.

A program that asks whether there is a GPU is told no; it is run a few times more where it is told that there is one, to
see which tensors it leaves behind.
"""

import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.multiprocessing
import torch.utils.model_zoo
from torch.utils._pytree import tree_map

from sparsam.shapes.devices import CHECKED, named, place
from sparsam.shapes.run import current
from sparsam.shapes.standins.network import state_from_url
from sparsam.shapes.standins.packages import Absent


class Process:
    """A process that runs here when it is started."""

    exitcode = 0
    pid = 1

    def __init__(
        self, group: None = None, target: Callable[..., Any] | None = None, name: str | None = None, args: Any = (),
        kwargs: Any = None, *, daemon: bool | None = None,
    ) -> None:  # fmt: skip
        self.target, self.args, self.kwargs = target, tuple(args), dict(kwargs or {})
        self.name, self.daemon = name or "Process-1", bool(daemon)

    def start(self) -> None:
        """Runs it."""
        self.run()

    def run(self) -> None:
        """What it does."""
        if self.target is not None:
            self.target(*self.args, **self.kwargs)

    def join(self, timeout: float | None = None) -> None:
        """It has ended."""

    terminate = kill = close = join

    def is_alive(self) -> bool:
        """It has ended."""
        return False


class Queue:
    """A queue within this process."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.items: list[Any] = []

    def put(self, item: Any, *args: Any, **kwargs: Any) -> None:
        """At the end."""
        self.items.append(item)

    def get(self, *args: Any, **kwargs: Any) -> Any:
        """From the front."""
        return self.items.pop(0)

    def empty(self) -> bool:
        """Whether nothing is in it."""
        return not self.items

    put_nowait, get_nowait = put, get


class Pool:
    """A pool of this process alone."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Nothing is started."""

    def map(self, function: Callable[[Any], Any], items: Any, *args: Any) -> list[Any]:
        """Each item in turn."""
        from sparsam.shapes.hooks import made

        return made(function, items)

    imap = imap_unordered = map

    def starmap(self, function: Callable[..., Any], items: Any, *args: Any) -> list[Any]:
        """Each tuple of arguments in turn."""
        return self.map(lambda item: function(*item), items)

    def close(self) -> None:
        """Nothing was started."""

    join = terminate = close

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *args: object) -> None:
        """Nothing was started."""


def spawn(fn: Callable[..., Any], args: Any = (), nprocs: Any = 1, *others: Any, **kwargs: Any) -> None:
    """`torch.multiprocessing.spawn`: the first process alone."""
    fn(0, *args)


class _Context:
    """A way to start processes."""

    Process, Queue, Pool, SimpleQueue, JoinableQueue = Process, Queue, Pool, Queue, Queue

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Absent(f"multiprocessing.{name}")


# -- machines ---------------------------------------------------------------------------------------------------------


def _nothing(*args: Any, **kwargs: Any) -> None:
    """Nothing to be done in one process."""


def _gathered(tensors: list[Any], tensor: Any, *args: Any, **kwargs: Any) -> None:
    for target in tensors:
        target.copy_(tensor)


class Replica(torch.nn.Module):
    """`DataParallel`: the module itself, which gets what it is given on its own device."""

    def __init__(self, module: torch.nn.Module, device_ids: Any = None, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.module = module
        self.scatters = True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's."""
        first = next(self.module.parameters(), None)
        where = None if first is None or not self.scatters else place(first)
        if where is not None and where.type == CHECKED:
            args, kwargs = tree_map(
                lambda value: value.to(where) if isinstance(value, torch.Tensor) else value, (args, kwargs)
            )
        return self.module(*args, **kwargs)

    def no_sync(self) -> Any:
        """There is nothing to synchronise."""
        return Absent("no_sync")


class Distributed(Replica):
    """`DistributedDataParallel`: it moves what it is given where it was told the devices."""

    def __init__(self, module: torch.nn.Module, device_ids: Any = None, *args: Any, **kwargs: Any) -> None:
        super().__init__(module)
        self.scatters = device_ids is not None


_DISTRIBUTED: dict[str, Any] = {
    "init_process_group": _nothing,
    "destroy_process_group": _nothing,
    "barrier": _nothing,
    "all_reduce": _nothing,
    "reduce": _nothing,
    "broadcast": _nothing,
    "broadcast_object_list": _nothing,
    "all_gather": _gathered,
    "get_rank": lambda *args: 0,
    "get_world_size": lambda *args: 1,
    "is_initialized": lambda: False,
    "is_available": lambda: True,
    "new_group": _nothing,
}


# -- devices ----------------------------------------------------------------------------------------------------------


def _same(value: Any, *args: Any, **kwargs: Any) -> Any:
    return value


def on_gpu(self: torch.Tensor, device: Any = None, *args: Any, **kwargs: Any) -> torch.Tensor:
    """`x.cuda()`."""
    return self.to("cuda" if device is None else device)


def _numbered(real: Callable[..., Any]) -> Callable[..., Any]:
    """What `module.to(…)` asks about its arguments, of which a number is one of a GPU."""

    def parsed(*args: Any, **kwargs: Any) -> Any:
        if args and type(args[0]) is int:
            args = (named(args[0]), *args[1:])
        return real(*args, **kwargs)

    return parsed


class Generator(torch.Generator):
    """A source of chance, which is on the CPU whatever device is named."""

    def __new__(cls, device: Any = "cpu") -> "Generator":
        here = "cpu" if named(device) is not None else device
        return super().__new__(cls, device=here)  # type: ignore[call-arg]


def compiled(model: Any = None, *args: Any, **kwargs: Any) -> Any:
    """`torch.compile`, `torch.jit.script`: what is compiled does the same."""
    return (lambda function: function) if model is None else model


def traced(func: Any, example_inputs: Any = None, *args: Any, **kwargs: Any) -> Any:
    """`torch.jit.trace`: runs it once, as the original."""
    if example_inputs is not None:
        func(*(example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)))
    return func


def exported(model: Any, args: Any = (), *others: Any, **kwargs: Any) -> None:
    """`torch.onnx.export`: runs it once and writes nothing."""
    model(*(args if isinstance(args, tuple) else (args,)))


class _Event:
    """A moment on a device."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Nothing is measured."""

    def record(self, *args: Any) -> None:
        """Nothing is measured."""

    synchronize = wait = record

    def elapsed_time(self, other: Any) -> float:
        """No time at all."""
        return 1.0


def _has_gpu() -> bool:
    """What the program is told when it asks whether there is a GPU; the framework, asking for itself, is told no."""
    run = current()
    if run is None or not run.places.own(sys._getframe(2).f_code.co_filename):
        return False
    run.notes["gpu"] = run.gpu or run.elsewhere
    return run.gpu or run.elsewhere


def is_available() -> bool:
    """`torch.cuda.is_available()`."""
    return _has_gpu()


def device_count() -> int:
    """`torch.cuda.device_count()`: one or none."""
    return int(_has_gpu())


_CUDA: dict[str, Any] = {
    "is_available": is_available,
    "device_count": device_count,
    "set_device": _nothing,
    "synchronize": _nothing,
    "empty_cache": _nothing,
    "ipc_collect": _nothing,
    "reset_peak_memory_stats": _nothing,
    "reset_max_memory_allocated": _nothing,
    "current_device": lambda: 0,
    "get_device_name": lambda *args: "none",
    "get_device_capability": lambda *args: (0, 0),
    "memory_allocated": lambda *args: 0,
    "max_memory_allocated": lambda *args: 0,
    "memory_reserved": lambda *args: 0,
    "Event": _Event,
}


def _profile(*args: Any, **kwargs: Any) -> Any:
    return Absent("a profile")


def _sleep(real: Callable[[float], None]) -> Callable[[float], None]:
    def sleep(seconds: Any) -> None:
        if current() is None:
            real(seconds)

    return sleep


def patches() -> Iterator[tuple[Any, str, Any]]:
    """(owner, attribute, stand-in) for all of this module."""
    for owner in (multiprocessing, torch.multiprocessing):
        yield owner, "Process", Process
        yield owner, "Pool", Pool
        yield owner, "set_start_method", _nothing
        yield owner, "get_context", lambda *args: _Context()
        for name in ("Queue", "SimpleQueue"):
            yield owner, name, Queue
    yield torch.multiprocessing, "spawn", spawn
    yield torch.nn.Module, "share_memory", _same
    yield torch.Tensor, "share_memory_", _same
    if torch.distributed.is_available():
        for name, value in _DISTRIBUTED.items():
            yield torch.distributed, name, value
    for owner in (torch.nn, torch.nn.parallel):
        yield owner, "DataParallel", Replica
    yield torch.nn.parallel, "DistributedDataParallel", Distributed
    for name, value in _CUDA.items():
        yield torch.cuda, name, value
    yield torch.Tensor, "cuda", on_gpu
    yield torch._C._nn, "_parse_to", _numbered(torch._C._nn._parse_to)
    yield torch, "Generator", Generator
    yield torch, "compile", compiled
    yield torch.nn.Module, "compile", _nothing
    for name in ("script", "freeze", "optimize_for_inference"):
        yield torch.jit, name, compiled
    yield torch.jit, "trace", traced
    yield torch.jit, "save", _nothing
    yield torch.jit, "load", lambda path, *args, **kwargs: Absent(f"what {path} holds", harmless=False)
    yield torch.onnx, "export", exported
    yield torch.profiler, "profile", _profile
    yield torch.autograd.profiler, "profile", _profile
    yield torch.utils.model_zoo, "load_url", state_from_url
    yield time, "sleep", _sleep(time.sleep)
