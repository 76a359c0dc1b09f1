"""int8 on a real fine-tuned encoder and real sentences: MiniLM on SST-2, from the shared folder."""

from pathlib import Path

import pytest

from sparsam.compress import compress, evaluate
from sparsam.quantization.int8 import Int8
from sparsam.task import Task
from sparsam.training.loop import Settings

pytestmark = [pytest.mark.data, pytest.mark.timeout(900)]


def test_int8_loses_half_a_point_at_most(shared: Path, tmp_path: Path) -> None:
    """Nothing trained, weights, inputs and words' embeddings in eight bits: validation and test together, after reload."""
    task, dense = Task.load(str(shared / "data" / "sst2")), str(shared / "models" / "minilm-sst2")
    found = compress(
        dense, task, out=tmp_path / "int8", methods=[Int8()], settings=Settings(), budget="bytes=0.27x"
    )
    assert found.met and found.plan.embeddings == 8
    assert all(len(left.formats) == 4 for left in found.plan.layers)
    on_test = [evaluate(place, task, split="test") for place in (dense, str(tmp_path / "int8"))]
    before, after = (
        sum(int(one.metric.extra["right"]) for one in pair)
        for pair in ((found.dense, on_test[0]), (found.compressed, on_test[1]))
    )
    assert before == 781 + 1625
    assert after >= before - 0.005 * (872 + 1821)
