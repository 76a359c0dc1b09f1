"""What a dry run measures of a stage."""

from dataclasses import dataclass

from sparsam.training.loop import Settings


@dataclass(frozen=True)
class Timed:
    """One stage of a dry run: seconds of one step (or of one example, one steering), and how many there will be."""

    stage: str
    each: float
    count: float
    settings: Settings | None
