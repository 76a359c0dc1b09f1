"""What was decided about a file that a program made: settings, masks, thresholds, bit widths, calibration rows, results.

The vocabulary of model compression, beside PROV-IO's extensible classes: one :class:`Account` a generation of a file. A program
tells it once the file is written (:func:`record_account`, :func:`record_calibration`, :func:`record_decision`); sparsam's own
commands do so for every checkpoint.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sparsam.errors import Usage
from sparsam.provenance.capture import files
from sparsam.provenance.tracking import Tracker

DECISIONS = {"mask": "Mask", "threshold": "Threshold", "bit-width": "BitWidth"}
"""Kind of a decision: its class, below io:Decision. A mask's value names what is kept."""
SETTINGS = {
    "method": "Method", "budget": "Budget", "seed": "Seed", "split seed": "Seed", "held out rows": "DataSplit",
    "data": "DataSplit", "dense weights": "DenseWeights",
}  # fmt: skip
"""Name of a setting: its class, below io:Configuration; others are io:Hyperparameter."""
LONGEST = 2000
"""Characters of a mask that is kept as it is; of a longer one its SHA-256 and its beginning. Chosen by us."""


@dataclass(frozen=True)
class Calibration:
    """Rows that decisions were taken on.

    Args:
        name: by which decisions name it.
        rows: how many.
        split: which rows they are numbers of.
        sha256: of their numbers, as the program worked it out.
        sources: ids of the files they come from.
    """

    name: str
    rows: int
    split: str
    sha256: str | None
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Decision:
    """One of :data:`DECISIONS`, taken on a calibration or on none that is known."""

    kind: str
    name: str
    value: Any
    calibration: str | None = None


@dataclass
class Account:
    """What is known of how one generation of a file was made, by its maker's word."""

    entity: str
    program: str
    configuration: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    calibrations: dict[str, Calibration] = field(default_factory=dict)
    decisions: list[Decision] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain facts."""
        return {
            "configuration": self.configuration,
            "metrics": self.metrics,
            "calibrations": [vars(x) | {"sources": list(x.sources)} for x in self.calibrations.values()],
            "decisions": [vars(x) for x in self.decisions],
        }


def kept_ranges(indices: Sequence[int]) -> str:
    """Indices that rise, as ranges.

    >>> kept_ranges([0, 1, 2, 5, 7, 8])
    '0-2,5,7-8'
    """
    parts: list[list[int]] = []
    for one in indices:
        if parts and one == parts[-1][1] + 1:
            parts[-1][1] = one
        else:
            parts.append([one, one])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def record_account(
    target: str | os.PathLike[str],
    configuration: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float | int | str] | None = None,
    *,
    tracker: Tracker | None = None,
) -> None:
    """Settings and results of a file that was just written; nothing where nobody is tracking."""
    if (tracker := tracker or files.current()) is not None:
        facts = {"configuration": dict(configuration or {}), "metrics": dict(metrics or {})}
        tracker.log.add("account", path=os.path.realpath(target), **facts)


def record_calibration(
    target: str | os.PathLike[str],
    name: str,
    rows: int,
    *,
    split: str = "train",
    sha256: str | None = None,
    sources: Sequence[str | os.PathLike[str]] = (),
    tracker: Tracker | None = None,
) -> None:
    """Rows that decisions about a written file were taken on; nothing where nobody is tracking.

    Args:
        target: the file.
        name: by which :func:`record_decision` names them.
        rows: how many.
        split: which rows they are.
        sha256: of their numbers.
        sources: files they come from.
        tracker: of a process that is tracked no more.
    """
    if (tracker := tracker or files.current()) is not None:
        tracker.log.add(
            "calibration", path=os.path.realpath(target), name=name, rows=int(rows), split=split, sha256=sha256,
            sources=[os.path.realpath(one) for one in sources],
        )  # fmt: skip


def record_decision(
    target: str | os.PathLike[str],
    kind: str,
    name: str,
    value: Any,
    *,
    calibration: str | None = None,
    tracker: Tracker | None = None,
) -> None:
    """A mask, threshold or bit width of a written file; nothing where nobody is tracking.

    Args:
        target: the file.
        kind: one of :data:`DECISIONS`.
        name: of what was decided on, such as ``layer 3 heads``.
        value: a number or text; of a mask the indices that are kept, or what :func:`kept_ranges` makes of them.
        calibration: name of the rows it was taken on.
        tracker: of a process that is tracked no more.

    Raises:
        Usage: ``decision-kind``.
    """
    if kind not in DECISIONS:
        raise Usage(f"a decision is one of {', '.join(DECISIONS)}; got {kind!r}.", code="decision-kind")
    if (tracker := tracker or files.current()) is not None:
        if isinstance(value, list | tuple):
            value = kept_ranges([int(one) for one in value])
        tracker.log.add(
            "decision", path=os.path.realpath(target), what=kind, name=name, value=_short(value), calibration=calibration
        )  # fmt: skip


def _short(value: Any) -> Any:
    if not isinstance(value, str) or len(value) <= LONGEST:
        return value
    import hashlib

    return f"sha256:{hashlib.sha256(value.encode()).hexdigest()} {value[:100]}…"


def take(
    accounts: dict[str, Account], entity: str, program: str, kind: str, facts: Mapping[str, Any], ids: Sequence[str]
) -> None:  # fmt: skip
    """Put a record of the log (kind ``account``, ``calibration`` or ``decision``) into the account of its file.

    ``ids`` are the entities that the record's sources are.
    """
    one = accounts.setdefault(entity, Account(entity, program))
    if kind == "account":
        one.configuration |= {str(key): value for key, value in dict(facts["configuration"]).items()}
        one.metrics |= {str(key): value for key, value in dict(facts["metrics"]).items()}
    elif kind == "calibration":
        sha256 = facts.get("sha256")
        one.calibrations[str(facts["name"])] = Calibration(
            str(facts["name"]), int(facts["rows"]), str(facts["split"]), None if sha256 is None else str(sha256), tuple(ids)
        )  # fmt: skip
    elif str(facts["what"]) in DECISIONS:
        calibration = facts.get("calibration")
        one.decisions.append(
            Decision(str(facts["what"]), str(facts["name"]), facts["value"], None if calibration is None else str(calibration))
        )  # fmt: skip
