"""Runs: recording one from within a program, and reading all that were recorded."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sparsam.errors import InputOutput, Usage
from sparsam.provenance.capture import files, start
from sparsam.provenance.graph import History, history
from sparsam.provenance.log import Merged, Recovered, merge, read_all
from sparsam.provenance.tracking import Selection, Tracker, runs_folder


@contextmanager
def run(
    name: str | None = None,
    *,
    folder: str | os.PathLike[str] | None = None,
    selection: Selection | None = None,
) -> Iterator[Tracker]:
    """Record what this program does in here; in a program that is tracked already, a scope.

    Args:
        name: of the run; made of the time by default.
        folder: ``.sparsam``; by default that of the nearest folder upwards that has one.
        selection: what is recorded.

    Raises:
        Usage: ``run-name`` for a name that could not be a folder's.
        InputOutput: ``log-folder``.
    """
    check_name(name)
    tracker = files.current()
    if tracker is not None:
        with tracker.scope(name or "run"):
            yield tracker
        return
    tracker = start.install(folder, run=name, selection=selection)
    try:
        yield tracker
    finally:
        start.uninstall()


def check_name(name: str | None) -> None:
    """Refuse a name that could not be a folder's.

    Raises:
        Usage: ``run-name``.
    """
    if name is None:
        return
    if not name or name.startswith(".") or any(x in name for x in "/\\\0") or len(name) > 100:
        raise Usage(f"a run is named like a folder; got {name!r}.", code="run-name")


@contextmanager
def scope(name: str) -> Iterator[None]:
    """What is written in here derives from what is read in here alone. Nothing where nobody is tracking."""
    tracker = files.current()
    if tracker is None:
        yield
        return
    with tracker.scope(name):
        yield


@contextmanager
def stage(name: str) -> Iterator[None]:
    """A part of a program that is told apart, an epoch say; what is written in here derives from all that was read so far."""
    tracker = files.current()
    if tracker is None:
        yield
        return
    with tracker.stage(name):
        yield


def record_metric(name: str, value: float | int | str) -> None:
    """A result of this program; nothing where nobody is tracking."""
    if (tracker := files.current()) is not None:
        tracker.record_metric(name, value)


def record_config(values: Mapping[str, Any]) -> None:
    """Settings of this program; nothing where nobody is tracking."""
    if (tracker := files.current()) is not None:
        tracker.record_config(values)


def record_type(name: str) -> None:
    """What kind of program this is; nothing where nobody is tracking."""
    if (tracker := files.current()) is not None:
        tracker.record_type(name)


def record_derived(target: str | os.PathLike[str], sources: Sequence[str | os.PathLike[str]]) -> None:
    """A file was made from others, by your word; nothing where nobody is tracking."""
    if (tracker := files.current()) is not None:
        tracker.record_derived(target, sources)


def names_of_runs(folder: str | os.PathLike[str] | None = None) -> list[str]:
    """All runs that were recorded, oldest first."""
    place = Path(folder if folder is not None else runs_folder()) / "runs"
    return sorted(x.name for x in place.iterdir() if x.is_dir()) if place.is_dir() else []


def merged(folder: str | os.PathLike[str] | None = None, runs: Sequence[str] | None = None) -> Merged:
    """The records of all runs, or of some.

    Raises:
        InputOutput: ``runs-missing`` where nothing was recorded, or no run of such a name.
    """
    start.settle()
    base = Path(folder if folder is not None else runs_folder())
    known = names_of_runs(base)
    wanted = list(known if runs is None else runs)
    if unknown := [x for x in wanted if x not in known]:
        raise InputOutput(
            f"no run {unknown[0]!r} in {base / 'runs'}; there are {', '.join(known) or 'none'}.",
            code="runs-missing",
        )
    if not wanted:
        raise InputOutput(
            f"nothing was recorded in {base}. Record a program with: sparsam track -- python train.py",
            code="runs-missing",
        )
    parts = [read_all(base / "runs" / name) for name in wanted]
    found = merge([Recovered(one.records) for one in parts])
    return Merged(found.records, tuple(x for one in parts for x in one.damages), found.lost)


def recorded(folder: str | os.PathLike[str] | None = None, runs: Sequence[str] | None = None) -> History:
    """The graph of all runs and of all that was imported, or of some runs alone. Raises as :func:`merged`."""
    from sparsam.provenance.adapters import imported

    if runs is not None:
        return history(merged(folder, runs))
    if not names_of_runs(folder) and imported.names(folder):
        found = History()
    else:
        found = history(merged(folder))
    imported.join(found, folder)
    return found
