"""The shape checker on modules of the public collection pytorch-jit-paritybench, none of which may get a false alarm.

    SPARSAM_PARITYBENCH=…/pytorch-jit-paritybench python benchmarks/shapes_corpus.py [--modules 200]

The checkout (jansel/pytorch-jit-paritybench at e0644af) lies outside of this project. Each generated file names modules,
how they are built and what they take. A file is loaded in a process of its own that the kernel closes off. A module
counts if it runs in plain torch. Its batch size is a symbol from 1 to 8 where torch also takes a batch of 3, and the last
size of pictures and sequences a symbol up to 8 more where torch also takes one more; other sizes are as given. A false
alarm is an error whose witness runs in plain torch, unless it says that data have to be so; what is proved is run in plain
torch with the smallest and the largest sizes. Times are of the processor, so that a loaded machine changes no verdict.

With `--detail FILE` a run goes on where the one before, of the same file, has stopped.
"""

import argparse
import contextlib
import importlib
import importlib.abc
import importlib.machinery
import io
import json
import os
import random
import signal
import sys
import time
import traceback
import types
import unittest
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import MagicMock

sys.path.insert(0, str(Path(__file__).parent))
import torch
from tables import store

from sparsam.shapes import kernel, program
from sparsam.shapes.checker import check_entry, prepare, report_of
from sparsam.shapes.environment import Unknown
from sparsam.shapes.explore import Explored, Limits
from sparsam.shapes.places import Places
from sparsam.shapes.run import Run
from sparsam.shapes.solver import Solver
from sparsam.shapes.verdict import Report, Verdict
from sparsam.shapes.verdict import Unknown as Unfollowed

BATCH = (1, 8)
WIDER = 8  # than the last size that the collection gives
SECONDS = 20.0  # of the processor, for the check of a module
PLAIN = 10.0  # … and for a call of it in plain torch
PER_FILE = 4


class Late(KeyboardInterrupt):
    """The time is over: of a class that a run of the checker lets pass."""


class Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Packages that are not there are empty shells for the file that is loaded, and absent for libraries."""

    def __init__(self, file: str) -> None:
        self.file = file

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        frame: types.FrameType | None = sys._getframe(1)
        while frame is not None and frame.f_code.co_filename.startswith(("<frozen", __file__)):
            frame = frame.f_back
        if frame is None or frame.f_code.co_filename != self.file:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: Any) -> types.ModuleType:
        return Shell(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        return None


class Shell(types.ModuleType):
    """A module in which every name is there."""

    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = MagicMock(name=f"{self.__name__}.{name}")
        setattr(self, name, made)
        return made


def stubs(file: str) -> None:
    """What the files take from the collection's own package, as far as their modules need it."""
    shell = types.ModuleType("_paritybench_helpers")

    class Config(dict):  # type: ignore[type-arg]
        __getattr__ = dict.__getitem__

    class Layer(torch.nn.ReLU):
        expansion = 1

    def layer(inputs: Any = None, outputs: Any = None, *args: Any, **kwargs: Any) -> torch.nn.Module:
        return torch.nn.Linear(inputs, outputs, **kwargs) if inputs and outputs else Layer()

    vars(shell).update(
        _mock_config=Config,
        _mock_layer=layer,
        patch_functional=lambda: None,
        _fails_compile=lambda: lambda function: function,
        _paritybench_base=unittest.TestCase,
    )
    sys.modules["_paritybench_helpers"] = shell
    sys.modules["torch.utils.tensorboard"] = Shell("torch.utils.tensorboard")  # which imports what is absent
    sys.meta_path.append(Absent(file))


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raises Late within after so many seconds of the processor, and again each second until it is heard."""

    def late(*_: Any) -> None:
        raise Late(f"took more than {seconds:g} s")

    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def resized(value: Any, sizes: Mapping[str, Any]) -> Any:
    """The inputs with another batch size B and another last size W, as far as these are given."""

    def other(tensor: Any) -> Any:
        if not isinstance(tensor, torch.Tensor) or not tensor.dim() or not sizes:
            return tensor
        shape = list(tensor.shape)
        if "B" in sizes:
            shape[0] = sizes["B"]
        if "W" in sizes and tensor.dim() > 2:
            shape[-1] = sizes["W"]
        return tensor.new_zeros(shape)

    return torch.utils._pytree.tree_map(other, value)


def module_of(case: Any) -> torch.nn.Module:
    """The module as the collection builds it."""
    kind, init, _, _ = case
    args, kwargs = init()
    made: torch.nn.Module = kind(*args, **kwargs).eval()
    return made


def runs(case: Any, sizes: Mapping[str, int]) -> str:
    """Why the module does not run in plain torch with these sizes; "" if it does."""
    *_, forward, _ = case
    try:
        with at_most(PLAIN), torch.no_grad():
            torch.manual_seed(0)
            module = module_of(case)
            inputs, named = resized(forward(), sizes)
            module(*inputs, **named)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and not isinstance(error, Late):
            raise
        return f"{type(error).__name__}: {error}".split("\n")[0][:160]
    return ""


def free_sizes(case: Any) -> list[Unknown]:
    """Sizes of the inputs that may be others, because torch takes another."""
    tensors = [t for t in torch.utils._pytree.tree_leaves(case[2]()) if isinstance(t, torch.Tensor)]
    first = {t.shape[0] for t in tensors if t.dim()}
    last = {t.shape[-1] for t in tensors if t.dim() > 2}
    found, tried = [], {}
    if len(first) == 1 and not runs(case, {"B": 3}):
        found.append(Unknown("B", *BATCH))
        tried["B"] = 3
    if len(last) == 1:
        size = last.pop()
        if not runs(case, {**tried, "W": size + 1}):
            found.append(Unknown("W", size, size + WIDER))
    return found


def checked(case: Any, path: str) -> dict[str, Any]:
    """What plain torch and the checker say of one module."""
    kind, _, forward, _ = case
    found: dict[str, Any] = {"module": kind.__name__, "file": Path(path).stem}
    reason = runs(case, {})
    if reason:
        found["skipped"] = reason
        if "Mock" not in reason and not reason.startswith("Late"):
            report = report_in_time(lambda run: module_of(case)(*forward()[0], **forward()[1]), [], path)
            found["raising"] = str(report.verdict)
        return found
    declared = free_sizes(case)

    def entry(run: Run) -> Any:
        module = module_of(case)
        inputs, named = resized(forward(), {u.name: run.shapes.declare(u) for u in declared})
        return module(*inputs, **named)

    started = time.process_time()
    report = report_in_time(entry, declared, path)
    found |= {"verdict": str(report.verdict), "seconds": time.process_time() - started}
    found["free"] = [unknown.name for unknown in declared]
    found["unknowns"] = [
        (u.code, u.reason[:200], u.place.source.strip()[:100] if u.place else "") for u in report.unknowns
    ]
    if report.verdict is Verdict.PROVED and declared:
        ends = [{u.name: u.low for u in declared}, {u.name: u.high for u in declared}]
        told = [why for sizes in ends if (why := runs(case, sizes))]
        found["missed"] = [why for why in told if not why.startswith("Late")]
        found["late"] = len(told) > len(found["missed"])
    for finding in report.findings:
        sizes = {name: int(finding.witness[name]) for name in found["free"] if name in finding.witness}
        data = sorted(set(finding.witness) - set(found["free"]))
        found.setdefault("errors", []).append((finding.message[:200], sizes, data, runs(case, sizes)))
    return found


def report_in_time(entry: Any, declared: list[Unknown], path: str) -> Report:
    """What the checker says; of a check that takes too long, what it had found by then."""
    partial = Explored()

    def progress(explored: Explored) -> None:
        nonlocal partial
        partial = explored

    solver = Solver()
    wall = 100 * SECONDS  # never reached: the processor's time is
    try:
        with at_most(SECONDS):
            return check_entry(
                entry,
                declared,
                Places(lambda file: file == path),
                limits=Limits(seconds=wall, run_seconds=wall, paths=100),
                solver=solver,
                progress=progress,
            )
    except Late as late:
        partial.unknown(Unfollowed("time", str(late)))
        return report_of(partial, "", SECONDS, solver, declared)


def of_file(path: str, out: int) -> None:
    """Loads a file, checks some of its modules and writes what was found, a line of JSON each."""

    def say(found: dict[str, Any]) -> None:
        os.write(out, (json.dumps(found) + "\n").encode())

    stubs(path)
    warnings.simplefilter("ignore")
    kernel.confine(seconds=PER_FILE * 5 * SECONDS, memory=3 << 30, file_bytes=0)
    sys.stdout = sys.stderr = io.StringIO()
    try:
        with at_most(3 * SECONDS):
            module = program.load("generated_" + str(abs(hash(path))), path)
    except BaseException as error:
        say({"file": Path(path).stem, "unloaded": f"{type(error).__name__}: {error}"[:160]})
        return
    done = 0
    for case in getattr(module, "TESTCASES", ()):
        if not isinstance(case[0], type):
            continue  # a mock of what is absent
        name = {"module": case[0].__name__, "file": Path(path).stem}
        say({**name, "begun": True})
        try:
            found = checked(case, path)
        except BaseException:
            found = {
                **name,
                "crash": traceback.format_exc()[-600:],
                "verdict": "unknown",
                "unknowns": [("crash", traceback.format_exc()[-200:], "")],
            }
        say(found)
        done += "skipped" not in found
        if done == PER_FILE:
            return


def in_child(path: str) -> list[dict[str, Any]]:
    """What `of_file` found in a process of its own."""
    source, out = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(source)
            of_file(path, out)
            code = 0
        finally:
            os._exit(code)
    os.close(out)
    with os.fdopen(source, "rb") as stream:
        lines = stream.read().decode().splitlines()
    _, status = os.waitpid(child, 0)
    said = [json.loads(line) for line in lines]
    found = [one for one in said if "begun" not in one]
    if status:
        ended = {"file": Path(path).stem, "ended": f"status {status}"}
        if said and "begun" in said[-1]:
            ended |= {"module": said[-1]["module"], "verdict": "unknown"}
            ended["unknowns"] = [("ended", f"the process ended with status {status}", "")]
        found.append(ended)
    return found


def main() -> None:
    """Checks modules of files in a random order that is the same each time."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkout", default=os.environ.get("SPARSAM_PARITYBENCH"))
    parser.add_argument("--modules", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--detail", type=Path, help="a line of JSON for each module")
    parser.add_argument("--store", action="store_true")
    parser.add_argument("--note", action="append", default=[], help="stored below the table")
    given = parser.parse_args()
    if not given.checkout:
        print("skipped: no checkout of pytorch-jit-paritybench (SPARSAM_PARITYBENCH or --checkout)")
        return
    files = sorted(Path(given.checkout).glob("generated/test_*.py"))
    random.Random(0).shuffle(files)
    prepare()
    for name in ("scipy.stats", "sklearn.metrics"):  # once for all files, many of which import them
        importlib.import_module(name)
    every: list[dict[str, Any]] = []
    if given.detail and given.detail.exists():
        every += map(json.loads, given.detail.read_text().splitlines())
    known = {found["file"] for found in every}
    started = time.monotonic()
    for file in files:
        if sum("verdict" in found for found in every) >= given.modules:
            break
        if time.monotonic() - started > given.seconds:
            break
        if file.stem in known:
            continue
        every += in_child(str(file)) or [{"file": file.stem, "empty": True}]
        if given.detail:
            given.detail.write_text("".join(json.dumps(found) + "\n" for found in every))
    judged = [found for found in every if "verdict" in found]
    verdicts = Counter(found["verdict"] for found in judged)
    reasons = Counter(code for found in judged for code in {u[0] for u in found["unknowns"]})
    errors = [error for found in judged for error in found.get("errors", ())]
    rows = [
        {
            "modules": len(judged), "batch free": sum("B" in found.get("free", ()) for found in judged),
            "last size free": sum("W" in found.get("free", ()) for found in judged),
            "proved": verdicts["proved"], "unknown": verdicts["unknown"], "error": verdicts["error"],
            "errors torch denies": sum(not why and not data for *_, data, why in errors),
            "errors for data": sum(not why and bool(data) for *_, data, why in errors),
            "proved and raising": sum(bool(found.get("missed")) for found in judged),
            "unknown by reason": ", ".join(f"{code} {count}" for code, count in reasons.most_common()),
            "median s": sorted(found.get("seconds", 0.0) for found in judged)[len(judged) // 2],
            "longest s": max(found.get("seconds", 0.0) for found in judged),
        }
    ]  # fmt: skip
    skipped = sum("skipped" in found for found in every)
    raising = Counter(found["raising"] for found in every if "raising" in found)
    unloaded = sum("unloaded" in found for found in every)
    notes = [
        f"of {len({found['file'] for found in every})} files, {unloaded} could not be loaded",
        f"{skipped} modules do not run here in plain torch; the check of {raising.total()} that raise says error of "
        f"{raising['error']}, unknown of {raising['unknown']}, proved of {raising['proved']}",
        f"at most {PER_FILE} modules of a file; {SECONDS:g} s of the processor for each",
        f"{sum(bool(found.get('late')) for found in judged)} proved modules were not run with some sizes in plain torch,"
        f" for it takes more than {PLAIN:g} s",
        *given.note,
    ]
    command = f"python benchmarks/shapes_corpus.py --modules {given.modules}"
    if given.store:
        store("shapes-corpus", "Shape checks of public modules", command, rows, notes)
    else:
        print(rows, notes)
    for found in every:
        if found.get("raising") == "proved":
            print("raises and is proved:", found["file"], found["module"], found["skipped"])
        for message, sizes, data, why in found.get("errors", ()):
            if not why:
                kind = "error for data:" if data else "false alarm:"
                print(kind, found["file"], found["module"], sizes, data, message)
        for why in found.get("missed", ()):
            print("proved and raising:", found["file"], found["module"], why)


if __name__ == "__main__":
    main()
