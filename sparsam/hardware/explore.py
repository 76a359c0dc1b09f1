"""A grid of a machine's parameters on one workload, and which of its points are worth having.

Points are simulated independently: here, in several processes, or on the workers of a Ray cluster. Each that is done is kept in
``explore.json`` within a second, under a digest of everything that it depends on, and is not simulated again.
"""

import hashlib
import itertools
import json
import math
import multiprocessing
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from sparsam import __version__
from sparsam.errors import InputOutput, Refused, SparsamError, Usage
from sparsam.hardware.cost import Cost
from sparsam.hardware.designs import design_of
from sparsam.hardware.energy import DEFAULT_TABLE, EnergyTable, energy_table
from sparsam.hardware.machine import Machine
from sparsam.hardware.simulate import How, simulate
from sparsam.hardware.simulation import machine_json
from sparsam.hardware.writing import json_text, plain_json, write_whole
from sparsam.workload import INDEX, Workload

KIND = "sparsam-exploration"
SCHEMA = 1
FILE = "explore.json"
MOST_POINTS = 4096
"""Of a grid. Chosen by us: hours at a second each."""

SAVE_SECONDS = 1.0
"""Between two writes of the file: what a killed run loses at most. Chosen by us."""


IMPOSSIBLE = (
    "machine-parameter",
    "accumulator-overflow",
    "memory-buffer",
    "workload-range",
    "counter-overflow",
)
"""What a point of a grid may be refused for without ending the grid."""


@dataclass(frozen=True)
class Point:
    """One machine of the grid, and what the workload took on it; without figures where ``refused`` says why.

    Args:
        key: digest of what the point depends on.
        values: of the parameters that were varied.
        refused: why the machine is none, or cannot run the workload.
        cycles, dense_cycles: computing and memory together, its own and those of its dense baseline.
        error: standard error of the cycles, where sampled.
        compute_speedup, speedup: over its own dense baseline; computing alone, and with memory.
        energy_pj: by part.
        dram_bytes, sram_bytes: moved.
        utilisation, memory_bound: shares.
        mode: exact, sampled or bound.
        left_out: how many layers the design does not compute.
        seconds: that the simulation took.
        on_front: no other point takes at most as many cycles and at most as much energy, and less of one.
    """

    key: str
    values: Mapping[str, Any]
    refused: str | None = None
    cycles: float = 0.0
    error: float = 0.0
    dense_cycles: float = 0.0
    compute_speedup: float = 0.0
    speedup: float = 0.0
    energy_pj: Mapping[str, float] = field(default_factory=dict)
    dram_bytes: float = 0.0
    sram_bytes: float = 0.0
    utilisation: float = 0.0
    memory_bound: float = 0.0
    mode: str = ""
    left_out: int = 0
    seconds: float = 0.0
    on_front: bool = False

    @property
    def energy(self) -> float:
        """Picojoules of all parts."""
        return sum(self.energy_pj.values())

    @property
    def name(self) -> str:
        """The values, in words."""
        return ", ".join(f"{name} {value}" for name, value in self.values.items())


@dataclass(frozen=True)
class Exploration:
    """All points of a grid.

    Args:
        workload: name of the trace.
        trace_sha256: digest of its index, which holds the digests of its layers.
        machine: that was varied.
        vary: values by parameter.
        table: energy constants.
        how: mode and seed.
        points: in the order of the grid.
        reused: how many were there already.
        earlier: points of other grids, seeds or traces that stood in the file; they stay there.
    """

    workload: str
    trace_sha256: str
    machine: Machine
    vary: Mapping[str, tuple[Any, ...]]
    table: EnergyTable
    how: How
    points: tuple[Point, ...]
    reused: int = 0
    earlier: tuple[Point, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """One JSON object."""
        found = {
            "kind": KIND, "schema": SCHEMA, "sparsam": __version__,
            "workload": self.workload, "trace_sha256": self.trace_sha256,
            "vary": {name: list(values) for name, values in self.vary.items()}, "base": machine_json(self.machine),
            "constants": self.table.name, "how": {"mode": self.how.mode, "error": self.how.error, "seed": self.how.seed},
            "points": [asdict(point) for point in self.points],
            "earlier": [asdict(point) for point in self.earlier],
        }  # fmt: skip
        made: dict[str, Any] = plain_json(found)
        return made

    def save(self, folder: Path) -> Path:
        """Write ``explore.json``, whole or not at all."""
        write_whole(folder / FILE, json_text(self.to_json()))
        return folder / FILE


def values_of(machine: Machine, text: str) -> tuple[str, tuple[Any, ...]]:
    """``name=1..4,8`` as the parameter's name and its values, each of the kind that the machine's own has.

    ``a..b`` is every whole number from a to b.

    Raises:
        Usage: ``explore-vary``; ``machine-parameter`` for a name that the machine has not.
    """
    name, mark, given = text.partition("=")
    name = name.strip()
    if not mark or not given.strip():
        raise Usage(f"cannot read {text!r}; expected e.g. depth=1..3 or lanes=8,16,32.", code="explore-vary")
    if name not in machine.parameters:
        raise Usage(
            f"machine {machine.name} has no parameter {name!r}; it has {', '.join(machine.parameters)}.",
            code="machine-parameter",
        )
    old = machine.parameters[name].value
    found: list[Any] = []
    for part in (part.strip() for part in given.split(",")):
        low, dots, high = part.partition("..")
        try:
            if dots and isinstance(old, int) and not isinstance(old, bool):
                found += _range(int(low), int(high))
            else:
                found.append(_value(part, old))
        except ValueError:
            raise Usage(
                f"cannot read {part!r} as a value of {name}, which is {old!r} in machine {machine.name}; expected e.g. "
                f"{name}=1..8 or {name}=8,16,32 for whole numbers, or values between commas.",
                code="explore-vary",
            ) from None
    return name, tuple(dict.fromkeys(found))


def _range(low: int, high: int) -> list[int]:
    if high < low or high - low >= MOST_POINTS:
        raise ValueError
    return list(range(low, high + 1))


def _value(text: str, old: Any) -> Any:
    """Text as a value of the kind of ``old``. Raises ValueError."""
    if isinstance(old, bool):
        return {"true": True, "false": False}[text] if text in ("true", "false") else _no(text)
    if isinstance(old, int):
        return int(text)
    if isinstance(old, float):
        return float(text) if math.isfinite(float(text)) else _no(text)
    return text if isinstance(old, str) and text else _no(text)


def _no(text: str) -> Any:
    raise ValueError(text)


def explore(
    trace: str | os.PathLike[str],
    machine: Machine,
    vary: Mapping[str, Sequence[Any]],
    out: str | os.PathLike[str],
    how: How | None = None,
    *,
    table: EnergyTable | str = DEFAULT_TABLE,
    workers: int | None = None,
    ray: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Exploration:
    """Simulate a trace on every combination of some parameters' values.

    Args:
        trace: folder of a workload; every process reads it.
        machine: whose parameters are varied.
        vary: values by parameter.
        out: folder of ``explore.json``; points that stand there are taken over.
        how: mode and seed.
        table: energy constants, or their name.
        workers: processes; as many as this process may use cores, if absent. With one, here.
        ray: address of a Ray cluster (``local`` starts one here) whose workers see the same files.
        progress: told how many of the missing points are done.

    Raises:
        Usage: ``explore-vary``, ``explore-points``, ``explore-workers``, ``ray-missing``.
        InputOutput: ``explore-corrupt``, ``ray-unreachable``, and what is wrong with the trace.
        Refused: ``explore-impossible`` where no point is a machine; and what is wrong with a layer, by its name.
    """
    how, constants = how or How(), energy_table(table) if isinstance(table, str) else table
    trace, out = Path(trace).absolute(), Path(out)
    if workers is not None and workers < 1:
        raise Usage(f"workers must be 1 or more; got {workers}.", code="explore-workers")
    workload = Workload.load(trace)
    digest = hashlib.sha256((trace / INDEX).read_bytes()).hexdigest()
    grid = _grid(machine, vary)
    kept = _kept(out / FILE)
    points: list[Point | None] = []
    jobs: dict[int, Job] = {}
    keys: set[str] = set()
    for number, values in enumerate(grid):
        varied = machine.varied(**values)
        key = key_of(varied, digest, how, constants)
        keys.add(key)
        if key in kept:
            points.append(replace(kept[key], values=values))
            continue
        points.append(None)
        try:
            design_of(varied)
            jobs[number] = Job(str(trace), varied, dict(values), key, how, constants)
        except Refused as error:
            points[number] = Point(key, values, refused=str(error))
    name = str(workload.facts.get("name") or trace.name)
    varied_values = {parameter: tuple(given) for parameter, given in vary.items()}
    others = tuple(replace(point, on_front=False) for key, point in kept.items() if key not in keys)
    whole = Exploration(
        name, digest, machine, varied_values, constants, how, (), len(grid) - len(jobs), others
    )
    out.mkdir(parents=True, exist_ok=True)
    saved = time.monotonic()
    try:
        for done, (number, point) in enumerate(_each(jobs, workers, ray), 1):
            points[number] = point
            if time.monotonic() - saved >= SAVE_SECONDS:
                replace(whole, points=_fronted(points)).save(out)
                saved = time.monotonic()
            if progress is not None:
                progress(done, len(jobs))
    finally:  # an interrupted run keeps what it has
        found = replace(whole, points=_fronted(points))
        found.save(out)
    if all(point.refused for point in found.points):
        raise Refused(
            f"no point of the grid is a machine; the first: {found.points[0].refused}",
            code="explore-impossible",
        )
    return found


@dataclass(frozen=True)
class Job:
    """A point to simulate, in whatever process."""

    trace: str
    machine: Machine
    values: Mapping[str, Any]
    key: str
    how: How
    table: EnergyTable


def point_of(job: Job) -> Point:
    """Simulate one point."""
    started = time.perf_counter()
    try:
        cost = simulate(Workload.load(job.trace), job.machine, job.how, table=job.table)
    except Refused as error:
        if error.code not in IMPOSSIBLE:
            raise
        return Point(job.key, job.values, refused=str(error))
    return _figures(job, cost, time.perf_counter() - started)


@dataclass(frozen=True)
class Failure:
    """What ended a point in another process, as plain data."""

    kind: str
    code: str
    text: str


def _guarded(job: Job) -> Point | Failure:
    try:
        return point_of(job)
    except SparsamError as error:
        return Failure(type(error).__name__, error.code, str(error))


def _unpacked(found: Point | Failure) -> Point:
    """The point; what ended it elsewhere is raised here."""
    if isinstance(found, Failure):
        kind = {one.__name__: one for one in (Usage, InputOutput)}.get(found.kind, Refused)
        raise kind(found.text, code=found.code)
    return found


def _figures(job: Job, cost: Cost, seconds: float) -> Point:
    return Point(
        job.key, job.values, None, float(cost.cycles), float(cost.error), float(cost.dense_cycles), float(cost.compute_speedup),
        float(cost.speedup), {part: float(pj) for part, pj in cost.energy_pj.items()}, float(cost.dram_bytes),
        float(cost.sram_bytes), float(cost.utilisation), float(cost.memory_bound), cost.mode, len(cost.left_out),
        round(seconds, 3),
    )  # fmt: skip


def _grid(machine: Machine, vary: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """All combinations, the last parameter running fastest."""
    if not vary or not all(vary.values()):
        raise Usage("name at least one parameter and its values, e.g. depth=1..3.", code="explore-vary")
    many = math.prod(len(values) for values in vary.values())
    if many > MOST_POINTS:
        raise Usage(f"the grid has {many:,} points; at most {MOST_POINTS:,}.", code="explore-points")
    return [dict(zip(vary, values, strict=True)) for values in itertools.product(*vary.values())]


def key_of(machine: Machine, trace_sha256: str, how: How, table: EnergyTable) -> str:
    """A digest of everything that a point depends on."""
    text = json.dumps(
        plain_json({
            "sources": _sources(), "schema": SCHEMA, "design": machine.design, "trace": trace_sha256,
            "parameters": {name: one.value for name, one in sorted(machine.parameters.items())},
            "how": [how.mode, how.error, how.seed, how.check],
            "table": [table.name, table.node_nm, {event: pj for event, (pj, _, _) in sorted(table.picojoules.items())}],
        }),
        sort_keys=True,
    )  # fmt: skip
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def _sources() -> str:
    """A digest of the simulators themselves: points of other ones are not taken over."""
    found = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        found.update(file.name.encode() + b"\0" + file.read_bytes())
    return found.hexdigest()


def _kept(file: Path) -> dict[str, Point]:
    """The points that stand in a file already, by key.

    Raises:
        InputOutput: ``explore-corrupt``.
    """
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
        if read["kind"] != KIND or read["schema"] != SCHEMA:
            raise ValueError(f"kind {read['kind']!r}, schema {read['schema']!r}")
        points = [_point_from(one) for one in (*read["points"], *read["earlier"])]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputOutput(
            f"{file} cannot be taken up again: {error}. Name another folder, or remove it.",
            code="explore-corrupt",
        ) from error
    return {point.key: point for point in points}


def _point_from(read: Mapping[str, Any]) -> Point:
    point = Point(**read)
    figures = (point.cycles, point.error, point.dense_cycles, point.dram_bytes, *point.energy_pj.values())
    if not isinstance(point.key, str) or not all(isinstance(one, int | float) for one in figures):
        raise ValueError(f"a point is {read!r}")
    return point


def _fronted(points: Sequence[Point | None]) -> tuple[Point, ...]:
    """Those that are there, and which of them no other is better than."""
    there = [point for point in points if point is not None]
    front = pareto([None if one.refused else (one.cycles, one.energy) for one in there])
    return tuple(replace(one, on_front=on) for one, on in zip(there, front, strict=True))


def pareto(costs: Sequence[tuple[float, float] | None]) -> list[bool]:
    """For each pair whether no other is at most as large in both and smaller in one; None never is.

    Numbers are compared by nine digits: sums in another order are no other cost.
    """
    costs = [one and (float(f"{one[0]:.9g}"), float(f"{one[1]:.9g}")) for one in costs]

    def beaten(one: tuple[float, float]) -> bool:
        return any(
            other[0] <= one[0] and other[1] <= one[1] and other != one for other in costs if other is not None
        )

    return [one is not None and not beaten(one) for one in costs]


def _each(jobs: Mapping[int, Job], workers: int | None, ray: str | None) -> Iterator[tuple[int, Point]]:
    """Number and point, in the order they are done."""
    if ray is not None:
        return _on_ray(ray, jobs)
    many = min(workers or len(os.sched_getaffinity(0)), len(jobs))
    return (
        _in_processes(jobs, many) if many > 1 else ((number, point_of(job)) for number, job in jobs.items())
    )


def _one_thread() -> None:
    """Processes side by side have a core each. Read when the first kernel is loaded."""
    os.environ["NUMBA_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"


def _in_processes(jobs: Mapping[int, Job], workers: int) -> Iterator[tuple[int, Point]]:
    fresh = multiprocessing.get_context("spawn")  # threads of compiled kernels do not outlive a fork
    with ProcessPoolExecutor(workers, mp_context=fresh, initializer=_one_thread) as pool:
        waiting = {pool.submit(_guarded, job): number for number, job in jobs.items()}
        try:
            for finished in as_completed(waiting):
                yield waiting[finished], _unpacked(finished.result())
        finally:
            pool.shutdown(cancel_futures=True)


def _on_ray(address: str, jobs: Mapping[int, Job]) -> Iterator[tuple[int, Point]]:
    """On the workers of a cluster, one core each."""
    # Ray's usage statistics would leave this machine; its workers must not build an environment of their own.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    try:
        import ray
    except ImportError:
        raise Usage(
            "a Ray cluster wants the extra 'distributed': pip install 'sparsam[distributed]'.",
            code="ray-missing",
        ) from None
    began = not ray.is_initialized()
    if began:
        _check_answers(address)
        ray.init(
            address=None if address == "local" else address, log_to_driver=False, include_dashboard=False,
            configure_logging=False,
        )  # fmt: skip

    def make(job: Job) -> Point | Failure:
        _one_thread()
        return _guarded(job)

    try:
        remote: Any = ray.remote(num_cpus=1)(make)
        numbers = {remote.remote(job): number for number, job in jobs.items()}
        waiting = list(numbers)
        while waiting:
            ready, waiting = ray.wait(waiting, num_returns=1)
            for one in ready:
                yield numbers[one], _unpacked(ray.get(one))
    finally:
        if began:
            ray.shutdown()


def _check_answers(address: str) -> None:
    """Ask whether anybody listens: Ray itself waits for minutes, and then ends the process.

    Raises:
        InputOutput: ``ray-unreachable``.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():  # local, auto, or an address that Ray resolves
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise InputOutput(
            f"no Ray cluster answers at {address!r}: {error.strerror or error}. Start one with `ray start --head`, or give "
            "'local'.",
            code="ray-unreachable",
        ) from None
