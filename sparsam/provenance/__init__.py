"""Where a file came from: what programs read and wrote, recorded without a change to them, and asked afterwards.

    with sparsam.provenance.run("experiment"):     # or: sparsam track -- python train.py
        ...
        sparsam.provenance.record_metric("accuracy", 0.91)

    with sparsam.provenance.index() as found:     # recorded() reads all into memory
        found.lineage(found.at("/path/model.safetensors").id)

Nothing here imports torch.
"""

from __future__ import annotations

TYPE_CHECKING = False

if TYPE_CHECKING:
    from sparsam.provenance.decisions import record_account, record_calibration, record_decision
    from sparsam.provenance.graph import Call, Entity, History, Program, history
    from sparsam.provenance.index import Index, indexed
    from sparsam.provenance.log import Damage, Log, Merged, Record, Writer, merge, read_all
    from sparsam.provenance.runs import (
        record_config,
        record_derived,
        record_metric,
        record_type,
        recorded,
        run,
        scope,
        stage,
    )
    from sparsam.provenance.tracking import Selection, Tracker

__all__ = [
    "Call", "Damage", "Entity", "History", "Index", "Log", "Merged", "Program", "Record", "Selection", "Tracker", "Writer",
    "history", "indexed", "merge", "read_all", "record_account", "record_calibration", "record_config", "record_decision",
    "record_derived", "record_metric", "record_type", "recorded", "run", "scope", "stage",
]  # fmt: skip


def __getattr__(name: str) -> object:
    """The public names, loaded when they are first asked for: a tracked program imports none of them."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sparsam.provenance import decisions, graph, index, log, runs, tracking

    for home in (graph, index, log, tracking, runs, decisions):
        if hasattr(home, name):
            found = getattr(home, name)
            globals()[name] = found
            return found
    raise AttributeError(name)


def __dir__() -> list[str]:
    return sorted(__all__)
