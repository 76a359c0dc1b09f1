"""Fewer bits, and bits product by product, on tiny models: losses, budgets, files, what is refused, the command."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_checkpoints
import torch
from tiny_checkpoints import Checkpoints

import sparsam
from sparsam.cli import main
from sparsam.compress import compress, open_model, plan_run
from sparsam.compress.integer_run import IntegerRun
from sparsam.compress.mixed_run import WIDTHS, apart, bytes_at, losses_of
from sparsam.compress.opening import feed_of, split_of
from sparsam.compress.token_run import lengths_of_use
from sparsam.cost import Budget
from sparsam.errors import Refused, SparsamError, Usage
from sparsam.models import stack_of
from sparsam.models.integers import integers_of
from sparsam.quantization.int8 import SENSITIVITIES, Int8
from sparsam.structure import FTPP
from sparsam.task import Task
from sparsam.training.loop import Settings

SETTINGS = Settings(batch_tokens=128, precision="fp32")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    return tiny_checkpoints.text_checkpoints(tmp_path_factory.mktemp("texts"), rows=64)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    return tiny_checkpoints.image_checkpoints(tmp_path_factory.mktemp("images"), rows=24)


def run_on(made: Checkpoints, method: Int8, budget: Budget) -> IntegerRun:
    task = Task.load(str(made.task))
    opened, taught = (open_model(str(made.dense), task) for _ in range(2))
    feed = feed_of(opened, split_of(task, "train"), True)
    return IntegerRun(
        opened, taught, feed, lengths_of_use(opened, task, feed, True), method, budget, SETTINGS
    )


def widths_of(found: Any) -> list[int | None]:
    return [
        left.formats[product].bits if product in left.formats else None
        for left in found.plan.layers
        for product in ("qkv", "o", "up", "down")
    ]


@pytest.mark.parametrize("bits", [2, 4, 6])
def test_fewer_bits_for_all(texts: Checkpoints, bits: int, tmp_path: Path) -> None:
    """Every product has them, no weight goes beyond, and up to four take half the room."""
    found = compress(
        str(texts.dense), str(texts.task), out=tmp_path / "x", methods=[Int8(bits=bits)], settings=SETTINGS,
    )  # fmt: skip
    assert set(widths_of(found)) == {bits}
    assert found.notes[-1].startswith(f"In integers of {bits} bits: 12 of 12 products")
    block = stack_of(found.model).blocks[0]
    assert int(integers_of(block.part("up")).abs().max()) == 2 ** (bits - 1) - 1
    assert sparsam.load(tmp_path / "x").plan == found.plan
    size = sum(bytes_at([b.part(r)], bits) for b in stack_of(found.model).blocks for r in ("q", "up"))
    assert size == 3 * (32 + 44) * (4 + (16 if bits <= 4 else 32))


@pytest.mark.parametrize("kind", SENSITIVITIES)
@pytest.mark.parametrize("made", ["texts", "images"])
def test_losses_of_every_product(kind: str, made: str, request: pytest.FixtureRequest) -> None:
    """None in floating point, much more at two bits than at eight; the model and its gradients' flags stay as they were."""
    run = run_on(request.getfixturevalue(made), Int8(bits=8), Budget())
    batches = [run.feed.collate(run.rows[:8]), run.feed.collate(run.rows[8:12])]
    before = {name: x.clone() for name, x in run.model.state_dict().items()}
    flags = [p.requires_grad for p in run.model.parameters()]
    seen: list[int] = []
    found = losses_of(
        run.model, batches, kind, WIDTHS, run.method.ends, 0, lambda done, total: seen.append(total - done)
    )
    assert len(found) == 12 and seen[-1] == 0
    for row in found.values():
        assert row[-1] == 0.0 and all(loss >= 0 for loss in row)
    assert sum(row[0] for row in found.values()) > 20 * sum(row[6] for row in found.values()) > 0
    assert all(torch.equal(x, before[name]) for name, x in run.model.state_dict().items())
    assert flags == [p.requires_grad for p in run.model.parameters()]
    again = losses_of(run.model, batches, kind, WIDTHS, run.method.ends, 0)
    assert again == found


def test_derivatives_agree_with_what_rounding_does(texts: Checkpoints) -> None:
    """Where rounding is small its divergence is half the Hessian's quadratic form: the three sums are of one size."""
    run = run_on(texts, Int8(bits=8), Budget())
    batches = [run.feed.collate(run.rows[:32])]
    at = WIDTHS.index(5)
    sums = {
        kind: sum(row[at] for row in losses_of(run.model, batches, kind, WIDTHS, run.method.ends, 0).values())
        for kind in SENSITIVITIES
    }
    assert 0.3 < sums["hessian"] / sums["fisher"] < 3
    assert 0.1 < sums["hessian"] / sums["kl"] < 10


@pytest.mark.parametrize("kind", SENSITIVITIES)
def test_bits_within_bytes(texts: Checkpoints, kind: str, tmp_path: Path) -> None:
    """More than four bits for all take, less than eight: both occur, and the file keeps the budget."""
    sizes = {
        bits: compress(
            str(texts.dense), str(texts.task), out=tmp_path / str(bits), methods=[Int8(bits=bits)], settings=SETTINGS
        )
        for bits in (4, 8)
    }  # fmt: skip
    share = sum(one.compressed_bytes for one in sizes.values()) / 2 / sizes[4].dense_bytes
    found = compress(
        str(texts.dense), str(texts.task), out=tmp_path / "x", budget=f"bytes={share:.4f}x",
        methods=[Int8(bits="mixed", sensitivity=kind)], settings=SETTINGS,
    )  # fmt: skip
    assert found.met and set(widths_of(found)) == {4, 8}
    assert share - 0.03 < found.compressed_bytes / found.dense_bytes <= share
    assert "In integers of 4 (" in found.notes[-1] and "sensitivity" in " ".join(found.history)


def test_bits_within_bit_operations(texts: Checkpoints, tmp_path: Path) -> None:
    """Half of eight bits' work: four on average; four times of it: some products stay in floating point."""
    given: dict[str, Any] = {"settings": SETTINGS}
    half = compress(
        str(texts.dense),
        str(texts.task),
        out=tmp_path / "a",
        methods=[Int8(bits="mixed", bitops=0.5)],
        **given,
    )
    widths = [bits for bits in widths_of(half) if bits is not None]
    assert len(widths) == 12 and 3 <= sum(widths) / 12 < 5.5 and len(set(widths)) > 1
    most = compress(
        str(texts.dense),
        str(texts.task),
        out=tmp_path / "b",
        methods=[Int8(bits="mixed", bitops=8.0)],
        **given,
    )
    assert None in widths_of(most) and 8 in widths_of(most)


def test_a_budget_that_no_bits_keep(texts: Checkpoints, tmp_path: Path) -> None:
    """Refused before losses are looked at, with the least that is possible."""
    with pytest.raises(
        Refused, match=r"bytes=0.1x cannot be reached by bits alone.*at the fewest bits"
    ) as caught:
        compress(
            str(texts.dense), str(texts.task), out=tmp_path / "x", methods=[Int8(bits="mixed")], budget="bytes=0.1x",
            settings=SETTINGS,
        )  # fmt: skip
    assert caught.value.code == "budget-unreachable"
    assert not (tmp_path / "x").exists()


def test_mixed_bits_want_a_budget(texts: Checkpoints, tmp_path: Path) -> None:
    """Of bytes or of bit operations; the run, its dry run and a clock's budget say so first."""
    for budget in (None, "accuracy=-1", "throughput=2x"):
        methods = [FTPP(), Int8(bits="mixed")] if budget == "throughput=2x" else [Int8(bits="mixed")]
        given: dict[str, Any] = {"methods": methods, "budget": budget, "settings": SETTINGS}
        for call in (
            lambda given=given: compress(str(texts.dense), str(texts.task), out=tmp_path / "x", **given),
            lambda given=given: plan_run(str(texts.dense), str(texts.task), **given),
        ):
            with pytest.raises(Usage, match=r"mixed bits are chosen within a budget.*--bitops") as caught:
                call()
            assert caught.value.code == "mixed-budget"
    planned = plan_run(
        str(texts.dense),
        str(texts.task),
        methods=[Int8(bits="mixed")],
        budget="bytes=0.35x",
        settings=SETTINGS,
    )
    assert "sensitivity" in [stage["stage"] for stage in planned.stages]


def test_four_bits_within_bytes_beside_heads_and_filters(texts: Checkpoints, tmp_path: Path) -> None:
    """The knapsack's prices are of four bits, too."""
    found = compress(
        str(texts.dense), str(texts.task), out=tmp_path / "x", methods=[FTPP(multiple=1), Int8(bits=4)],
        budget="bytes=0.25x", settings=SETTINGS,
    )  # fmt: skip
    assert found.met and found.plan.changes_shapes and set(widths_of(found)) <= {4, None}
    assert found.compressed_bytes > 0.24 * found.dense_bytes


def test_training_with_mixed_bits(texts: Checkpoints, tmp_path: Path) -> None:
    """Products in floating point learn beside rounded ones; what was trained is what is saved."""
    found = compress(
        str(texts.dense), str(texts.task), out=tmp_path / "x", methods=[Int8(bits="mixed", bitops=8.0, qat_epochs=1)],
        settings=SETTINGS,
    )  # fmt: skip
    assert "0-qat" in found.history and {None, 8} <= set(widths_of(found))
    assert sparsam.load(tmp_path / "x").plan == found.plan


def test_divergence_of_numbers_is_half_the_squares() -> None:
    """And of answers to themselves none."""
    a, b = torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [4.0]])
    assert float(apart(a, b)) == 2.0
    x = torch.randn(3, 4)
    assert float(apart(x, x)) == 0.0 < float(apart(x, x.flip(0)))


@pytest.mark.parametrize(
    "given",
    [
        {"bits": 1}, {"bits": 9}, {"bits": "some"}, {"bits": True}, {"sensitivity": "kl"}, {"bitops": 0.5},
        {"bits": "mixed", "sensitivity": "x"}, {"bits": "mixed", "bitops": 0.0}, {"bits": "mixed", "bitops": 17.0},
    ],
)  # fmt: skip
def test_settings_that_mean_nothing(given: dict[str, Any]) -> None:
    """By name."""
    with pytest.raises(SparsamError) as caught:
        Int8(**given)
    assert caught.value.code == "method-settings"


def test_the_command(texts: Checkpoints, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--bits takes a number or mixed."""
    call = [
        "compress",
        str(texts.dense),
        "--task",
        str(texts.task),
        "--method",
        "int8",
        "--precision",
        "fp32",
    ]
    assert main([*call, "--out", str(tmp_path / "a"), "--bits", "4", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["plan"]["layers"][0]["formats"]["up"]["bits"] == 4
    mixed = [*call, "--out", str(tmp_path / "b"), "--bits", "mixed", "--sensitivity", "fisher"]
    assert main([*mixed, "--bitops", "0.6"]) == 0
    assert "In integers: 12 of 12 products." in capsys.readouterr().out
    assert main(["inspect", str(tmp_path / "b")]) == 0
    assert " bits, inputs token by token" in capsys.readouterr().out
    assert main([*call, "--out", str(tmp_path / "c"), "--bits", "mixed"]) == 2
    assert "[mixed-budget]" in capsys.readouterr().err
    assert main([*call, "--out", str(tmp_path / "c"), "--bits", "some"]) == 2
