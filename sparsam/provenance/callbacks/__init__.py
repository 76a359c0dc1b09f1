"""For training loops of others: settings, results, epochs and checkpoints told to whoever tracks the program.

    from sparsam.provenance.callbacks import ProvenanceCallback     # transformers: Trainer(callbacks=[ProvenanceCallback()])
    from sparsam.provenance.callbacks import ProvenanceTracker      # accelerate: Accelerator(log_with=ProvenanceTracker())
    from sparsam.provenance.callbacks import LightningProvenance    # lightning: Trainer(callbacks=[LightningProvenance()])

Each is nothing where nobody tracks. A framework is imported with its own class alone.
"""

from __future__ import annotations

TYPE_CHECKING = False

if TYPE_CHECKING:
    from sparsam.provenance.callbacks.of_accelerate import ProvenanceTracker
    from sparsam.provenance.callbacks.of_lightning import LightningProvenance
    from sparsam.provenance.callbacks.of_trainer import ProvenanceCallback

__all__ = ["LightningProvenance", "ProvenanceCallback", "ProvenanceTracker"]


def __getattr__(name: str) -> object:
    if name == "ProvenanceCallback":
        from sparsam.provenance.callbacks.of_trainer import ProvenanceCallback

        return ProvenanceCallback
    if name == "ProvenanceTracker":
        from sparsam.provenance.callbacks.of_accelerate import ProvenanceTracker

        return ProvenanceTracker
    if name == "LightningProvenance":
        from sparsam.provenance.callbacks.of_lightning import LightningProvenance

        return LightningProvenance
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
