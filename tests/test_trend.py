"""Check 10 of LTP's card on a small real task: more penalty, fewer operations; learned thresholds as good as manual ones."""

import copy
from typing import Any

import pytest
import torch

from sparsam.compress import compress, evaluate, finetune, open_model
from sparsam.task import Task
from sparsam.tokens import LTP
from sparsam.tokens.control import Control
from sparsam.training.loop import Settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # trains five small models: two to three minutes

SETTINGS = Settings(batch_tokens=1088, precision="fp32", weight_decay=0.05)
METHOD: dict[str, Any] = {"lr": 3e-4, "hard_lr": 5e-4, "threshold_lr": 2e-2, "steer_every": 50}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The built-in digits and a small ViT that knows them."""
    folder = tmp_path_factory.mktemp("trend")
    task = Task.load("digits")
    finetune("vit:width=48,layers=4,heads=4,patch=2", task, folder / "dense",
             settings=Settings(epochs=30, lr=1e-3, batch_tokens=1088, warmup=0.1, weight_decay=0.05))  # fmt: skip
    return folder, task


def test_operations_fall_with_the_weight_of_the_penalty(digits: Any, tmp_path: Any) -> None:
    """Lambda 0.01, 0.05, 0.2: monotone MACs, no budget to help."""
    folder, task = digits
    ratios = []
    for weight in (0.01, 0.05, 0.2):
        method = LTP(weight=weight, soft_epochs=6, hard_epochs=1, last_layer="learned", **METHOD)
        made = compress(
            str(folder / "dense"), task, out=tmp_path / str(weight), methods=[method], settings=SETTINGS
        )
        ratios.append(made.compressed.macs_ratio)
    assert ratios[0] > ratios[1] > ratios[2]


def test_learned_thresholds_match_manual_ones(digits: Any, tmp_path: Any) -> None:
    """At equal MACs: not below the manual linear threshold (within two standard errors).

    Random dropping is no lower bar here: learned for long enough on 1,438 images it acts as augmentation. On sentences it is,
    see tests/test_minilm.py.
    """
    folder, task = digits
    methods = {
        "ltp": LTP(soft_epochs=10, hard_epochs=12, **METHOD),
        "linear": Control("linear-threshold", hard_epochs=22, hard_lr=5e-4, steer_every=50),
    }
    scores = {}
    for name, method in methods.items():
        made = compress(str(folder / "dense"), task, out=tmp_path / name, methods=[method], budget="macs=0.4x",
                        settings=SETTINGS, strict=False)  # fmt: skip
        assert made.compressed.macs_ratio == pytest.approx(0.394, abs=0.02)
        scores[name] = made.compressed.metric.value
    error = 2 * (0.06 * 0.94 / 359) ** 0.5
    assert scores["ltp"] >= scores["linear"] - error


def test_thresholds_without_training_are_no_budget(digits: Any) -> None:
    """With every threshold at 0 the compressed model is the dense one: same answers, ratio exactly 1."""
    folder, task = digits
    opened = open_model(str(folder / "dense"), task)
    before = evaluate(opened, task)
    again = evaluate(type(opened)(copy.deepcopy(opened.model), opened.processor, opened.name), task)
    assert before.macs_ratio == 1.0
    assert torch.equal(torch.from_numpy(before.predictions), torch.from_numpy(again.predictions))
