"""The commands ``simulate``, ``machines`` and ``explore``: a recorded run on simulated accelerators."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sparsam.cli.answers import answer
from sparsam.cli.options import MOST_SEED, Debug, Json, examples
from sparsam.cli.recording import NoProvenance, Recorded
from sparsam.cli.show import new_console, new_table, plain
from sparsam.cli.working import Interrupted, working
from sparsam.errors import Usage

if TYPE_CHECKING:
    from rich.table import Table

    from sparsam.cli.working import Shown
    from sparsam.hardware.machine import Machine
    from sparsam.hardware.simulation import Simulation

app = typer.Typer()

MATRICES = (".mtx", ".mtx.gz")
"""Ends of the names of Matrix Market files."""

TableName = Annotated[
    str,
    typer.Option(
        "--table", metavar="NAME", help="Energy constants; the report names them and their sources."
    ),
]
Mode = Annotated[
    Literal["auto", "exact", "sampled", "bound"],
    typer.Option(
        "--mode",
        help="Of counting cycles: every one, a sample with its standard error, a limit; auto is exact where "
        "seconds suffice, else sampled.",
    ),
]
Deviation = Annotated[
    float,
    typer.Option(
        "--error",
        metavar="X",
        help="Standard error of a layer's cycles at which a sample is large enough, as a share.",
    ),
]
Seed = Annotated[
    int, typer.Option("--seed", metavar="N", min=0, max=MOST_SEED, help="Seed of what is sampled.")
]


@app.command(
    "simulate",
    cls=Recorded,
    short_help="What a recorded run would take on sparse accelerators.",
    help="Run the layers of a trace, with the numbers that went into them, on simulated accelerators: cycles, speedup over "
    "each design's own dense baseline, energy by part, traffic, utilisation. TRACE is a folder that sparsam trace wrote; or a "
    "Matrix Market file, multiplied with SECOND, or with itself. Figures are simulated, never measured. Writes "
    "simulation.html, .md and .json.",
    epilog=examples(
        "sparsam simulate trace/ --on tensordash,griffin,s2engine --out silicon",
        "sparsam simulate trace/ --on dense,mine.toml --mode exact --out silicon",
        "sparsam simulate matrix.mtx.gz --on sparch --out product",
        "sparsam machines",
    ),
)
def _simulate(
    trace: Annotated[
        Path, typer.Argument(metavar="TRACE", help="Folder of a trace, or a Matrix Market file.")
    ],
    second: Annotated[
        Path | None,
        typer.Argument(metavar="SECOND", help="The right matrix; the left one again if absent."),
    ] = None,
    on: Annotated[
        str,
        typer.Option(
            "--on",
            metavar="NAME,NAME,...",
            help="Machines by name (sparsam machines), or TOML files of your own.",
        ),
    ] = "",
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder of the report; an earlier one is replaced.")
    ] = Path("silicon"),
    table: TableName = "default40",
    mode: Mode = "auto",
    error: Deviation = 0.01,
    seed: Seed = 0,
    check: Annotated[
        bool,
        typer.Option("--check", help="Replay the schedules and compare with the dense product; slow."),
    ] = False,
    as_json: Json = False,
    no_provenance: NoProvenance = False,
    debug: Debug = False,
) -> int:
    with working(as_json, debug, models=False) as show:
        from sparsam.hardware.simulate import How
        from sparsam.hardware.simulation import FILE, check_machines
        from sparsam.hardware.writing import folder_for
        from sparsam.report.hardware import by_reason, write_simulation

        machines, how = _machines(on), How(mode, error, seed, check)
        matrices = trace.name.endswith(MATRICES)
        check_machines(machines, matrices)
        folder_for(out, FILE)
        if matrices:
            found = _of_matrices(show, trace, second or trace, machines, how, table)
        elif second is not None:
            raise Usage(
                f"{second}: a second operand belongs to a Matrix Market file (.mtx, .mtx.gz); {trace} is taken for a trace.",
                code="simulate-second",
            )
        else:
            found = _of_trace(show, trace, machines, how, table)
        for cost in found.costs:
            show.note_all(
                f"not computed on {cost.machine}: {who}: {why}" for who, why, _ in by_reason(cost.left_out)
            )
        page = write_simulation(found, out)
    if as_json:
        return answer(found.to_json() | {"folder": str(out), "report": str(page), "notes": show.notes})
    from sparsam.hardware.simulation import SAYS
    from sparsam.report.hardware import total_row

    console = new_console()
    rows = [total_row(machine, cost) for machine, cost in zip(found.machines, found.costs, strict=True)]
    console.print(_rows(f"{found.name}, simulated; energy constants {found.table.name}", rows))
    console.print(SAYS, soft_wrap=True)
    console.print(f"Report: {plain(page)}", soft_wrap=True)
    return 0


def _machines(on: str) -> "list[Machine]":
    """The machines of ``--on``."""
    from sparsam.hardware.machine import machine_of

    return [machine_of(name.strip()) for name in on.split(",") if name.strip()]


def _of_trace(
    show: "Shown", trace: Path, machines: "Sequence[Machine]", how: Any, table: str
) -> "Simulation":
    from sparsam.hardware.simulation import simulate_on
    from sparsam.workload import Workload

    workload = Workload.load(trace)
    show.say(f"simulating {len(workload)} layers of {trace} on {', '.join(one.name for one in machines)}")

    def told(machine: str, number: int, many: int, layer: str) -> None:
        show.progress(machine, number + 1, many, {})

    return simulate_on(workload, machines, how, name=trace.resolve().name, table=table, progress=told)


def _of_matrices(
    show: "Shown", left: Path, right: Path, machines: "Sequence[Machine]", how: Any, table: str
) -> "Simulation":
    from sparsam.hardware.matrix_market import read_matrix
    from sparsam.hardware.simulation import multiply_on

    a = read_matrix(left)
    b = a if left == right else read_matrix(right)
    show.say(f"multiplying {left} with {right} on {', '.join(one.name for one in machines)}")
    return multiply_on(a, b, machines, how, name=f"{left.name} × {right.name}", table=table)


SHORT = {
    "speedup, computing alone": "speedup: computing", "utilisation": "used", "layers bound by memory": "memory-bound"
}  # fmt: skip
"""Names of columns where they must be narrow."""


def _rows(title: str, rows: Sequence[dict[str, str]]) -> "Table":
    """A table of rows with the same columns, under short names."""
    table = new_table(title, *(SHORT.get(column, column) for column in (rows[0] if rows else ())))
    table.columns[0].no_wrap = True
    for row in rows:
        table.add_row(*(plain(value) for value in row.values()))
    return table


@app.command(
    "machines",
    short_help="Simulated accelerators, and every parameter with its source.",
    help="List the simulated machines; or show one with every parameter, its unit and where its number is from. NAME may be a "
    "TOML file of your own.",
    epilog=examples("sparsam machines", "sparsam machines tensordash", "sparsam machines mine.toml --json"),
)
def _machines_command(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Name of a machine, or a TOML file.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    with working(as_json, debug, models=False):
        from sparsam.hardware.designs import design_of
        from sparsam.hardware.machine import machine_of
        from sparsam.hardware.machine import machines as all_machines
        from sparsam.hardware.simulation import machine_json

        if name is not None:
            one = machine_of(name)
            design_of(one)
        else:
            found = all_machines()
    console = new_console()
    if name is None:
        if as_json:
            return answer({"machines": [machine_json(machine) for machine in found.values()]})
        table = new_table("simulated machines", "name", "design", "about")
        for machine in found.values():
            table.add_row(plain(machine.name), plain(machine.design), plain(machine.about))
        console.print(table)
        return 0
    if as_json:
        return answer(machine_json(one))
    console.print(plain(f"{one.name}: {one.about}"), soft_wrap=True)
    if one.paper:
        console.print(plain(one.paper), soft_wrap=True)
    table = new_table("parameters", "name", "value", "unit", "source")
    for key, given in one.parameters.items():
        table.add_row(plain(key), plain(given.value), plain(given.unit), plain(given.source))
    console.print(table)
    return 0


@app.command(
    "explore",
    cls=Recorded,
    short_help="A grid of a machine's parameters: cycles against energy.",
    help="Simulate a trace on every combination of some parameters of a machine, in several processes, and say which are worth "
    "having: no other takes at most as many cycles and at most as much energy. Writes explore.json, explore.md and "
    "explore.html; what stands in explore.json is not simulated again.",
    epilog=examples(
        "sparsam explore tensordash --vary depth=1..3 --vary lanes=8,16,32 trace/ --out grid",
        "sparsam explore sparse-b --vary db1=2..8 --vary db3=0,1,2 trace/ --ray local --out grid",
        "sparsam machines tensordash",
    ),
)
def _explore(
    machine: Annotated[str, typer.Argument(metavar="DESIGN", help="Machine by name, or a TOML file.")],
    trace: Annotated[Path, typer.Argument(metavar="TRACE", help="Folder of a trace.")],
    vary: Annotated[
        list[str] | None,
        typer.Option(
            "--vary",
            metavar="NAME=VALUES",
            help="A parameter's values: 1..8, or 8,16,32. Give it again for more.",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder of explore.json and the report.")
    ] = Path("explored"),
    table: TableName = "default40",
    mode: Mode = "auto",
    error: Deviation = 0.01,
    seed: Seed = 0,
    workers: Annotated[
        int | None, typer.Option("--workers", metavar="N", min=1, help="Processes; one a core if absent.")
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray",
            metavar="ADDRESS",
            help="Simulate on a Ray cluster that sees the same files; local starts one here.",
        ),
    ] = None,
    as_json: Json = False,
    no_provenance: NoProvenance = False,
    debug: Debug = False,
) -> int:
    with working(as_json, debug, models=False) as show:
        from sparsam.hardware.explore import FILE, explore, values_of
        from sparsam.hardware.machine import machine_of
        from sparsam.hardware.simulate import How
        from sparsam.hardware.writing import folder_for
        from sparsam.report.explored import SAYS, point_row, write_exploration

        base = machine_of(machine)
        grid = [values_of(base, text) for text in vary or ()]
        if twice := next((name for name, _ in grid if [key for key, _ in grid].count(name) > 1), None):
            raise Usage(f"--vary {twice} is given twice; put all its values into one.", code="explore-vary")
        how = How(mode, error, seed)
        try:
            found = explore(
                trace, base, dict(grid), folder_for(out, FILE), how, table=table, workers=workers, ray=ray,
                progress=lambda done, many: show.progress("points", done, many, {}),
            )  # fmt: skip
        except KeyboardInterrupt:
            raise Interrupted(
                f"interrupted. Points that are done stand in {out / FILE}; the same command goes on from them."
            ) from None
        if found.reused:
            show.note(
                f"{found.reused} of {len(found.points)} points stood in {out / FILE} already, or are no machines"
            )
        show.note_all(f"no machine: {one.name}: {one.refused}" for one in found.points if one.refused)
        page = write_exploration(found, out)
    if as_json:
        return answer(found.to_json() | {"folder": str(out), "report": str(page), "notes": show.notes})
    console = new_console()
    rows = [point_row(one) for one in found.points if one.refused is None]
    console.print(
        _rows(f"{base.name} on {found.workload}, simulated; energy constants {found.table.name}", rows)
    )
    console.print(SAYS, soft_wrap=True)
    console.print(f"Report: {plain(page)}", soft_wrap=True)
    return 0
