"""GPTQ on a real fine-tuned encoder and real sentences: MiniLM on SST-2, from the shared folder."""

from pathlib import Path
from typing import Any

import pytest

from sparsam.compress import open_model
from sparsam.compress.calibration import products_of
from sparsam.compress.quantize_run import Asked, QuantizeRun
from sparsam.models import stack_of
from sparsam.quantization import output_loss
from sparsam.quantization.schemes import SCHEMES
from sparsam.task import Task

pytestmark = [pytest.mark.data, pytest.mark.timeout(900)]


@pytest.mark.parametrize("bits", [4, 3])
def test_gptq_beats_rounding_in_every_product_of_every_layer(bits: int, shared: Path) -> None:
    """Of all 36 modules, on what the rounded layers in front give them: the outputs' squared error, by half on average."""
    task = Task.load(str(shared / "data" / "sst2"))
    dense, ours = (open_model(str(shared / "models" / "minilm-sst2"), task) for _ in range(2))
    run = QuantizeRun(ours, task, Asked(SCHEMES["gptq"], bits, samples=128))
    kept: dict[int, Any] = {}
    original = run._hessians

    def hessians(layer: int) -> Any:
        kept[layer] = original(layer)
        return kept[layer]

    run._hessians = hessians  # type: ignore[method-assign]
    run.apply()
    exact = {(i, p): modules for i, p, modules in products_of(stack_of(dense.model))}
    ratios = {}
    for index, product, modules in products_of(stack_of(ours.model)):
        for role, module in modules.items():
            own = exact[index, product][role].weight.detach()
            hessian = kept[index]["k" if role == "v" else role].matrix()
            nearest = SCHEMES["uniform"].make(own, bits, None, None).values
            mine, theirs = (float(output_loss(own, x, hessian).sum()) for x in (module.weight, nearest))
            ratios[f"{index} {role}"] = mine / theirs
    assert len(ratios) == 36 and max(ratios.values()) < 1, ratios
    assert sum(ratios.values()) / 36 < 0.5, ratios
