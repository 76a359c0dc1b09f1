"""Budgets that are met by heads, filters, tokens and bits together: what is priced, chosen, left out, said and remembered."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_checkpoints
from tiny_checkpoints import Checkpoints

import sparsam
from sparsam.cli import main
from sparsam.compress import compress, plan_run
from sparsam.compress.method_run import default_methods
from sparsam.cost import Budget
from sparsam.errors import Refused, Usage
from sparsam.plan import PRODUCTS
from sparsam.quantization.int8 import Int8
from sparsam.runtime.freeze import native_bf16
from sparsam.search.integers import quickly_in_integers
from sparsam.structure import FTPP
from sparsam.tokens import LTP
from sparsam.training.loop import Settings

SETTINGS = Settings(batch_tokens=128, precision="fp32")
FINE = FTPP(multiple=1)
QUICK = LTP(soft_epochs=1, hard_epochs=1, lr=1e-3, hard_lr=1e-4, threshold_lr=5e-2)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    return tiny_checkpoints.text_checkpoints(tmp_path_factory.mktemp("texts"), rows=64)


def run(texts: Checkpoints, out: Path, budget: str, methods: list[Any], **more: Any) -> Any:
    return compress(
        str(texts.dense), str(texts.task), out=out, methods=methods, budget=budget, settings=SETTINGS, **more
    )


def products(found: Any) -> int:
    return sum(len(left.formats) for left in found.plan.layers)


def test_what_is_applied_where_nobody_names_a_method() -> None:
    """A clock's budget: all four; bytes: heads, filters and integers; MACs: tokens."""
    kinds = {
        text: [type(one) for one in default_methods(Budget.parse(text))]
        for text in ("throughput=2x", "latency=8ms", "bytes=0.5x", "macs=0.5x")
    }
    assert kinds == {
        "throughput=2x": [FTPP, LTP, Int8], "latency=8ms": [FTPP, LTP, Int8], "bytes=0.5x": [FTPP, Int8], "macs=0.5x": [LTP],
    }  # fmt: skip


def test_integers_that_are_enough_leave_heads_and_filters_alone(
    texts: Checkpoints, tmp_path: Path, clockwork: Any
) -> None:
    """27.2 ms dense, 14.6 in integers: 1.8x needs no cut, 3x needs some, and less of it than in floating point."""
    whole = run(texts, tmp_path / "a", "throughput=1.8x", [FINE, Int8()])
    assert whole.met and products(whole) == 12 and not whole.plan.changes_shapes
    assert whole.speed.throughput_ratio == pytest.approx(27.2 / 14.6)
    assert "12 of 12 products" in " ".join(whole.notes)
    assert "Chosen: 12 of 12 heads, 132 of 132 filters, 12 products in integers." in whole.notes
    some = run(texts, tmp_path / "b", "throughput=3x", [FINE, Int8()])
    floats = run(texts, tmp_path / "c", "throughput=3x", [FINE])
    assert some.met and 3.0 <= some.speed.throughput_ratio < 3.2 and some.plan.in_integers
    assert floats.met and products(floats) == 0
    assert some.compressed.macs_ratio > 1.5 * floats.compressed.macs_ratio
    assert {"gradients", "tuning", "calibration", "weights", "integers"} <= set(some.history)
    keys = [
        json.loads(file.read_text())["profile"]["products"] for file in (tmp_path / "cache").rglob("*.json")
    ]
    assert sorted(keys) == ["bfloat16" if native_bf16() else "float32", "int8"]


def test_integers_that_are_not_faster_are_left_out(
    texts: Checkpoints, tmp_path: Path, clockwork: Any
) -> None:
    """On a machine where they take a tenth longer: a note with the figure, and what floating point does alone."""
    clockwork.integers = 1.1
    found = run(texts, tmp_path / "a", "throughput=2x,latency=0.9x", [FINE, Int8()])
    assert found.met and not found.plan.in_integers and found.plan.changes_shapes
    assert (
        "Integers are left out: on this machine the dense model in integers takes 1.09x of its time (throughput) and 1.09x "
        "of its time (latency)."
    ) in found.notes
    assert not any("products in integers" in note for note in found.notes)


def test_tokens_heads_filters_and_bits(
    texts: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clockwork: Any
) -> None:
    """A rule is learned, the rest cut around it, thresholds solved again, integers last; the clock corrects with integers."""
    chosen, searching = (sys.modules[f"sparsam.compress.{name}"] for name in ("chosen_run", "search_run"))
    monkeypatch.setattr(chosen, "TRIALS", 4)
    monkeypatch.setattr(searching, "LEFT_BY_TRAINING", 0.0)
    found = run(texts, tmp_path / "auto", "throughput=3x", [FINE, QUICK, Int8(samples=16)], strict=False)
    assert found.plan.tokens is not None and found.plan.in_integers
    assert {"tokens-hard", "gradients", "again-0-hard", "calibration"} <= set(found.history)
    assert found.history["calibration"]["samples"] == 16
    assert sparsam.load(tmp_path / "auto").plan == found.plan


def test_a_model_that_removes_tokens_goes_on_to_integers(
    texts: Checkpoints, tmp_path: Path, clockwork: Any
) -> None:
    """Its rule stays; heads and filters are cut by prices in integers."""
    found = compress(
        str(texts.half), str(texts.task), out=tmp_path / "cut", methods=[FINE, Int8()], budget="throughput=3x",
        teacher=str(texts.dense), settings=SETTINGS, strict=False,
    )  # fmt: skip
    assert found.plan.tokens is not None and products(found) >= 8


def test_bytes_of_integers_are_exact(texts: Checkpoints, tmp_path: Path) -> None:
    """As they lie in files, the words' embeddings included; the knapsack leaves little of the budget unused."""
    found = run(texts, tmp_path / "a", "bytes=0.32x", [FINE, Int8()])
    assert found.plan.changes_shapes and found.plan.in_integers and found.plan.embeddings == 8
    assert 0.305 < found.compressed_bytes / found.dense_bytes <= 0.32
    plain = run(texts, tmp_path / "b", "bytes=0.9x", [FINE, Int8(embeddings="none")])
    assert not plain.plan.changes_shapes and plain.plan.embeddings is None and products(plain) == 12
    with pytest.raises(
        Refused, match=r"heads and filters, products in integers: embeddings, norms and head take 0\.\d\dx"
    ):
        run(texts, tmp_path / "c", "bytes=0.01x", [FINE, Int8()])


def test_bytes_beside_a_clock(texts: Checkpoints, tmp_path: Path, clockwork: Any) -> None:
    """Both are kept, and neither by more than it must."""
    found = run(texts, tmp_path / "a", "throughput=2x,bytes=0.32x", [FINE, Int8()])
    assert found.met and found.plan.in_integers
    assert found.compressed_bytes <= 0.32 * found.dense_bytes


def test_an_interrupted_run_stands_by_its_decision(
    texts: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clockwork: Any
) -> None:
    """Stopped in the training at the end; the second time the clock would say the opposite, and is not asked."""

    class Stopped(RuntimeError):
        pass

    def stop(stage: str, step: int, total: int, logs: Any) -> None:
        if stage == "qat" and step == 2:
            raise Stopped

    methods = [FINE, Int8(qat_epochs=1)]
    with pytest.raises(Stopped):
        run(texts, tmp_path / "fast", "throughput=3x", methods, progress=stop, batch=8)
    kept = {file.stem: file for file in (tmp_path / "fast.work" / "search").glob("*.json")}
    assert set(kept) == {"integers", "structure"}
    assert json.loads(kept["integers"].read_text())["found"]["throughput"] == pytest.approx(14.6 / 27.2)
    filters = [one["filters"] for one in json.loads(kept["structure"].read_text())["found"]]
    clockwork.integers = 2.0
    found = run(texts, tmp_path / "fast", "throughput=3x", methods, strict=False, batch=8)
    assert found.plan.in_integers
    whole = list(range(44))
    assert [whole if one.filters is None else list(one.filters) for one in found.plan.layers] == filters
    assert not (tmp_path / "fast.work").exists()


def test_a_dry_run_times_the_integers_too(texts: Checkpoints, clockwork: Any) -> None:
    """Calibration and training stand among its stages."""
    found = plan_run(
        str(texts.dense), str(texts.task), methods=[FINE, Int8(qat_epochs=1)], budget="throughput=3x", settings=SETTINGS,
        steps=1,
    )  # fmt: skip
    assert [stage["stage"] for stage in found.stages] == [
        "gradients", "tuning", "qat", "calibration", "weights", "integers",
    ]  # fmt: skip


def test_what_the_search_cannot_work_with(texts: Checkpoints, tmp_path: Path) -> None:
    """Integers alone, or beside tokens alone, cannot be fitted to a clock."""
    for methods in ([Int8()], [QUICK, Int8()]):
        with pytest.raises(
            Usage, match=r"a budget for throughput is met by heads and filters.*in integers or not"
        ) as caught:
            run(texts, tmp_path / "x", "throughput=2x", methods)
        assert caught.value.code == "search-methods"
    assert not (tmp_path / "x").exists()


def test_the_command_chooses_integers_by_itself(
    texts: Checkpoints, tmp_path: Path, clockwork: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """No --method: four kinds at once, and the line says how many products are in integers."""
    arguments = [
        "compress",
        str(texts.dense),
        "--task",
        str(texts.task),
        "--batch",
        "8",
        "--precision",
        "fp32",
    ]
    assert main([*arguments, "--budget", "bytes=0.8x", "--out", str(tmp_path / "b")]) == 0
    assert "In integers: 12 of 12 products." in capsys.readouterr().out
    given = [*arguments, "--method", "ftpp+int8", "--multiple", "1", "--budget", "throughput=3x"]
    assert main([*given, "--out", str(tmp_path / "a")]) == 0
    shown = capsys.readouterr().out
    assert "Left: " in shown and " of 12 products." in shown


def test_quick_integers_leave_the_model_alone(texts: Checkpoints) -> None:
    """A copy with every product in integers; the words too where they are asked for."""
    from sparsam.compress import open_model
    from sparsam.models import plan_of

    model = open_model(str(texts.dense)).model
    before = {name: x.clone() for name, x in model.state_dict().items()}
    made = quickly_in_integers(model, words=True)
    plan = plan_of(made)
    assert plan is not None and plan.embeddings == 8
    assert all(set(left.formats) == set(PRODUCTS) for left in plan.layers)
    assert all((model.state_dict()[name] == x).all() for name, x in before.items())
