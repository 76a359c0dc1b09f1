"""For ``accelerate``: a tracker beside TensorBoard and its like."""

from typing import Any

from accelerate.tracking import GeneralTracker

from sparsam.provenance.callbacks.telling import Telling
from sparsam.provenance.capture import files


class ProvenanceTracker(GeneralTracker):  # type: ignore[misc]  # accelerate has no types
    """What ``init_trackers(config=…)`` and ``accelerator.log(…)`` are given.

    Accelerate has no word for an epoch; say it with ``sparsam.provenance.stage("epoch 1")``.
    """

    name = "sparsam"
    requires_logging_directory = False
    main_process_only = True

    def __init__(self) -> None:
        super().__init__()
        self._telling = Telling()

    @property
    def tracker(self) -> Any:
        """The tracker of this process; None where nobody tracks."""
        return files.current()

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Settings."""
        self._telling.settings(values)

    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Results; the step, if it is given, is a result of its own."""
        self._telling.results(values if step is None else {**values, "step": step})
