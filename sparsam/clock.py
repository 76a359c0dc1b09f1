"""How fast things are beside each other: each in a process of its own, timed in turn.

A machine that others use changes its speed from minute to minute, so a rate alone says little. All contestants wait, warm,
in their own processes; a round runs each of them once, and two are compared by the ratio within a round. The median of
these ratios is the figure, their least and largest the spread. A run on a busy machine, or one whose ratios lie too far
apart, says so.
"""

import json
import os
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

from sparsam.errors import InputOutput, Usage

TAKEN = 0.3
"""Cores that others may take before it is said. Chosen by us: a third busy process slows two by more than its share."""

SPREAD = 1.5
"""Ratios of one pair that lie further apart than this are no figure. Chosen by us: an undisturbed run stays below 1.2."""


@dataclass(frozen=True)
class Timing:
    """Seconds of each round of one contestant, and what it said of itself when it was ready."""

    name: str
    seconds: tuple[float, ...]
    facts: Mapping[str, Any]

    @property
    def median(self) -> float:
        """Seconds of the middle round."""
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Ratio:
    """How many times faster ``name`` is than ``baseline``: the median of the rounds' ratios, the least and the largest."""

    name: str
    baseline: str
    value: float
    low: float
    high: float

    @property
    def spread(self) -> float:
        """Largest over least."""
        return self.high / self.low

    @property
    def doubtful(self) -> bool:
        """Whether the rounds disagree too much for a figure."""
        return self.spread > SPREAD


@dataclass(frozen=True)
class Race:
    """What came of a run: a timing for each contestant, those that could not take part and why, and warnings."""

    timings: Mapping[str, Timing]
    absent: Mapping[str, str]
    warnings: tuple[str, ...]

    def ratio(self, name: str, baseline: str) -> Ratio:
        """How many times faster one is than the other.

        Raises:
            Usage: ``not-timed`` for a name that was not timed.
        """
        for wanted in (name, baseline):
            if wanted not in self.timings:
                why = f": {self.absent[wanted]}" if wanted in self.absent else ""
                raise Usage(
                    f"{wanted} was not timed{why}. Timed: {', '.join(self.timings) or 'nothing'}.",
                    code="not-timed",
                )
        pairs = zip(self.timings[name].seconds, self.timings[baseline].seconds, strict=True)
        ratios = [theirs / own for own, theirs in pairs]
        return Ratio(name, baseline, statistics.median(ratios), min(ratios), max(ratios))


def race(
    contestants: Mapping[str, Sequence[str]],
    *,
    rounds: int = 7,
    warmups: int = 2,
    threads: int | None = None,
    patience: float = 600.0,
    progress: Callable[[int, int], None] | None = None,
) -> Race:
    """Run each command, wait until all are warm, and time them in turn.

    Args:
        contestants: name and command of each; a command's process goes by :func:`take_part`.
        rounds: how often each is timed; in every second round the order is turned round.
        warmups: how often each runs before.
        threads: of each process; all cores if absent. No two run at once.
        patience: seconds that a contestant may take to get ready, or for one round.
        progress: called with rounds done and in all.

    Raises:
        Usage: ``rounds`` below 1.
        InputOutput: ``contestant`` where one that was ready stops in a round.
    """
    if rounds < 1:
        raise Usage(f"rounds must be at least 1; got {rounds}.", code="rounds")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    absent: dict[str, str] = {}
    ready: dict[str, _Contestant] = {}
    with _starting(threads or cores) as start:
        for name, command in contestants.items():  # one after the other: getting ready may take all cores
            contestant = start(name, command)
            try:
                contestant.prepare(patience)
                for _ in range(warmups):
                    contestant.run(patience)
                ready[name] = contestant
            except InputOutput as error:
                absent[name] = str(error)
                contestant.process.kill()  # one that is still at it would disturb the others
        warnings = _busy(cores)  # now: all wait, and what is at work is somebody else's
        seconds: dict[str, list[float]] = {name: [] for name in ready}
        for number in range(rounds):
            order = list(ready) if number % 2 == 0 else list(ready)[::-1]
            for name in order:
                seconds[name].append(ready[name].run(patience))
            if progress is not None:
                progress(number + 1, rounds)
        timings = {name: Timing(name, tuple(seconds[name]), ready[name].facts) for name in ready}
    return Race(timings, absent, tuple(warnings))


def _busy(cores: int) -> list[str]:
    taken = _cores_taken()
    if taken is None or taken < TAKEN:
        return []
    return [
        f"the machine is busy: others take {taken:.1f} of its {cores} cores; figures may be off. Run again when it is quiet."
    ]


def _cores_taken(seconds: float = 1.0) -> float | None:
    """How many cores all processes together kept busy over some seconds; None where the system does not say."""
    before = _ticks()
    time.sleep(seconds)
    after = _ticks()
    if before is None or after is None or after[1] == before[1]:
        return None
    return (os.cpu_count() or 1) * (after[0] - before[0]) / (after[1] - before[1])


def _ticks() -> tuple[int, int] | None:
    """Linux: time at work and in all, over all cores, since the start."""
    try:
        with open("/proc/stat", encoding="ascii") as file:
            spent = [int(number) for number in file.readline().split()[1:]]
    except (OSError, ValueError):
        return None
    idle = sum(spent[3:5])  # and waiting for a disk
    return sum(spent[:8]) - idle, sum(spent[:8])


class _Contestant:
    """One process; lines of JSON go to and fro."""

    def __init__(self, name: str, process: "subprocess.Popen[str]") -> None:
        self.name = name
        self.process = process
        self.facts: dict[str, Any] = {}

    def prepare(self, patience: float) -> None:
        self.facts = self._heard(patience)

    def run(self, patience: float) -> float:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write("run\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # what it said at the end is read below
        return float(self._heard(patience)["seconds"])

    def _heard(self, patience: float) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = _line(self.process.stdout, patience)
        try:
            said = {"error": "took too long"} if line is None else json.loads(line or self._end())
        except json.JSONDecodeError:
            said = {"error": f"said {(line or '')[:200]!r} where a line of JSON was expected"}
        if "error" in said:
            raise InputOutput(f"{self.name}: {said['error']}", code="contestant")
        found: dict[str, Any] = said
        return found

    def _end(self) -> str:
        """What is said of a process that says no more."""
        try:
            how = f"its process ended with exit code {self.process.wait(10)}"
        except subprocess.TimeoutExpired:
            how = "its process closed its standard output"
        return json.dumps({"error": how})


def _line(stream: IO[str], patience: float) -> str | None:
    """The next line; empty at the end of the stream, None after ``patience`` seconds."""
    found, _, _ = select.select([stream], [], [], patience)
    return stream.readline() if found else None


@contextmanager
def _starting(threads: int) -> Iterator[Callable[[str, Sequence[str]], _Contestant]]:
    """Starts processes; at the end of the block all of them are stopped."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    running: list[_Contestant] = []

    def start(name: str, command: Sequence[str]) -> _Contestant:
        process = subprocess.Popen(
            list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        running.append(_Contestant(name, process))
        return running[-1]

    try:
        yield start
    finally:
        for contestant in running:
            contestant.process.kill()
        for contestant in running:
            contestant.process.communicate()


def take_part(make: Callable[[], tuple[Callable[[], object], dict[str, Any]]]) -> None:
    """The other side: make something ready, then run it once for each line that comes in, and say how long it took.

    What a library prints goes to standard error, so that it cannot be taken for an answer.

    Args:
        make: gives what is to be timed, and facts about it. Work that gives back a number has been done so often, and the
            time said is that of once.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.stdout = sys.stderr

    def say(**said: Any) -> None:
        answers.write(json.dumps(said, allow_nan=False) + "\n")
        answers.flush()

    try:
        work, facts = make()
    except Exception as error:
        say(error=f"{type(error).__name__}: {error}")
        return
    say(**facts)
    for _ in sys.stdin:
        started = time.perf_counter()
        try:
            times = work()
        except Exception as error:
            say(error=f"{type(error).__name__}: {error}")
            return
        said = time.perf_counter() - started
        say(seconds=said / times if isinstance(times, int) and times > 1 else said)
