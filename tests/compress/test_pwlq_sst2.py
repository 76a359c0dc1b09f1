"""PWLQ on MiniLM and SST-2 from the shared folder: four bits, saved in five, reloaded."""

import os
from pathlib import Path

import numpy as np
import pytest

import sparsam
from sparsam.compress import evaluate, open_model
from sparsam.compress.calibration import watched
from sparsam.compress.opening import feed_of, split_of
from sparsam.compress.pwlq_run import apply_pwlq
from sparsam.quantization import MSE
from sparsam.task import Task

pytestmark = [
    pytest.mark.data,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        os.environ.get("SPARSAM_LONG") != "1", reason="takes minutes; SPARSAM_LONG=1 asks for it"
    ),
]  # two searches over ten million weights


def test_four_bits_lose_a_point_at_most(shared: Path, tmp_path: Path) -> None:
    """Biases corrected, the words' embeddings in eight bits: validation and test together, through the reloaded folder."""
    task, dense = Task.load(str(shared / "data" / "sst2")), str(shared / "models" / "minilm-sst2")
    opened = open_model(dense, task)
    feed = feed_of(opened, split_of(task, "train").sample(512), True)
    seen = watched(opened.model, feed, np.arange(len(feed)), MSE())
    found = apply_pwlq(opened.model, seen, 4, words=8)
    errors = [(float(one.errors.mean()), float(one.uniform_errors.mean())) for one in found.layers.values()]
    assert all(own < other for own, other in errors)  # equal storage, a clipped uniform grid
    sparsam.save(opened.model, tmp_path / "pieces", processor=opened.processor)
    size = (tmp_path / "pieces" / "model.safetensors").stat().st_size
    weights = sum(p.numel() for p in opened.model.parameters())
    assert size < 0.225 * 4 * weights  # of float32, half of it the words' embeddings
    right = [
        sum(int(evaluate(place, task, split=split).metric.extra["right"]) for split in ("validation", "test"))
        for place in (dense, str(tmp_path / "pieces"))
    ]
    assert right[0] == 781 + 1625
    assert right[1] >= right[0] - 0.01 * (872 + 1821)
