"""What a check says: findings with their place and witness, what stayed unknown and why, and the verdict of each path."""

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any

Value = int | float | bool | str  # of a symbol


class Verdict(enum.StrEnum):
    """Of one path, and of the whole: the worst of its paths, where an error is worse than what is unknown."""

    PROVED = "proved"
    UNKNOWN = "unknown"
    ERROR = "error"

    @classmethod
    def worst(cls, verdicts: "list[Verdict]") -> "Verdict":
        """The worst of several; of none at all: unknown, for nothing was looked at."""
        order = (cls.PROVED, cls.UNKNOWN, cls.ERROR)
        return max(verdicts, key=order.index, default=cls.UNKNOWN)


@dataclasses.dataclass(frozen=True)
class Place:
    """A piece of a line of the user's program. Lines and columns count from one; `end_column` is one past the last."""

    file: str
    line: int
    column: int = 1
    end_column: int = 0
    function: str = ""
    source: str = ""


@dataclasses.dataclass(frozen=True)
class Operand:
    """One argument of the call that failed.

    Args:
        name: What the program or the signature calls it, "" where neither does.
        kind: "tensor", "number", "shape", or "other".
        shape: Of a tensor or a shape: its sizes in the names of the symbols ("B", "12*T", "768"); None otherwise.
        dtype: Of a tensor, such as "float32".
        device: Of a tensor, such as "cpu".
        text: The argument in short, for anything that is no tensor.
    """

    name: str
    kind: str
    shape: tuple[str, ...] | None = None
    dtype: str = ""
    device: str = ""
    text: str = ""


@dataclasses.dataclass(frozen=True)
class Failure:
    """An exception of the framework or of the program, with what it was called with.

    Args:
        operation: Dotted name of the innermost call of the framework that the program made ("torch.Tensor.view",
            "torch.nn.functional.linear", "torch.nn.Conv2d"), "" for an exception of the program's own.
        error: Name of the exception's class.
        text: Its message, in the names of the symbols where it names sizes.
        operands: Arguments of the call, in order.
        chain: Lines of the program from the outermost to the one that failed, which is the last.
        aten: Lowest operator that raised ("aten.view.default"), "" where none did.
    """

    operation: str
    error: str
    text: str
    operands: tuple[Operand, ...]
    chain: tuple[Place, ...]
    aten: str = ""

    @property
    def place(self) -> Place:
        """The line of the program that failed."""
        return self.chain[-1]


@dataclasses.dataclass(frozen=True)
class Finding:
    """A failure for given sizes.

    Args:
        code: Of the diagnostic, such as "view-numel"; `sparsam check --explain CODE` says more.
        message: One line, in the names of the symbols.
        failure: What was called with what, where.
        witness: Sizes, and values that the program branched on, for which it fails: by symbol.
        confirmed: Whether the program was run again with these sizes as plain numbers and failed at the same place.
        conditions: What was decided on the way there, in the names of the symbols ("N % B != 0").
        requirement: The condition that these sizes break, None where the failure depends on no size.
        fix: A hint, "" where there is none.
        caret: What stands under the marked piece ("12·64 = 768 per token, 512 asked"), "" for nothing.
        severity: "error", or "warning" for what is certain but does no harm by itself.
    """

    code: str
    message: str
    failure: Failure
    witness: Mapping[str, Value]
    confirmed: bool
    conditions: tuple[str, ...] = ()
    requirement: str | None = None
    fix: str = ""
    caret: str = ""
    severity: str = "error"


@dataclasses.dataclass(frozen=True)
class Unknown:
    """Something that keeps a path, or all of them, from being proved.

    Args:
        code: "unmodelled-call", "solver", "paths", "time", "memory", "loop", "value", "missing-module", "specialised",
            "recursion", "unconfirmed", "own-refusal", "argument", "crash", …
        reason: One sentence.
        place: Where, None where it is nowhere in the program.
    """

    code: str
    reason: str
    place: Place | None = None


@dataclasses.dataclass(frozen=True)
class Path:
    """One class of sizes that all take the same way through the program.

    Args:
        verdict: Of this way.
        sample: One member of the class, by symbol.
        conditions: What was decided on the way.
        ending: "end", "exit", "error", "raise", "merged" (into an earlier path), "stopped" (by a limit).
    """

    verdict: Verdict
    sample: Mapping[str, Value]
    conditions: tuple[str, ...]
    ending: str = "end"


@dataclasses.dataclass(frozen=True)
class Symbol:
    """An unknown of the program: a size with its range, or a value that the program branched on.

    Args:
        name: As it is printed, "B".
        low: Smallest value, inclusive; None for none.
        high: Largest value, inclusive; None for none.
        kind: "size" (given by the user or by a data set) or "value" (read from data, chance, the outside).
        meaning: "length of torchvision.datasets.MNIST", "batch_size of the command line", …
        place: Where it arises, None where it was given.
    """

    name: str
    low: float | None
    high: float | None
    kind: str = "size"
    meaning: str = ""
    place: Place | None = None


@dataclasses.dataclass(frozen=True)
class Report:
    """All of one check. `statistics`: seconds, solver_seconds, runs, queries, operations, peak_bytes."""

    program: str
    verdict: Verdict
    findings: tuple[Finding, ...] = ()
    unknowns: tuple[Unknown, ...] = ()
    paths: tuple[Path, ...] = ()
    symbols: tuple[Symbol, ...] = ()
    statistics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    output: str = ""

    def exit_code(self, *, allow_unknown: bool = False) -> int:
        """0 if all paths are proved, 1 if an error was found, 3 if something is unknown (0 where that is allowed)."""
        if self.verdict is Verdict.ERROR:
            return 1
        return 3 if self.verdict is Verdict.UNKNOWN and not allow_unknown else 0


def to_json(report: Report) -> dict[str, Any]:
    """A report as plain JSON values; `from_json` gives it back."""
    return dataclasses.asdict(report)


def from_json(value: Mapping[str, Any]) -> Report:
    """The report that `to_json` wrote.

    Raises:
        KeyError: If a field is missing.
    """
    return Report(
        program=value["program"],
        verdict=Verdict(value["verdict"]),
        findings=tuple(
            Finding(**{**f, "failure": _failure(f["failure"]), "conditions": tuple(f["conditions"])})
            for f in value["findings"]
        ),
        unknowns=tuple(Unknown(**{**u, "place": _place(u["place"])}) for u in value["unknowns"]),
        paths=tuple(
            Path(**{**p, "verdict": Verdict(p["verdict"]), "conditions": tuple(p["conditions"])})
            for p in value["paths"]
        ),
        symbols=tuple(Symbol(**{**s, "place": _place(s["place"])}) for s in value["symbols"]),
        statistics=dict(value["statistics"]),
        output=value["output"],
    )


def _place(value: Mapping[str, Any] | None) -> Place | None:
    return Place(**value) if value else None


def _failure(value: Mapping[str, Any]) -> Failure:
    operands = tuple(Operand(**{**o, "shape": _maybe_tuple(o["shape"])}) for o in value["operands"])
    return Failure(**{**value, "operands": operands, "chain": tuple(Place(**p) for p in value["chain"])})


def _maybe_tuple(value: list[str] | None) -> tuple[str, ...] | None:
    return None if value is None else tuple(value)
