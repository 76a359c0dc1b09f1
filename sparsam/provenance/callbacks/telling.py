"""What all callbacks do: values made plain, epochs entered and left, checkpoints with what was known when they were written."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sparsam.provenance.capture import files
from sparsam.provenance.decisions import record_account
from sparsam.provenance.tracking import Scope

WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "*.ckpt")
"""What holds weights in a folder of a checkpoint."""


class Telling:
    """Tells the tracker of this process, if there is one."""

    def __init__(self) -> None:
        self._epoch: Scope | None = None
        self._told: dict[str, Any] = {}

    def settings(self, values: Mapping[str, Any], prefix: str = "") -> None:
        """Settings, those that were told before with the same value left out."""
        tracker = files.current()
        if tracker is None:
            return
        made = {f"{prefix}{name}": _plain(value) for name, value in values.items() if value is not None}
        new = {name: value for name, value in made.items() if self._told.get(name) != value}
        self._told |= new
        tracker.record_config(new)

    def results(self, values: Mapping[str, Any]) -> dict[str, float]:
        """Those that are numbers, each told as a result and given back."""
        found = {name: number for name, value in values.items() if (number := _number(value)) is not None}
        tracker = files.current()
        for name, value in found.items() if tracker is not None else ():
            assert tracker is not None
            tracker.record_metric(name, value)
        return found

    def enter(self, name: str) -> None:
        """An epoch begins; the one before it has ended."""
        self.leave()
        tracker = files.current()
        if tracker is not None:
            self._epoch = tracker.stage(name)
            self._epoch.__enter__()

    def leave(self) -> None:
        """The epoch has ended."""
        epoch, self._epoch = self._epoch, None
        if epoch is not None:
            epoch.__exit__()

    def checkpoint(
        self, places: Iterable[Path], settings: Mapping[str, Any], results: Mapping[str, Any]
    ) -> None:
        """Files, or folders of files, were written at this point of the training."""
        if files.current() is None:
            return
        told = {name: _plain(value) for name, value in settings.items() if value is not None}
        numbers = {name: number for name, value in results.items() if (number := _number(value)) is not None}
        for place in places:
            found = (
                [x for pattern in WEIGHTS for x in sorted(place.glob(pattern))] if place.is_dir() else [place]
            )
            for file in found:
                if file.is_file():
                    record_account(file, told, numbers)


def _number(value: Any) -> float | None:
    """A finite number as Python's own; None for anything else. Tensors of one element are numbers."""
    if isinstance(value, bool | str) or value is None:
        return None
    if not isinstance(value, int | float):
        try:
            value = value.item() if hasattr(value, "item") else float(value)
        except (TypeError, ValueError, RuntimeError):
            return None
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def _plain(value: Any) -> Any:
    if isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    number = _number(value)
    return str(value)[:1000] if number is None else number
