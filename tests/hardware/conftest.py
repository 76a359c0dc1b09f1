"""A made-up machine, and a small trace for it."""

from pathlib import Path

import fake_design
import pytest

from sparsam.hardware import designs


@pytest.fixture
def fake(tmp_path, monkeypatch) -> Path:
    """A TOML file of a made-up machine, whose design is known while the test runs."""
    monkeypatch.setitem(designs.DESIGNS, "fake", "fake_design")
    return fake_design.machine_file(tmp_path)


@pytest.fixture
def trace(tmp_path) -> Path:
    """The small workload on disk."""
    fake_design.small_workload().save(tmp_path / "trace")
    return tmp_path / "trace"
