"""What a run found by a clock, kept in its working folder: after an interruption it stands, whatever the clock says now."""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from accelerate import PartialState

from sparsam.artifact.manifest import read_json
from sparsam.artifact.staging import write_whole
from sparsam.errors import SparsamError
from sparsam.training.loop import on_main_process


def remembered(folder: Path | None, name: str, facts: Mapping[str, Any], make: Callable[[], Any]) -> Any:
    """What was found for these facts before, if it stands in the folder; else what is found now, which is written there.

    Args:
        folder: of one run; None remembers nothing.
        name: of what is looked for.
        facts: what it depends on.
        make: finds it; its answer goes through JSON. With several processes each finds its own, and all go on with the main
            one's: their clocks differ.
    """
    if folder is None:
        return make()
    file, key = folder / f"{name}.json", json.loads(json.dumps(dict(facts)))
    there = _read(file, key)
    PartialState().wait_for_everyone()  # nobody writes before all have looked
    if there is not None:
        return there["found"]
    found = json.loads(json.dumps(make()))

    def write() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps({"key": key, "found": found}) + "\n")

    on_main_process(write)
    if PartialState().is_main_process:
        return found
    return read_json(file)["found"]


def _read(file: Path, key: Any) -> dict[str, Any] | None:
    """What stands there for these facts; None where nothing does, or nothing that can be read."""
    with suppress(SparsamError):
        held = read_json(file)
        if held.get("key") == key and "found" in held:
            return held
    return None
