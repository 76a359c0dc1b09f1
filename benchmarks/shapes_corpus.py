"""The shape checker on modules of the public collection pytorch-jit-paritybench, none of which may get a false alarm.

    SPARSAM_PARITYBENCH=…/pytorch-jit-paritybench python benchmarks/shapes_corpus.py [--modules 200]

The checkout (jansel/pytorch-jit-paritybench at e0644af) lies outside of this project. Each generated file names modules,
how they are built and what they take. A file is loaded in a process of its own that the kernel closes off. A module
counts if it runs in plain torch; its batch size is a symbol from 1 to 8 where torch also takes batches of 2 and 3, else
all sizes are as given. A false alarm is an error whose witness runs in plain torch.
"""

import argparse
import contextlib
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
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import MagicMock

sys.path.insert(0, str(Path(__file__).parent))
import torch
from tables import store

from sparsam.shapes import kernel, program
from sparsam.shapes.checker import check_entry, prepare
from sparsam.shapes.environment import Unknown
from sparsam.shapes.explore import Limits
from sparsam.shapes.places import Places
from sparsam.shapes.run import Run

BATCH = (1, 8)
SECONDS = 20.0  # for one module in plain torch, and for its check
PER_FILE = 4


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
    sys.meta_path.append(Absent(file))


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raises TimeoutError within after so many seconds."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"took more than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def resized(value: Any, batch: Any) -> Any:
    """The inputs with another batch size."""
    return torch.utils._pytree.tree_map(
        lambda t: t.new_zeros((batch, *t.shape[1:])) if isinstance(t, torch.Tensor) and t.dim() else t, value
    )


def runs(case: Any, batch: int | None) -> str:
    """Why the module does not run in plain torch with this batch size; "" if it does."""
    kind, init, forward, _ = case
    try:
        with at_most(SECONDS), torch.no_grad():
            torch.manual_seed(0)
            args, kwargs = init()
            module = kind(*args, **kwargs).eval()
            inputs, named = forward()
            if batch is not None:
                inputs, named = resized((inputs, named), batch)
            module(*inputs, **named)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return f"{type(error).__name__}: {error}".split("\n")[0][:160]
    return ""


def checked(case: Any, path: str) -> dict[str, Any]:
    """What plain torch and the checker say of one module."""
    kind, init, forward, _ = case
    found: dict[str, Any] = {"module": kind.__name__, "file": Path(path).stem}
    reason = runs(case, None)
    if reason:
        return {**found, "skipped": reason}
    leading = {
        t.shape[0]
        for t in torch.utils._pytree.tree_leaves(forward())
        if isinstance(t, torch.Tensor) and t.dim()
    }
    free = len(leading) == 1 and not runs(case, 2) and not runs(case, 3)
    declared = [Unknown("B", *BATCH)] if free else []

    def entry(run: Run) -> Any:
        args, kwargs = init()
        module = kind(*args, **kwargs).eval()
        inputs, named = forward()
        if free:
            inputs, named = resized((inputs, named), run.shapes.declare(declared[0]))
        return module(*inputs, **named)

    started = time.perf_counter()
    with at_most(4 * SECONDS):
        report = check_entry(
            entry, declared, Places(lambda file: file == path), limits=Limits(seconds=SECONDS, paths=100)
        )
    found |= {"free": free, "verdict": str(report.verdict), "seconds": time.perf_counter() - started}
    found["unknowns"] = [
        (u.code, u.reason[:200], u.place.source.strip()[:100] if u.place else "") for u in report.unknowns
    ]
    for finding in report.findings:
        batch = finding.witness.get("B") if free else None
        why = runs(case, int(batch) if batch is not None else None)
        found.setdefault("errors", []).append((finding.message[:200], batch, why))
    return found


def of_file(path: str, out: int) -> None:
    """Loads a file, checks some of its modules and writes what was found, a line of JSON each."""

    def say(found: dict[str, Any]) -> None:
        os.write(out, (json.dumps(found) + "\n").encode())

    stubs(path)
    warnings.simplefilter("ignore")
    kernel.confine(seconds=200, memory=3 << 30, file_bytes=0)
    sys.stdout = sys.stderr = io.StringIO()
    try:
        with at_most(60):
            module = program.load("generated_" + str(abs(hash(path))), path)
    except BaseException as error:
        say({"file": Path(path).stem, "unloaded": f"{type(error).__name__}: {error}"[:160]})
        return
    done = 0
    for case in getattr(module, "TESTCASES", ()):
        try:
            found = checked(case, path)
        except BaseException as error:
            found = {
                "module": case[0].__name__,
                "file": Path(path).stem,
                "crash": traceback.format_exc()[-600:],
            }
            if isinstance(error, TimeoutError):
                found = {**found, "verdict": "unknown", "unknowns": [("time", "over the limit", "")]}
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
    found = [json.loads(line) for line in lines]
    if status:
        found.append({"file": Path(path).stem, "ended": f"status {status}"})
    return found


def main() -> None:
    """Checks modules of files in a random order that is the same each time."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkout", default=os.environ.get("SPARSAM_PARITYBENCH"))
    parser.add_argument("--modules", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--detail", type=Path, help="a line of JSON for each module")
    parser.add_argument("--store", action="store_true")
    given = parser.parse_args()
    if not given.checkout:
        print("skipped: no checkout of pytorch-jit-paritybench (SPARSAM_PARITYBENCH or --checkout)")
        return
    files = sorted(Path(given.checkout).glob("generated/test_*.py"))
    random.Random(0).shuffle(files)
    prepare()
    every: list[dict[str, Any]] = []
    started = time.monotonic()
    for file in files:
        every += in_child(str(file))
        if given.detail:
            given.detail.write_text("".join(json.dumps(found) + "\n" for found in every))
        if sum("verdict" in found for found in every) >= given.modules:
            break
        if time.monotonic() - started > given.seconds:
            break
    judged = [found for found in every if "verdict" in found]
    verdicts = Counter(found["verdict"] for found in judged)
    reasons = Counter(code for found in judged for code in {u[0] for u in found["unknowns"]})
    errors = [error for found in judged for error in found.get("errors", ())]
    rows = [
        {
            "modules": len(judged), "batch free": sum(bool(found.get("free")) for found in judged),
            "proved": verdicts["proved"], "unknown": verdicts["unknown"], "error": verdicts["error"],
            "false alarms": sum(not why for *_, why in errors),
            "unknown by reason": ", ".join(f"{code} {count}" for code, count in reasons.most_common()),
            "median s": sorted(found.get("seconds", 0.0) for found in judged)[len(judged) // 2],
            "longest s": max(found.get("seconds", 0.0) for found in judged),
        }
    ]  # fmt: skip
    skipped = sum("skipped" in found for found in every)
    unloaded = sum("unloaded" in found for found in every)
    notes = [
        f"of {len({found['file'] for found in every})} files, {unloaded} could not be loaded",
        f"{skipped} modules do not run here in plain torch",
        f"at most {PER_FILE} modules of a file; {SECONDS:g} s for each",
    ]
    command = f"python benchmarks/shapes_corpus.py --modules {given.modules}"
    if given.store:
        store("shapes-corpus", "Shape checks of public modules", command, rows, notes)
    else:
        print(rows, notes)
    for found in judged:
        for message, batch, why in found.get("errors", ()):
            if not why:
                print("false alarm:", found["file"], found["module"], batch, message)


if __name__ == "__main__":
    main()
