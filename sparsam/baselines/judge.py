"""What the contestants' answers are worth, and how far they are from the dense model's."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsam.baselines.dense import Checkpoint
from sparsam.baselines.entrants import Entrant
from sparsam.baselines.peers import EAGER
from sparsam.clock import Race
from sparsam.measure import Measurement, paired_difference
from sparsam.task import Task, metric_value


class Judge:
    """How good each contestant's answers are, and how far from the dense model's, by order of the rows."""

    def __init__(self, task: Task, labels: NDArray[Any], found: Race, running: Mapping[str, Entrant]) -> None:
        self.task, self.labels, self.found, self.running = task, labels, found, running
        self.known: dict[tuple[str, str], tuple[float, Measurement]] = {}

    def of(self, label: str, order: str) -> tuple[float, Measurement]:
        """The score as a fraction, and the paired difference to the dense model in points."""
        if (label, order) not in self.known:
            metric, own, theirs = self.task.metric, self._answers(label, order), self._answers(EAGER, order)
            difference = paired_difference(metric, theirs, own, self.labels)
            self.known[label, order] = (float(metric_value(metric, own, self.labels)), difference)
        return self.known[label, order]

    def _answers(self, label: str, order: str) -> NDArray[Any]:
        said = self.found.timings[label].facts["answers"][order]
        return in_classes(self.task, self.running[label].checkpoint, said)


def in_classes(task: Task, checkpoint: Checkpoint, said: Sequence[float]) -> NDArray[Any]:
    """A contestant's answers in the task's classes, -1 - output for one that it lacks; or as numbers."""
    if task.problem == "regression":
        return np.asarray(said, np.float32)
    classes = -1 - np.arange(int(checkpoint.config.num_labels))
    classes[list(checkpoint.outputs)] = np.arange(len(checkpoint.outputs))
    found: NDArray[Any] = classes[np.asarray(said, np.int64)]
    return found
