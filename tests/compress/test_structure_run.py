"""FTPP on tiny models of every kind, to the saved folder and back: budgets, controls, variants, refusals, recovery."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_checkpoints
import torch
from tiny_checkpoints import Checkpoints

import sparsam
from sparsam.cli import main
from sparsam.compress import compress, evaluate, open_model, plan_run, weight_bytes
from sparsam.compress.opening import feed_of, split_of
from sparsam.compress.remembered import remembered
from sparsam.compress.road import Faster, _missed
from sparsam.compress.structure_run import StructureRun
from sparsam.compress.token_run import lengths_of_use
from sparsam.cost import Budget
from sparsam.errors import BudgetMissed, Refused, Usage
from sparsam.models import stack_of
from sparsam.models.apply import units_of
from sparsam.structure import FTPP
from sparsam.structure.mask import HALVES
from sparsam.task import Task
from sparsam.tokens import LTP
from sparsam.training.loop import Settings

SETTINGS = Settings(batch_tokens=128, precision="fp32")
FINE = FTPP(multiple=1)
QUICK = LTP(soft_epochs=1, hard_epochs=1, lr=1e-3, hard_lr=1e-4, threshold_lr=5e-2)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    return tiny_checkpoints.text_checkpoints(tmp_path_factory.mktemp("texts"), rows=64)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    return tiny_checkpoints.image_checkpoints(tmp_path_factory.mktemp("images"), rows=48)


def run_on(made: Checkpoints, method: FTPP, macs: float | None = 0.6, seed: int = 0) -> StructureRun:
    task = Task.load(str(made.task))
    opened, taught = (open_model(str(made.dense), task) for _ in range(2))
    feed = feed_of(opened, split_of(task, "train"), True)
    wanted = lengths_of_use(opened, task, feed, True)
    settings = Settings(batch_tokens=128, precision="fp32", seed=seed)
    return StructureRun(opened, taught, feed, wanted, method, Budget(macs=macs), settings)


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "electra", "mpnet"])
@pytest.mark.parametrize("macs", [0.6, 0.2])
def test_every_family_round_trip(tmp_path: Path, name: str, macs: float) -> None:
    """Within budget, smaller on disk, heterogeneous, and through the stock route the same logits to the bit."""
    made = tiny_checkpoints.text_checkpoints(tmp_path, name)
    found = compress(
        str(made.dense),
        str(made.task),
        out=tmp_path / "small",
        methods=[FINE],
        budget=Budget(macs=macs),
        settings=SETTINGS,
    )
    assert found.compressed.macs_ratio <= macs
    assert found.compressed.macs_ratio > macs - 0.05
    assert found.plan.changes_shapes and found.plan.tokens is None
    assert found.compressed_bytes < found.dense_bytes
    stock = type(found.model).from_pretrained(tmp_path / "small").eval()
    with torch.no_grad():
        batch = found.processor(["1 2 3", "4 5 6 7 8"], padding=True, return_tensors="pt")
        assert torch.equal(stock(**batch).logits, found.model.eval()(**batch).logits)
        frozen = sparsam.freeze(stock, processor=found.processor, dtype="float32").predict(
            ["1 2 3", "4 5 6 7 8"]
        )
        np.testing.assert_allclose(frozen, stock(**batch).logits.numpy(), atol=1e-4)
    saved = evaluate(str(tmp_path / "small"), str(made.task))
    assert saved.metric.value == found.compressed.metric.value


def test_images_too(images: Checkpoints, tmp_path: Path) -> None:
    """A ViT, whose norms stand before each half."""
    found = compress(
        str(images.dense),
        str(images.task),
        out=tmp_path / "small",
        methods=[FINE],
        budget="macs=0.5x",
        settings=SETTINGS,
    )
    assert 0.45 < found.compressed.macs_ratio <= 0.5


@pytest.mark.parametrize("name", ["texts", "images"])
def test_tuning_makes_up_for_what_is_gone(name: str, request: pytest.FixtureRequest) -> None:
    """Every half is reproduced no worse than before, and the logits on the calibration rows come nearer with more freedom."""
    made = request.getfixturevalue(name)
    distances = []
    for tune in ("none", "scale", "full"):
        run = run_on(made, FTPP(multiple=1, tune=tune, ridge=1e-2))
        run.apply()
        for one in run.reconstructions:
            assert one.after <= one.before
        assert len(run.reconstructions) == (0 if tune == "none" else 6)
        with torch.no_grad():
            pairs = [
                (run.model(**batch).logits, run.teacher(**batch).logits)
                for _, batch in run._batches(run.rows)
            ]
        distances.append(sum(float((a - b).square().sum()) for a, b in pairs))
    assert distances[2] < distances[1] < distances[0] * 1.05


def test_reconstruction_of_the_model_itself_changes_nothing(texts: Checkpoints) -> None:
    """A budget that keeps everything: nothing is cut, and solving moves no weight by more than rounding."""
    run = run_on(texts, FINE, macs=1.0)
    before = {name: x.clone() for name, x in run.model.state_dict().items()}
    run.apply()
    assert units_of(run.model) == [(4, 44)] * 3
    for name, x in run.model.state_dict().items():
        torch.testing.assert_close(x, before[name], atol=1e-3, rtol=1e-3)


def test_counts_and_budget_hold_through_rearrangement(texts: Checkpoints) -> None:
    """Search decides how many, rearrangement which; the price of both is the same and within budget."""
    plain, moved = (run_on(texts, FTPP(multiple=1, rearrange=again, tune="none")) for again in (False, True))
    plans = [run.apply() for run in (plain, moved)]
    assert units_of(plain.model) == units_of(moved.model)
    assert plans[0] != plans[1]


def test_multiples_of_filters(texts: Checkpoints) -> None:
    """Filters stay in multiples, or all of them."""
    run = run_on(texts, FTPP(multiple=8))
    run.apply()
    for _, filters in units_of(run.model):
        assert filters % 8 == 0 or filters == 44


def test_runs_repeat_and_seeds_differ(texts: Checkpoints) -> None:
    """The same seed gives the same weights to the bit; another one draws other rows."""
    first, again, other = (run_on(texts, FTPP(samples=20, multiple=1), seed=seed) for seed in (3, 3, 4))
    for run in (first, again, other):
        run.apply()
    assert all(torch.equal(x, again.model.state_dict()[name]) for name, x in first.model.state_dict().items())
    assert not np.array_equal(first.rows, other.rows)


def test_controls(texts: Checkpoints) -> None:
    """Random and magnitude keep the budget, too, and look at no label and no gradient."""
    for score in ("random", "magnitude"):
        run = run_on(texts, FTPP(score=score, multiple=1))
        run.apply()
        assert "gradients" not in run.history
        assert run.macs_prices(1.0).uniform is not None


def test_gradients_are_per_sample(texts: Checkpoints) -> None:
    """Scores are sums of squares over samples; the released code's are of means of 32, and smaller than that."""
    ours, theirs = (run_on(texts, FTPP(variant=variant)).scores() for variant in ("sparsam", "released"))
    assert ours.head_gradients[0].shape == (64, 4) and theirs.head_gradients[0].shape == (2, 4)
    for scores in (ours, theirs):
        np.testing.assert_allclose(
            scores.filters[1], np.square(scores.filter_gradients[1].astype(np.float64)).sum(0), rtol=1e-6
        )
    assert sum(x.sum() for x in theirs.filters) < sum(x.sum() for x in ours.filters)


def test_the_released_variant_runs(texts: Checkpoints) -> None:
    """Its reference is larger than its result, and the first layer's attention is not tuned."""
    run = run_on(texts, FTPP(variant="released", multiple=1))
    run.apply()
    assert (0, "attention") not in {(one.layer, one.half) for one in run.reconstructions}
    assert {one.half for one in run.reconstructions} <= set(HALVES)


def test_labels_may_be_sampled(texts: Checkpoints, tmp_path: Path) -> None:
    """Without the data's labels, and it is said; the labels are never read."""
    run = run_on(texts, FTPP(labels="sampled"))
    run.feed.split.labels[:] = 99
    run.apply()
    assert "Labels were sampled" in run.notes[0]
    found = compress(
        str(texts.dense), str(texts.task), out=tmp_path / "small", methods=[FTPP(labels="sampled")], budget="macs=0.7x",
        settings=SETTINGS,
    )  # fmt: skip
    assert any("Labels were sampled" in note for note in found.notes)


def test_recovery_learns_from_the_dense_model(texts: Checkpoints, tmp_path: Path) -> None:
    """Its stage is recorded, weights move, and the plan stays."""
    plain, trained = (
        compress(
            str(texts.dense), str(texts.task), out=tmp_path / f"r{epochs}", budget="macs=0.4x", settings=SETTINGS,
            methods=[FTPP(multiple=1, recover_epochs=epochs)],
        )
        for epochs in (0, 2)
    )  # fmt: skip
    assert plain.plan == trained.plan
    assert "0-recover" not in plain.history and trained.history["0-recover"]["epochs"] == 2
    own, other = plain.model.state_dict(), trained.model.state_dict()
    assert any(not torch.equal(x, other[name]) for name, x in own.items())
    assert not list(tmp_path.glob("*.work"))


def test_tokens_then_heads_and_filters(texts: Checkpoints, tmp_path: Path) -> None:
    """Both methods in one run share the budget; the dense model is the measure of both."""
    found = compress(
        str(texts.dense), str(texts.task), out=tmp_path / "both", budget="macs=0.4x", settings=SETTINGS, strict=False,
        methods=[QUICK, FTPP(multiple=1), replace(QUICK, soft_epochs=0)],
    )  # fmt: skip
    assert found.plan.changes_shapes and found.plan.tokens is not None
    assert {"0-soft", "0-hard", "1-gradients", "1-tuning", "2-hard"} <= set(found.history)
    assert found.compressed.macs_ratio < 0.5
    again = compress(
        str(tmp_path / "both"), str(texts.task), out=tmp_path / "more", budget="macs=0.25x", settings=SETTINGS,
        methods=[FTPP(multiple=1)], teacher=str(texts.dense), strict=False,
    )  # fmt: skip
    assert again.plan.tokens == found.plan.tokens
    assert again.compressed.macs_ratio < 0.3


@pytest.mark.parametrize("kind", ["texts", "images"])
def test_a_budget_of_a_clock(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, clockwork: Any
) -> None:
    """Throughput, of the reloaded model beside packed dense: reached, or said to be missed; what was chosen is noted."""
    made = request.getfixturevalue(kind)
    found = compress(
        str(made.dense), str(made.task), out=tmp_path / "fast", methods=[FINE], budget="throughput=2x", settings=SETTINGS,
        strict=False, batch=8,
    )  # fmt: skip
    assert found.speed is not None and found.speed.batch == 8
    unused = 27.2 / 2 - 27.2 / found.speed.throughput_ratio
    assert found.met and 0 <= unused < 1.6  # milliseconds: sixteen filters more would not fit
    assert any(note.startswith("Chosen: ") for note in found.notes)
    assert list((tmp_path / "cache" / "sparsam" / "tables").glob("*.json"))
    with pytest.raises(Refused, match="throughput=1000x cannot be reached on this machine"):
        compress(
            str(made.dense), str(made.task), out=tmp_path / "never", methods=[FINE], budget="throughput=1000x",
            settings=SETTINGS,
        )  # fmt: skip
    assert not (tmp_path / "never").exists()


def test_a_composition_is_searched_trained_and_timed(
    texts: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clockwork: Any
) -> None:
    """No method named: tokens, heads and filters, and how fast the reloaded model is; going on from it works, too."""
    chosen = sys.modules["sparsam.compress.chosen_run"]
    monkeypatch.setattr(chosen, "TRIALS", 4)
    monkeypatch.setattr(chosen, "CORRECTIONS", 0)
    monkeypatch.setattr(
        sys.modules["sparsam.compress.search_run"], "LEFT_BY_TRAINING", 0.0
    )  # so that a rule is chosen
    found = compress(
        str(texts.dense), str(texts.task), out=tmp_path / "auto", methods=[FINE, QUICK], budget="throughput=1.5x",
        settings=SETTINGS, strict=False,
    )  # fmt: skip
    assert found.speed is not None and found.speed.batch == 32
    assert found.plan.tokens is not None
    assert {"tokens-soft", "tokens-hard", "gradients", "tuning", "again-0-hard"} <= set(found.history)
    more = compress(
        str(tmp_path / "auto"), str(texts.task), out=tmp_path / "more", methods=[FINE, QUICK], budget="latency=1x",
        teacher=str(texts.dense), settings=SETTINGS, strict=False,
    )  # fmt: skip
    assert (
        more.plan.tokens is not None
        and more.speed is not None
        and more.speed.batch == 1
        and "tokens-soft" not in more.history
    )


def test_nothing_is_trained_that_was_not_named(texts: Checkpoints, tmp_path: Path, clockwork: Any) -> None:
    """FTPP alone, on a model that removes tokens: cut by the clock, thresholds solved again, no step of training."""
    found = compress(
        str(texts.half), str(texts.task), out=tmp_path / "cut", methods=[FINE], budget="throughput=5x", settings=SETTINGS,
        teacher=str(texts.dense), strict=False,
    )  # fmt: skip
    assert found.plan.changes_shapes and found.plan.tokens is not None
    assert set(found.history) == {"gradients", "tuning"}


def test_a_budget_of_bytes(texts: Checkpoints, tmp_path: Path) -> None:
    """Exact: the weights that are left are within the share, and the knapsack leaves little of it unused."""
    found = compress(
        str(texts.dense),
        str(texts.task),
        out=tmp_path / "small",
        budget="bytes=0.7x",
        methods=[FINE],
        settings=SETTINGS,
    )
    assert 0.68 < found.compressed_bytes / found.dense_bytes <= 0.7
    with pytest.raises(
        Refused, match=r"bytes=0\.01x cannot be reached.*embeddings, norms and head take 0\.\d\dx"
    ):
        compress(
            str(texts.dense),
            str(texts.task),
            out=tmp_path / "none",
            budget="bytes=0.01x",
            methods=[FINE],
            settings=SETTINGS,
        )


@pytest.mark.parametrize(
    ("budget", "speeds", "used"),
    [
        ("latency=0.4x,throughput=2x", 2, "time"),
        ("throughput=1.2x,bytes=0.75x", 1, "bytes"),
        ("macs=0.5x,latency=0.9x,bytes=0.95x", 1, "macs"),
        ("macs=0.6x,bytes=0.9x", 0, "macs"),
    ],
)
def test_several_limits_are_all_kept(
    texts: Checkpoints, tmp_path: Path, clockwork: Any, budget: str, speeds: int, used: str
) -> None:
    """Each is held against the reloaded model; the tightest of them is nearly used up."""
    found = compress(
        str(texts.dense), str(texts.task), out=tmp_path / "small", methods=[FINE], budget=budget, settings=SETTINGS, batch=8,
    )  # fmt: skip
    asked = Budget.parse(budget)
    assert found.met and len(found.speeds) == speeds == len(found.to_json()["speeds"])
    size = found.compressed_bytes / found.dense_bytes
    time = found.speeds[0].latency_ratio if found.speeds else 1.0
    assert size <= (asked.bytes or 1) and found.compressed.macs_ratio <= 1.02 * (asked.macs or 1)
    assert time <= min(asked.latency or 1, 1 / (asked.throughput or 1))
    reached, limit = {
        "time": (time, asked.latency), "bytes": (size, asked.bytes), "macs": (found.compressed.macs_ratio, asked.macs),
    }[used]  # fmt: skip
    assert limit is not None and reached > 0.9 * limit


def test_several_limits_with_tokens(
    texts: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clockwork: Any
) -> None:
    """A rule is chosen where that loses least; MACs and bytes hold beside the clock, and what is kept stays within both."""
    chosen = sys.modules["sparsam.compress.chosen_run"]
    monkeypatch.setattr(chosen, "TRIALS", 3)
    monkeypatch.setattr(chosen, "CORRECTIONS", 0)
    monkeypatch.setattr(sys.modules["sparsam.compress.search_run"], "LEFT_BY_TRAINING", 0.0)
    found = compress(
        str(texts.dense), str(texts.task), out=tmp_path / "auto", methods=[FINE, QUICK],
        budget="throughput=1.3x,macs=0.6x,bytes=0.95x", settings=SETTINGS, strict=False, batch=8,
    )  # fmt: skip
    assert found.plan.tokens is not None and found.plan.changes_shapes
    assert found.compressed.macs_ratio < 0.65 and found.compressed_bytes <= 0.95 * found.dense_bytes


def test_limits_in_their_own_units_are_kept(texts: Checkpoints, tmp_path: Path, clockwork: Any) -> None:
    """Milliseconds and kilobytes: the reloaded model's own figures; what they were relative to is noted."""
    task = Task.load(str(texts.task))
    allowed = 0.8 * weight_bytes(open_model(str(texts.dense), task).model)
    found = compress(
        str(texts.dense), task, out=tmp_path / "small", methods=[FINE], budget=f"latency=20ms,bytes={allowed / 1e3:.3f}kB",
        settings=SETTINGS,
    )  # fmt: skip
    assert found.speed is not None and found.speed.p50 == (pytest.approx(27.2), found.speed.p50[1])
    assert found.speed.p50[1] <= 20 and found.compressed_bytes <= allowed
    assert any(
        note.startswith("latency=20ms: the packed dense model's is 27.2ms, so latency=0.735x")
        for note in found.notes
    )
    assert sparsam.load(tmp_path / "small").facts["budget"]["latency_ms"] == 20
    counted = compress(
        str(texts.dense), task, out=tmp_path / "counted", methods=[FINE],
        budget=f"macs={0.5 * found.dense.cost.macs / found.dense.cost.samples / 1e3:.3f}k", settings=SETTINGS,
    )  # fmt: skip
    assert counted.met and 0.45 < counted.compressed.macs_ratio <= 0.51
    planned = plan_run(str(texts.dense), task, methods=[FINE], budget="latency=20ms", settings=SETTINGS)
    assert [stage["stage"] for stage in planned.stages] == ["gradients", "tuning"]


def test_limits_that_the_dense_model_keeps_already(
    texts: Checkpoints, tmp_path: Path, clockwork: Any
) -> None:
    """Nothing to compress for is an error of usage, before any work; beside another limit it is a note."""
    arguments: dict[str, Any] = {"methods": [FINE], "settings": SETTINGS}
    with pytest.raises(
        Usage, match=r"latency=30ms: the packed dense model's is 27\.2ms.*nothing to compress for"
    ) as caught:
        compress(
            str(texts.dense),
            str(texts.task),
            out=tmp_path / "none",
            budget="latency=30ms,accuracy=-1",
            **arguments,
        )
    assert caught.value.code == "budget-met" and not (tmp_path / "none").exists()
    found = compress(
        str(texts.dense),
        str(texts.task),
        out=tmp_path / "some",
        budget="latency=30ms,bytes=0.8x",
        **arguments,
    )
    assert found.met and found.speed is not None
    assert "latency=30ms: the packed dense model's is 27.2ms, which keeps it already" in found.notes


def test_limits_that_cannot_be_reached_name_the_least(
    texts: Checkpoints, tmp_path: Path, clockwork: Any
) -> None:
    """In the unit that was asked for; of several limits the one that cannot be."""
    arguments: dict[str, Any] = {"methods": [FINE], "settings": SETTINGS, "out": tmp_path / "none"}
    for budget, says in (
        ("latency=0.5ms", r"latency=0\.5ms cannot be reached.*it would be about latency=2ms\."),
        ("throughput=1.5x,bytes=1kB", r"bytes=1kB cannot be reached.*embeddings, norms and head take \d.*kB"),
        ("throughput=90x,bytes=0.9x", r"throughput=90x cannot be reached.*about throughput=\d+\.\dx"),
    ):
        with pytest.raises(Refused, match=says) as caught:
            compress(str(texts.dense), str(texts.task), budget=budget, **arguments)
        assert caught.value.code == "budget-unreachable"
    assert not (tmp_path / "none").exists()


def test_every_limit_that_is_missed_is_said(texts: Checkpoints) -> None:
    """Relative ones with ratios, absolute ones with the model's own figures; within what clocks differ by none is missed."""
    found = evaluate(str(texts.dense), str(texts.task))
    speed = Faster(1.5, 0.5, (100.0, 150.0), (10.0, 5.0), 1.1, 8, "packed dense fp32", {})
    speeds, sizes = {"throughput": speed, "latency": speed}, (4_000_000, 3_000_000)
    loss = replace(found.metric, value=-2.0, unit="points")
    said = _missed(
        Budget.parse("throughput=2x,latency=0.4x,bytes=0.5x,macs=0.5x,accuracy=-1"),
        found,
        loss,
        sizes,
        speeds,
    )
    assert [line.split("; ")[1] for line in said] == [
        "0.5x was asked for.", "2x was asked for.", "0.4x was asked for.", "0.5x was asked for.", "at most 1 were allowed.",
    ]  # fmt: skip
    assert said[1].startswith("The reloaded model serves 1.50x as many samples a second as packed dense fp32")
    said = _missed(Budget.parse("throughput=200/s,latency=4ms,bytes=2MB,macs=1k"), found, loss, sizes, speeds)
    assert said[1:] == [
        "The reloaded model serves 150 samples a second; 200/s was asked for.",
        "The reloaded model takes 5.00 ms (p50), one sample at a time; 4ms was asked for.",
        "The reloaded model takes 3 MB; 2MB was asked for.",
    ]
    assert said[0].endswith("MACs a sample; 1k was asked for.")
    assert not _missed(
        Budget.parse("throughput=155/s,latency=4.9ms,bytes=3MB,macs=1G"), found, loss, sizes, speeds
    )
    assert not _missed(
        Budget.parse("throughput=1.55x,latency=0.49x,bytes=0.75x,macs=1x"), found, loss, sizes, speeds
    )


def test_what_was_found_by_a_clock_is_remembered(tmp_path: Path) -> None:
    """For the same facts; other facts, no folder or a damaged file find again."""
    count = iter(range(9))
    assert [remembered(None, "x", {}, lambda: next(count)) for _ in range(2)] == [0, 1]
    assert [remembered(tmp_path / "a", "x", {"b": (1,)}, lambda: next(count)) for _ in range(2)] == [2, 2]
    assert remembered(tmp_path / "a", "x", {"b": (2,)}, lambda: next(count)) == 3
    (tmp_path / "a" / "x.json").write_text("{")
    assert remembered(tmp_path / "a", "x", {"b": (2,)}, lambda: next(count)) == 4


def test_budgets_that_do_not_go_together(texts: Checkpoints, tmp_path: Path) -> None:
    """A clock's budget for tokens alone, one limit in two forms."""
    arguments: dict[str, Any] = {"out": tmp_path / "out", "settings": SETTINGS}
    with pytest.raises(
        Usage, match="a budget for throughput and bytes is met by heads and filters, with tokens or without"
    ):
        compress(
            str(texts.dense), str(texts.task), budget="throughput=2x,bytes=0.9x", methods=[LTP()], **arguments
        )
    with pytest.raises(Usage, match="names bytes twice"):
        compress(str(texts.dense), str(texts.task), budget="bytes=0.5x,bytes=20MB", **arguments)


def test_a_rules_survivors_are_what_is_paid_for(texts: Checkpoints) -> None:
    """On a model that removes tokens, a layer's price is of the tokens that reach it."""
    task = Task.load(str(texts.task))
    opened, taught = open_model(str(texts.half), task), open_model(str(texts.dense), task)
    feed = feed_of(opened, split_of(task, "train"), True)
    run = StructureRun(
        opened, taught, feed, lengths_of_use(opened, task, feed, True), FINE, Budget(macs=0.3), SETTINGS
    )
    prices = run.macs_prices(0.3)
    assert prices.uniform is None
    assert prices.heads[2][1][1] < prices.heads[0][1][1]
    assert prices.filters[2][1][1] < prices.filters[0][1][1]
    run.apply()
    assert stack_of(run.model).rule is not None


def test_dry_run_says_what_it_would_take(texts: Checkpoints) -> None:
    """Gradients, tuning and recovery, each on the clock; the model is not touched."""
    found = plan_run(
        str(texts.dense),
        str(texts.task),
        methods=[FTPP(recover_epochs=1)],
        budget="macs=0.5x",
        settings=SETTINGS,
        steps=1,
    )
    assert [stage["stage"] for stage in found.stages] == ["gradients", "tuning", "recover"]
    assert found.seconds > 0


@pytest.mark.parametrize(
    ("method", "says"),
    [
        (FTPP(samples=65), "65 calibration samples were asked for; the training split has 64"),
    ],
)
def test_more_samples_than_there_are(texts: Checkpoints, method: FTPP, says: str) -> None:
    """An explicit number is kept to."""
    with pytest.raises(Refused, match=says):
        run_on(texts, method)
    assert len(run_on(texts, FTPP()).rows) == 64


def test_one_class_is_refused_unless_labels_are_sampled(texts: Checkpoints) -> None:
    """Gradients of one class know nothing of the others."""
    task = Task.load(str(texts.task))
    opened = open_model(str(texts.dense), task)
    feed = feed_of(opened, split_of(task, "train"), True)
    feed.split.labels[:] = 1
    arguments: list[Any] = [opened, opened, feed, feed.lengths]
    with pytest.raises(Refused, match=r"all 64 calibration rows have the label 1.*--labels sampled"):
        StructureRun(*arguments, FTPP(), Budget(macs=0.5), SETTINGS)
    StructureRun(*arguments, FTPP(labels="sampled"), Budget(macs=0.5), SETTINGS)


def test_gradients_that_are_no_numbers(texts: Checkpoints) -> None:
    """NaN in the weights is named, and nothing is cut."""
    run = run_on(texts, FINE)
    with torch.no_grad():
        stack_of(run.model).blocks[1].part("up").weight[3, 3] = float("nan")
    with pytest.raises(Refused, match="a gradient in layer . is not a number"):
        run.apply()
    assert units_of(run.model) == [(4, 44)] * 3


def test_what_does_not_go_together(texts: Checkpoints, tmp_path: Path) -> None:
    """No budget, twice the same kind, tokens first, settings out of range; nothing is written."""
    where = {"out": tmp_path / "out", "settings": SETTINGS}
    with pytest.raises(Usage, match=r"needs to know how much may stay.*--budget macs=0\.6x"):
        compress(str(texts.dense), str(texts.task), methods=[FTPP()], **where)
    with pytest.raises(Usage, match="2 of the methods given remove heads and filters"):
        compress(str(texts.dense), str(texts.task), methods=[FTPP(), FTPP()], budget="macs=0.5x", **where)
    with pytest.raises(Usage, match="2 of the methods given remove tokens, one right after the other"):
        compress(
            str(texts.dense), str(texts.task), methods=[LTP(), LTP(), FTPP()], budget="macs=0.5x", **where
        )
    for wrong in ({"score": "x"}, {"tune": "x"}, {"labels": "x"}, {"variant": "x"}, {"samples": 1}, {"multiple": 0},
                  {"ridge": -1.0}, {"recover_epochs": float("nan")}, {"distill": 2.0}, {"macs": 0.0}):  # fmt: skip
        with pytest.raises(Usage, match=next(iter(wrong))):
            FTPP(**wrong)
    assert not (tmp_path / "out").exists()


def test_a_budget_that_is_missed_is_said(texts: Checkpoints, tmp_path: Path) -> None:
    """A tenth of the work and no loss allowed: exit code 4, and the folder is there."""
    with pytest.raises(BudgetMissed) as raised:
        compress(
            str(texts.dense), str(texts.task), out=tmp_path / "tiny", methods=[FINE], budget="macs=0.02x,accuracy=-0",
            settings=SETTINGS,
        )  # fmt: skip
    assert raised.value.exit_code == 4
    assert (tmp_path / "tiny" / "config.json").is_file()


def test_an_interrupted_search_keeps_what_it_chose(
    texts: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clockwork: Any
) -> None:
    """Stopped while training, a run goes on with the same structure, whatever the clock would say the second time."""
    given: dict[str, Any] = {
        "out": tmp_path / "fast", "methods": [FTPP(multiple=1, recover_epochs=1)], "budget": "throughput=1.5x",
        "settings": SETTINGS, "strict": False, "batch": 8,
    }  # fmt: skip

    class Stopped(RuntimeError):
        pass

    def stop(stage: str, step: int, total: int, logs: Any) -> None:
        if stage == "recover" and step == 2:
            raise Stopped

    with pytest.raises(Stopped):
        compress(str(texts.dense), str(texts.task), progress=stop, **given)
    assert not (tmp_path / "fast").exists()
    (kept,) = (tmp_path / "fast.work" / "search").glob("*.json")
    chosen = kept.read_text()
    monkeypatch.setattr(
        sys.modules["sparsam.compress.search_run"].StructureSearch,
        "structure",
        lambda *args: pytest.fail("searched again"),
    )
    found = compress(str(texts.dense), str(texts.task), **given)
    whole = list(range(44))
    assert [whole if one.filters is None else list(one.filters) for one in found.plan.layers] == [
        one["filters"] for one in json.loads(chosen)["found"]
    ]
    assert not (tmp_path / "fast.work").exists()


def test_the_command_says_what_is_left_and_how_fast(
    texts: Checkpoints, tmp_path: Path, clockwork: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Heads and filters of the whole and layer by layer; the ratio with its baseline, batch and machine in the same line."""
    arguments = [
        "compress",
        str(texts.dense),
        "--task",
        str(texts.task),
        "--method",
        "ftpp",
        "--multiple",
        "1",
    ]
    assert main([*arguments, "--budget", "throughput=2x", "--batch", "8", "--out", str(tmp_path / "a")]) == 0
    shown = capsys.readouterr().out
    assert " of 12 heads, " in shown and " of 132 filters; layer by layer " in shown
    assert "x of packed dense " in shown and "batch 8, arrival; " in shown
    assert main([*arguments, "--budget", "latency=0.5x", "--out", str(tmp_path / "b")]) == 0
    assert "one at a time; " in capsys.readouterr().out
    assert main([*arguments, "--budget", "throughput=900x", "--out", str(tmp_path / "c")]) == 3
    assert "[budget-unreachable]" in capsys.readouterr().err
