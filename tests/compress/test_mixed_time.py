"""Measured time as what mixed bits are chosen within: what floats cost, what is chosen, corrected, refused and said."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_checkpoints
from tiny_checkpoints import Checkpoints

import sparsam
from sparsam.cli import main
from sparsam.compress import compress, open_model, plan_run
from sparsam.errors import Refused, Usage
from sparsam.models import plan_of, stack_of
from sparsam.quantization.int8 import Int8
from sparsam.search import Speed
from sparsam.search.products import float_costs
from sparsam.task import Task
from sparsam.training.loop import Settings

SETTINGS = Settings(batch_tokens=128, precision="fp32")
MIXED = Int8(bits="mixed")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    return tiny_checkpoints.text_checkpoints(tmp_path_factory.mktemp("texts"), rows=64)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Of the dense model's 12 ms each product takes one; 0.4 in integers. ``told`` is what tables say a float costs more."""
    state: dict[str, Any] = {"told": 0.6, "timed": 0}

    def of(timer: Any, model: Any, rounds: int = 5) -> Any:
        state["timed"] += 1
        plan = plan_of(model)
        own = 12 - 0.6 * (0 if plan is None else sum(len(left.formats) for left in plan.layers))
        rows = 1 if timer.single else 32
        return own / 12, Speed(
            (1000 * rows / 12, 1000 * rows / own), (12.0, own), (1.0, 12 / own), (1.0, own / 12), 1.0
        )

    def costs(model: Any, lengths: Any, shares: Any) -> Any:
        return {
            (layer, product): state["told"]
            for layer in range(len(stack_of(model).left))
            for product in ("qkv", "o", "up", "down")
        }

    monkeypatch.setattr(sys.modules["sparsam.compress.timer"].Timer, "of", of)
    monkeypatch.setattr(sys.modules["sparsam.compress.mixed_time"], "float_costs", costs)
    return state


def in_integers(found: Any) -> int:
    return sum(len(left.formats) for left in found.plan.layers)


def run(texts: Checkpoints, out: Path, budget: str, **more: Any) -> Any:
    return compress(
        str(texts.dense), str(texts.task), out=out, methods=[MIXED], budget=budget, settings=SETTINGS, **more
    )


@pytest.mark.parametrize(
    ("budget", "products"),
    [
        ("latency=0.76x", 5),
        ("throughput=1.25x", 4),
        ("latency=0.9x,throughput=2x", 10),
        ("latency=0.41x", 12),
    ],
)
def test_as_many_floats_as_the_time_lets(
    texts: Checkpoints, tmp_path: Path, machine: dict[str, Any], budget: str, products: int
) -> None:
    """Each saves 0.6 of 12 ms: the fewest integers that keep every limit; the saved model is the chosen one."""
    found = run(texts, tmp_path / "x", budget)
    assert found.met and in_integers(found) == products
    assert sparsam.load(tmp_path / "x").plan == found.plan


def test_the_clock_has_the_last_word(texts: Checkpoints, tmp_path: Path, machine: dict[str, Any]) -> None:
    """Tables that say floats cost next to nothing: what is left is halved, and in the end all is in integers."""
    machine["told"] = 1e-6
    found = run(texts, tmp_path / "x", "latency=0.76x")
    assert found.met and in_integers(found) == 12


def test_time_and_bytes_together(texts: Checkpoints, tmp_path: Path, machine: dict[str, Any]) -> None:
    """Bytes want more integers than the clock does; both hold."""
    loose = run(texts, tmp_path / "a", "latency=0.96x")
    both = run(texts, tmp_path / "b", "latency=0.96x,bytes=0.5x")
    assert both.met and in_integers(both) > in_integers(loose) == 1


def test_what_integers_cannot_reach_is_refused(
    texts: Checkpoints, tmp_path: Path, machine: dict[str, Any]
) -> None:
    """With what all of them reach; nothing is written, and nothing but the clock was looked at."""
    for budget, says in (
        ("throughput=3x", r"throughput=3x .* 2\.50x as fast"),
        ("latency=0.3x", r"0\.40x of the time"),
    ):
        with pytest.raises(Refused, match=says) as caught:
            run(texts, tmp_path / "x", budget)
        assert caught.value.code == "budget-unreachable"
    assert not (tmp_path / "x").exists()


def test_a_fixed_width_leaves_a_clock_nothing_to_choose(texts: Checkpoints, tmp_path: Path) -> None:
    """Refused as before, and mixed bits are named."""
    with pytest.raises(Usage, match=r"or --bits mixed") as caught:
        compress(
            str(texts.dense), str(texts.task), out=tmp_path / "x", methods=[Int8()], budget="throughput=2x",
            settings=SETTINGS,
        )  # fmt: skip
    assert caught.value.code == "search-methods"


def test_dry_run_and_command(
    texts: Checkpoints, tmp_path: Path, machine: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Both know a limit of time."""
    planned = plan_run(
        str(texts.dense), str(texts.task), methods=[MIXED], budget="latency=0.76x", settings=SETTINGS
    )
    assert "sensitivity" in [stage["stage"] for stage in planned.stages]
    call = ["compress", str(texts.dense), "--task", str(texts.task), "--method", "int8", "--bits", "mixed"]
    assert (
        main([*call, "--precision", "fp32", "--budget", "latency=0.76x", "--out", str(tmp_path / "x")]) == 0
    )
    assert "In integers: 5 of 12 products." in capsys.readouterr().out


@pytest.mark.parametrize("half", [False, True])
def test_what_floats_cost_is_measured_in_every_layer(texts: Checkpoints, half: bool) -> None:
    """One figure a product of a real model, finite; the model is as it was."""
    model = open_model(str(texts.half if half else texts.dense), Task.load(str(texts.task))).model
    before = {name: x.clone() for name, x in model.state_dict().items()}
    found = float_costs(model, np.array([9, 5, 7]), [(1.0, 0.8), (0.8, 0.5), (0.5, 0.2)])
    assert sorted(found) == sorted((i, p) for i in range(3) for p in ("qkv", "o", "up", "down"))
    assert all(np.isfinite(cost) for cost in found.values())
    assert all((x == model.state_dict()[name]).all() for name, x in before.items())


def test_a_wide_product_costs_more_than_a_narrow_one(tiny: Any) -> None:
    """256 by 2,048 in float32 beside 256 by 256: the clock sees it, where four integers at once have an instruction."""
    from transformers import BertConfig, BertForSequenceClassification

    from sparsam.models import lift
    from sparsam.runtime.encoder import layout, machine

    code = machine()
    if code is None or layout(code)[::2] != (4, True):
        pytest.skip("no instruction that multiplies four integers at once here, or no compiler")
    config = BertConfig(
        vocab_size=64, hidden_size=256, num_hidden_layers=2, num_attention_heads=4, intermediate_size=2048
    )
    found = float_costs(
        lift(BertForSequenceClassification(config).eval()), np.full(16, 24), [(1.0, 1.0), (1.0, 1.0)]
    )
    assert found[0, "up"] > found[0, "o"]
