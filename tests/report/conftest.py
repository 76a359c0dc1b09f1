"""A small compressed image model on disk, with its evaluation record."""

from pathlib import Path
from typing import Any

import pytest
from pages import score

from sparsam import artifact
from sparsam.models import lift
from sparsam.models.scratch import make_vit
from sparsam.plan import LayerPlan, Plan, TokenPlan


@pytest.fixture(scope="session")
def demo(tmp_path_factory: Any) -> Path:
    """A folder with ``dense`` and ``compressed``, as the demo leaves them; their models are random."""
    folder = tmp_path_factory.mktemp("runs")
    for name, plan in (("dense", None), ("compressed", TokenPlan("top-k", (0.5, 0.25)))):
        model, processor = make_vit(
            "vit:width=16,layers=2,heads=2,patch=2", image_size=(8, 8), labels=tuple("0123456789")
        )
        lift(model, Plan("vit", (LayerPlan(),) * 2, plan))
        artifact.save(model.eval(), folder / name, processor=processor, facts={"task": "digits", "seed": 0})
    evaluation = {"task": "digits", "model": score(0.9, 0.5), "dense": score(0.91, 1.0) | {"name": "dense"}}
    artifact.write_record(folder / "compressed", evaluation)
    return folder
