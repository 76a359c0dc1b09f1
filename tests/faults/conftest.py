"""What several sweeps share."""

import ctypes
from pathlib import Path
from typing import Any

import pytest
from specimens import bytes_of, model, save

from sparsam import artifact


@pytest.fixture(scope="session")
def versions(tmp_path_factory: Any) -> list[dict[str, bytes]]:
    """What the folders of seeds 0 and 1 hold, byte by byte."""
    place = tmp_path_factory.mktemp("save")
    return [bytes_of(save(seed, place / str(seed))) for seed in (0, 1)]


@pytest.fixture(scope="session")
def good(tmp_path_factory: Any) -> Path:
    """An artefact to copy; it is not changed."""
    return artifact.save(model(0), tmp_path_factory.mktemp("good") / "good", facts={"seed": 1})


@pytest.fixture(params=["exchange", "aside"])
def way(request: Any, monkeypatch: Any) -> str:
    """With the system's exchange of folders, and as on a system without it."""
    if request.param == "aside":
        monkeypatch.setattr(ctypes, "CDLL", lambda *args, **kwargs: object())
    return str(request.param)
