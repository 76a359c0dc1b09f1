"""What one contestant is told: a small JSON file that the race writes and the contestant's process reads."""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Lap:
    """One kind of round: the order of the rows, and whether reading them (tokenizer, image processor) is timed."""

    order: str
    tokenisation: bool


@dataclass(frozen=True)
class Spec:
    """A contestant: a form of a checkpoint, what it runs, and where things lie."""

    form: str
    """A name in :data:`sparsam.baselines.peers.PEERS`."""
    folder: str
    """The checkpoint."""
    rows: str
    """Folder of the rows; see :func:`sparsam.baselines.rows.write_rows`."""
    cache: str
    """Folder of exported models."""
    batch: int
    laps: tuple[Lap, ...]
    warmups: int
    """Passes over every lap before the rounds."""
    rounds: int
    """Rounds of each lap; all of the first lap come before those of the second."""
    latencies: str
    """File for the seconds of every batch, one float64 after the other; empty for none."""

    def write(self, file: Path) -> None:
        """As JSON."""
        file.write_text(json.dumps(asdict(self), allow_nan=False), encoding="utf-8")

    @staticmethod
    def read(file: Path) -> "Spec":
        """What :meth:`write` wrote."""
        held = json.loads(file.read_text(encoding="utf-8"))
        return Spec(**(held | {"laps": tuple(Lap(**lap) for lap in held["laps"])}))

    def lap_of(self, run: int) -> Lap:
        """The lap of a contestant's ``run``-th run, from 0: all laps in turn while warming up, then ``rounds`` of each."""
        warming = self.warmups * len(self.laps)
        if run < warming:
            return self.laps[run % len(self.laps)]
        return self.laps[min((run - warming) // self.rounds, len(self.laps) - 1)]


def command(spec: Path, *, export: bool = False) -> list[str]:
    """The command line of a contestant. Modules that lie in the working directory are not imported (``-P``)."""
    return [sys.executable, "-P", "-m", "sparsam.baselines", str(spec), *(["export"] if export else [])]
