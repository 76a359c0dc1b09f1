"""One run of the program: under given sizes, on tensors without data, with all that was decided on the way."""

import contextlib
import dataclasses
import linecache
import logging
import os
import sys
import time
import traceback as tracebacks
from collections.abc import Callable, Iterator, Mapping
from types import FrameType, TracebackType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode, resolve_name

from sparsam.errors import Refused
from sparsam.shapes import devices, overlay, process
from sparsam.shapes.environment import Divergence, Literal, Number, Shapes
from sparsam.shapes.mode import Mode, device_of
from sparsam.shapes.naming import in_names
from sparsam.shapes.operands import operand, operands_of
from sparsam.shapes.places import Places
from sparsam.shapes.sandbox import blamed
from sparsam.shapes.unmodelled import TORCH, called, explicit_raise, no_rule, says_so
from sparsam.shapes.verdict import Failure, Operand, Place, Symbol, Unknown

HERE = os.path.dirname(__file__) + os.sep
# Notes of a run about what its program did to files: text written, objects saved, folders made, paths removed.
FILES = ("written", "saved", "folders", "removed")
SUMMED = "summed"  # note of a run with plain numbers: one round of a loop stood for others
UNLEARNED = "unlearned"  # note of a run: rounds that were to show what one changes failed, or were the last
ENVIRONMENT = "environment"  # note of a run: by variable what it was before the program changed it, and what it is since
GRADIENTS = "gradients"  # … whether the program may look at them
HOOKED = "hooked"  # … whether a tensor has a hook in the backward pass


class Stop(BaseException):
    """Ends a run from inside: a limit was reached, or it went on as an earlier one had.

    Args:
        unknown: Why, None for a run that is covered by another.
    """

    def __init__(self, unknown: Unknown | None = None, ending: str = "stopped") -> None:
        super().__init__(unknown)
        self.unknown = unknown
        self.ending = ending


LEARNED = "learned"  # ending of a run that has seen what a round of a loop changes: it runs again, and knows
ABSENT = "absent"  # ending of a run in which a loop's round would begin as no round does, as far as is known
NEEDS_GPU = "needs-gpu"  # ending of a run that names a GPU though it was told that there is none


@dataclasses.dataclass(eq=False)
class Loop:
    """A loop of the program that is in progress.

    Args:
        at: Its round, and what that is counted in: two runs at one place are not at different rounds.
        over: What it runs over.
        frame: `id` of the frame that it is in.
        last: Whether there is certainly no round behind this one, as `at` and `over` tell.
    """

    at: list[Any]
    over: Any
    frame: int = 0
    last: bool = False


@dataclasses.dataclass
class Outcome:
    """What one run did.

    Args:
        ending: "end", "exit", "error" (of the framework or Python), "raise" (the program's own), "stopped", "merged",
            "diverged", "again", "learned", "needs-gpu".
        literals: What was decided and assumed, in order.
        hints: Values of all symbols, those met on the way included.
        symbols: What they stand for.
        failure: What failed, with `ending` "error" or "raise".
        unknowns: What was not modelled.
        operations: Calls of the framework.
    """

    ending: str
    literals: tuple[Literal, ...]
    hints: dict[str, Number]
    symbols: dict[str, Symbol]
    failure: Failure | None
    unknowns: tuple[Unknown, ...]
    operations: int
    seconds: float
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)


class Run:
    """The state of the run in progress; stand-ins and hooks find it in `current`.

    Args:
        hints: Sizes to run with.
        places: Which files are the program's.
        seconds: Time limit of the run.
        operations: Limit of calls of the framework.
        plain: Sizes are plain numbers: to confirm a failure.
        whole: No round of a loop stands for others.
        gpu: What the program is told when it asks whether there is a GPU.
        memory: What earlier runs of the same exploration have left: `nodes.Memory`.
        beyond: The node behind which this run is another one: `nodes.Foretold`. None for a run that is another one from
            the beginning.
    """

    def __init__(
        self,
        hints: Mapping[str, Number],
        places: Places,
        *,
        seconds: float = 60.0,
        operations: int = 200_000,
        plain: bool = False,
        whole: bool = False,
        gpu: bool = False,
        memory: Any = None,
        beyond: Any = None,
    ) -> None:
        self.places = places
        self.plain = plain
        self.whole = whole
        self.gpu = gpu
        self.shapes = Shapes(hints, places.innermost, plain=plain, inside=self._inside)
        self.memory = memory if memory is not None else own_memory()
        self.mode = Mode(self, self.shapes, no_rule)
        self.unknowns: dict[tuple[str, Place | None], Unknown] = {}
        self.operations = 0
        self.limit = operations
        self.deadline = time.monotonic() + seconds
        self.call: tuple[Exception, Any, tuple[Any, ...], dict[str, Any]] | None = (
            None  # that failed, and how
        )
        self.aten = ""
        self.elsewhere = False  # whether the program means a device that is not here
        self.placed = True  # whether the program has seen no device of a tensor that may lie on another
        self.notes: dict[str, Any] = {}
        self.beyond = beyond
        # nodes that it came by, from `beyond` on
        self.visits: list[Any] = [] if beyond is not None else [first_visit()]
        self.foretold: Any = beyond  # where it comes by next, if that is known
        self.written: Any = None  # its state as it was written down last: `merging`
        self.aim: list[str] = []  # nodes that it will come by to where something is left to try
        self.tried: set[Any] = set()  # what it was led to
        self.merged: Any = None  # the node that it ended at, for what follows is known
        self.abstract: set[str] = set()  # symbols for any size whatever, which is more than there can be
        self.forks: dict[tuple[int, int], tuple[int, int, int, int]] = {}
        self.passes = 0  # how often a statement began or was left behind
        self.decided = [0]  # how much was decided then, each time
        self.rounds: list[Loop] = []  # in progress
        self.inductions: list[Any] = []  # what these will be compared with
        self.loops = 0  # that were summarised
        self.learning = 0  # first and second rounds in progress that later runs leave out
        self.summarised: set[Place | None] = set()  # places of loops that could be run round by round instead
        self.early: set[Place | None] = set()  # … whose first round could be run by itself
        self.whiles: dict[tuple[int, int], Any] = {}  # by frame and site

    def unknown(self, code: str, reason: str, place: Place | None = None) -> None:
        """Writes down something that keeps this path from being proved."""
        place = place or self.places.innermost(sys._getframe(1))
        self.unknowns.setdefault((code, place), Unknown(code, reason, place))

    def tick(self) -> None:
        """Counts one call.

        Raises:
            Stop: If a limit is reached.
        """
        self.operations += 1
        if self.operations > self.limit:
            raise Stop(
                Unknown(
                    "operations", f"more than {self.limit} calls of the framework in one run", self._here()
                )
            )
        if self.operations % 64 == 0 and time.monotonic() > self.deadline:
            raise Stop(Unknown("time", "the time limit of one run was reached", self._here()))

    def means(self, device: torch.device) -> None:
        """Notes that the program names a device that is not here.

        Raises:
            Stop: If it has been told that there is no GPU, and goes on with one: what it does on a machine that has one is
                looked at in other runs.
        """
        if device.type == "cuda" and self.notes.get("gpu") is False:
            raise Stop(ending=NEEDS_GPU)
        self.elsewhere = True

    def ended(self) -> dict[int, list[bool]]:
        """By frame, for each of its loops in progress, whether this is the last round."""
        found: dict[int, list[bool]] = {}
        for loop in self.rounds:
            found.setdefault(loop.frame, []).append(loop.last)
        return found

    def pass_by(self) -> int:
        """Counts a statement that begins or is left behind."""
        self.passes += 1
        self.decided.append(len(self.shapes.literals))
        return self.passes

    def _inside(self, frame: FrameType | None) -> bool:
        """Whether the framework or a library asks the data something, and not the program."""
        while frame is not None and not self.places.own(frame.f_code.co_filename):
            code = frame.f_code
            if code is Watch.__torch_function__.__code__:
                if frame.f_locals["func"] not in READS:
                    return True
            elif not code.co_filename.startswith(MACHINERY):
                return True
            frame = frame.f_back
        return False

    def _here(self) -> Place | None:
        return self.places.innermost(sys._getframe(1))


def own_memory() -> Any:
    """A memory of one run alone."""
    from sparsam.shapes.nodes import Memory

    return Memory()


def first_visit() -> Any:
    """The node where the program begins."""
    from sparsam.shapes.nodes import ROOT, Visit

    return Visit(ROOT, None)


_current: list[Run] = []


def current() -> Run | None:
    """The run in progress, None outside."""
    return _current[-1] if _current else None


GETTERS = frozenset(
    getattr(torch._C.TensorBase, name).__get__
    for name in ("shape", "dtype", "device", "requires_grad", "ndim", "is_leaf", "grad_fn", "layout")
)  # of which nothing is decided


DEVICE = torch._C.TensorBase.device.__get__
IS_CUDA = torch._C.TensorBase.is_cuda.__get__  # type: ignore[attr-defined]
SET_DATA = torch.Tensor.data.__set__  # type: ignore[attr-defined]
READS = frozenset(
    getattr(torch.Tensor, name)
    for name in (
        "__bool__",
        "__int__",
        "__float__",
        "__index__",
        "__contains__",
        "item",
        "tolist",
        "is_nonzero",
    )
)
MACHINERY = (
    HERE,
    *(
        os.path.join(TORCH, *path.split("/"))
        for path in (
            "_subclasses/",
            "fx/experimental/",
            "_ops.py",
            "_tensor.py",
            "__init__.py",
            "utils/_stats.py",
            "overrides.py",
            "utils/_python_dispatch.py",
            "utils/_sympy/",
        )
    ),
    os.path.dirname(os.__file__) + os.sep + "functools",
    os.path.dirname(os.__file__) + os.sep + "contextlib",
)


class Watch(TorchFunctionMode):
    """Notes which function of the framework the program calls, and lets hand-written rules go first."""

    def __init__(self, run: Run, rules: Mapping[Any, Callable[..., Any]]) -> None:
        super().__init__()
        self.run = run
        self.rules = rules
        self.depth = 0
        self.busy: list[Any] = []  # functions whose rules are at work, and may call them

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        run = self.run
        if func in GETTERS:
            if func == DEVICE:
                return device_of(args[0])
            return func(*args, **kwargs)
        if run.elsewhere and func == IS_CUDA:
            return args[0].device.type == "cuda"
        if func is torch.device and args and type(args[0]) is int:
            return devices.named(args[0])
        run.tick()
        target, args, kwargs = devices.asked(func, args, kwargs, run.elsewhere)
        if target is None:
            return self._called(func, args, kwargs)
        run.means(target)
        return devices.put(self._called(func, args, kwargs), target, (args, kwargs))

    def _called(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        run = self.run
        rule = self.rules.get(func) if func not in self.busy else None
        try:
            if rule is not None:
                self.busy.append(func)
                try:
                    with self:
                        answer = rule(run, func, args, kwargs)
                finally:
                    self.busy.pop()
                if answer is not NotImplemented:
                    return answer
            run.mode.inside += 1
            try:
                answer = called(func, args, kwargs)
            finally:
                run.mode.inside -= 1
            if run.elsewhere and func == SET_DATA:
                devices.mark(args[0], devices.place(args[1]))
            return answer
        except Exception as error:
            told = _as_told_by_eager(error)
            if run.call is None or run.call[0] is not error:
                run.call = (told, func, args, kwargs)
            elif told is not error:
                run.call = (told, *run.call[1:])
            if told is error:
                raise
            raise told from None


def _as_told_by_eager(error: Exception) -> Exception:
    """The exception of the class that real tensors raise, which the program may wait for."""
    if type(error) is ValueError and str(error).startswith("Cannot view a tensor with shape"):
        return RuntimeError(str(error)).with_traceback(error.__traceback__)
    return error


@contextlib.contextmanager
def quiet_framework() -> Iterator[None]:
    """The framework's own log lines about failing symbolic runs are no news here."""
    loggers = [
        logging.getLogger(name)
        for name in (
            "torch._subclasses.fake_tensor",
            "torch.fx.experimental.symbolic_shapes",
            "torch._dynamo",
        )
    ]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def settings_kept(run: Run) -> Iterator[None]:
    """What a program sets for the whole process is as before at its end."""
    folder = os.getcwd()
    dtype, gradients = torch.get_default_dtype(), torch.is_grad_enabled()
    try:
        with process.kept():
            yield
    finally:
        if getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None) is not None:
            torch.set_default_device(None)
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(gradients)
        for name, (before, _) in run.notes.get(ENVIRONMENT, {}).items():
            if before is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = before
        if os.getcwd() != folder:
            os.chdir(folder)


def execute(
    entry: Callable[[Run], Any],
    hints: Mapping[str, Number],
    places: Places,
    rules: Mapping[Any, Callable[..., Any]] | None = None,
    **limits: Any,
) -> Outcome:
    """Runs the program once.

    Args:
        entry: The program: called with the run, from inside of the tensors without data.
        hints: Sizes to run with.
        places: Which files are the program's.
        rules: Hand-written rules, by function of the framework.
        limits: `seconds`, `operations`, `plain`, `whole`, `gpu`, `memory` of `Run`.
    """
    run = Run(hints, places, **limits)
    started = time.perf_counter()
    ending, failure = "end", None
    run.mode.rules = rules or {}
    _current.append(run)
    overlay.begin_run()
    try:
        with quiet_framework(), settings_kept(run), run.mode, Watch(run, rules or {}):
            entry(run)
    except Stop as stop:
        ending = stop.ending
        if stop.unknown is not None:
            run.unknowns.setdefault((stop.unknown.code, stop.unknown.place), stop.unknown)
    except Divergence as divergence:
        ending = "diverged"
        run.unknown("diverged", str(divergence))
    except SystemExit as leaving:
        ending, failure = _left(leaving, run)
    except (KeyboardInterrupt, Refused):
        raise
    except MemoryError:
        ending = "stopped"
        run.unknown("memory", "the memory limit of one run was reached")
    except RecursionError as error:
        ending, failure = "error", failure_of(error, run)
        run.unknown(
            "recursion",
            "Python's limit of recursion was reached",
            failure.chain[-1] if failure.chain else None,
        )
    except BaseException as error:
        ending, failure = _failed(error, run)
    finally:
        _current.pop()
    if ending in ("error", "raise") and run.learning:
        run.notes[UNLEARNED] = True
    if not run.plain and ending not in ("diverged", "again", LEARNED, ABSENT) and run.merged is None:
        run.memory.finished(run)
    run.notes["visits"] = tuple(run.visits)
    run.notes["merged"] = run.merged
    run.notes["abstract"] = frozenset(run.abstract)
    run.notes["summarised"] = frozenset(run.summarised)
    run.notes["early"] = frozenset(run.early)
    return Outcome(
        ending,
        tuple(run.shapes.literals),
        dict(run.shapes.hints),
        dict(run.shapes.symbols),
        failure,
        tuple(run.unknowns.values()),
        run.operations,
        time.perf_counter() - started,
        run.notes,
    )


def _left(leaving: SystemExit, run: Run) -> tuple[str, Failure | None]:
    if leaving.code in (None, 0):
        return "exit", None
    return "raise", failure_of(leaving, run)


def _failed(error: BaseException, run: Run) -> tuple[str, Failure]:
    failure = failure_of(error, run)
    why = blamed(error)
    if why:
        run.unknown(
            why if why == "memory" else "refused",
            f"{first_line(failure.text)} (refused while a program is checked)",
            failure.chain[-1],
        )
        return "stopped", failure
    if _unmodelled(error, run):
        run.unknown(
            "unmodelled-call",
            f"{failure.operation or failure.aten or 'a call'} has no rule for symbolic sizes: {first_line(failure.text)}",
            failure.chain[-1] if failure.chain else None,
        )
        return "stopped", failure
    own = error.__traceback__
    last = None
    while own is not None:
        last, own = own, own.tb_next
    if last is not None and _of_the_checker(error, last) and not explicit_raise(last):
        run.unknown("crash", f"the checker itself failed: {type(error).__name__}: {first_line(str(error))}")
        run.notes["crash"] = describe(error)
        return "stopped", failure
    raised_by_program = last is not None and run.places.own(last.tb_frame.f_code.co_filename)
    if raised_by_program and explicit_raise(last):
        return "raise", failure
    return "error", failure


def _of_the_checker(error: BaseException, step: TracebackType) -> bool:
    """Whether a line of this package raised by itself, and not the framework that it called for the program.

    No line of Python's raises a RuntimeError by itself.
    """
    code = step.tb_frame.f_code
    return (
        code.co_filename.startswith(HERE)
        and code not in CALLERS
        and code.co_name not in THROUGH
        and not _calls_the_framework(step)
        and (not isinstance(error, RuntimeError) or isinstance(error, (RecursionError, NotImplementedError)))
    )


def _calls_the_framework(step: TracebackType) -> bool:
    """Whether the piece of a rule's line that raised is a call of the framework, which raises from below Python."""
    place = list(step.tb_frame.f_code.co_positions())[step.tb_lasti // 2]
    line, last, start, end = place
    if line is None or line != last or start is None or end is None:
        return False
    piece = linecache.getline(step.tb_frame.f_code.co_filename, line).encode()[start:end].decode()
    return piece.startswith(("func(", "torch.")) and piece.endswith(")")


# Functions of hooks and stand-ins that hand a call of the program on, whose failure is the program's.
THROUGH = frozenset(
    {"through", "called", "item", "call", "percent", "picked", "int_", "float_", "round_", "list_", "tuple_", "length"}
)  # fmt: skip
CALLERS = (Watch.__torch_function__.__code__, Watch._called.__code__, called.__code__, Mode.dispatch.__code__)


def _unmodelled(error: BaseException, run: Run) -> bool:
    if getattr(error, "eager", False):
        return False
    if isinstance(error, NotImplementedError) and run.call is not None and run.call[0] is error:
        # Kernels that torch runs on zeros for want of a rule say so of types, as they do of real tensors.
        return not says_so(error) and " not implemented for '" not in str(error)
    return no_rule(error)


def first_line(text: str, width: int = 300) -> str:
    """The first line of a message, cut."""
    line = text.strip().split("\n", 1)[0]
    return line if len(line) <= width else line[: width - 1] + "…"


def failure_of(error: BaseException, run: Run) -> Failure:
    """What failed, told in the names of the symbols."""
    operation = ""
    operands: tuple[Operand, ...] = ()
    if run.call is not None and run.call[0] is error:
        _, func, args, kwargs = run.call
        operation = name_of(func)
        operands = operands_of(func, args, kwargs)
    module = _module_of(error, run)
    if module is not None:
        operation, given, extra = module
        operands = (operands or given) + extra
    chain = run.places.chain(error.__traceback__)
    return Failure(
        operation,
        type(error).__name__,
        in_names(str(error)),
        operands,
        chain or (Place("", 0),),
        aten=_aten_of(error),
    )


def name_of(func: Any) -> str:
    """The dotted name of a function of the framework."""
    name: str | None
    try:
        name = resolve_name(func)
    except Exception:
        name = None
    if name is None:
        module = getattr(func, "__module__", None) or ""
        name = f"{module}.{getattr(func, '__qualname__', getattr(func, '__name__', repr(func)))}".lstrip(".")
    return name


def _module_of(error: BaseException, run: Run) -> tuple[str, tuple[Operand, ...], tuple[Operand, ...]] | None:
    """The framework's module that the program called last: its name, tensors that it was called with, and its weights."""
    steps = []
    step = error.__traceback__
    while step is not None:
        steps.append(step)
        step = step.tb_next
    own = [i for i, s in enumerate(steps) if run.places.own(s.tb_frame.f_code.co_filename)]
    for s in steps[own[-1] + 1 :] if own else steps:
        frame = s.tb_frame
        module = frame.f_locals.get("self")
        if (
            isinstance(module, torch.nn.Module)
            and frame.f_code.co_name == "forward"
            and type(module).__module__.startswith("torch.nn")
            and not isinstance(module, (torch.nn.Sequential, torch.nn.ModuleList))
        ):
            kind = type(module)
            weights = tuple(
                dataclasses.replace(found, name=f"self.{name}")
                for name, weight in module._parameters.items()
                if weight is not None
                for found in operands_of(None, (weight,), {})
            )
            settings = Operand("self", "other", text=f"{kind.__name__}({module.extra_repr()})")
            code = frame.f_code
            given = tuple(
                found
                for name in code.co_varnames[1 : code.co_argcount]
                if isinstance(frame.f_locals.get(name), torch.Tensor)
                for found in operand(name, frame.f_locals[name])
            )
            name = kind.__name__ if hasattr(torch.nn, kind.__name__) else f"{kind.__module__}.{kind.__name__}"
            name = f"torch.nn.{name}".replace("torch.nn.torch.nn", "torch.nn")
            return name, given, (*weights, settings)
    return None


def _aten_of(error: BaseException) -> str:
    step = error.__traceback__
    found = ""
    while step is not None:
        func = step.tb_frame.f_locals.get("func")
        if isinstance(func, torch._ops.OpOverload):
            found = str(func)
        step = step.tb_next
    return found


def describe(error: BaseException) -> str:
    """The last lines of a traceback, for a crash of our own."""
    return "".join(tracebacks.format_exception(error))[-4000:]
