"""The stages of a token method: thresholds learn, budgets hold, the two soft stages do what they say."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch

from sparsam.errors import Usage
from sparsam.models import stack_of
from sparsam.models.count import count
from sparsam.tokens import LTP, rule_of
from sparsam.tokens.ltp import ONLY_PROTECTED, token_plan
from sparsam.training.feed import answers, matched_rows
from sparsam.training.loop import Settings, train
from sparsam.training.tokens import Distillation, HardStage, SoftStage, score_quantiles, solve_scale

FAST = Settings(epochs=3, lr=1e-3, precision="fp32")


def soft_stage(
    model: Any, teacher: Any, *, target: float | None = 0.5, weight: float | None = None, soft: str = "mask"
) -> SoftStage:
    rule = LTP(soft=soft).start((0.15, 0.3, 0.4), reads_class_token=True)
    return SoftStage(
        model,
        rule,
        teacher=teacher,
        distillation=Distillation(),
        target=target,
        weight=weight,
        threshold_lr=2e-2,
    )


def calibration(rows: Any) -> list[dict[str, torch.Tensor]]:
    return [rows.collate(np.arange(i, i + 20)) for i in (0, 20, 40)]


@pytest.mark.parametrize("soft", ["mask", "scale"])
def test_a_larger_weight_removes_more(trained: Any, rows: Any, soft: str) -> None:
    """The penalty pulls thresholds up: MACs after the soft stage fall with its weight."""
    ratios = []
    for weight in (0.0, 0.5, 5.0):
        model = copy.deepcopy(trained)
        stage = soft_stage(model, copy.deepcopy(trained), target=None, weight=weight, soft=soft)
        train(stage, rows.batches, rows.collate, FAST)
        stack_of(model).rule = rule_of(token_plan(stage.rule.hardened()))
        ratios.append(count(model, stack_of(model), calibration(rows)).ratio)
    assert ratios[0] > ratios[1] > ratios[2]


def test_steering_brings_the_soft_stage_to_its_target(trained: Any, rows: Any) -> None:
    """With a budget and no weight, the soft MACs come down from near dense to near the target."""
    stage = soft_stage(copy.deepcopy(trained), copy.deepcopy(trained), target=0.5)
    train(stage, rows.batches, rows.collate, Settings(epochs=6, lr=1e-3, precision="fp32"))
    assert stage.first is not None and stage.first > 0.6
    assert stage.left == pytest.approx(0.5, abs=0.1)


def test_the_hard_stage_holds_its_budget(classifier: Any, teacher: Any, rows: Any) -> None:
    """However the weights move, the calibration set costs at most the target after the stage, and not much less."""
    learned = (0.6, 0.8, ONLY_PROTECTED)
    stage = HardStage(
        classifier,
        lambda s: token_plan([t if t >= ONLY_PROTECTED else t * s for t in learned]),
        teacher=teacher,
        distillation=Distillation(),
        target=0.5,
        calibration=calibration(rows),
        steer_every=5,
    )
    stage.steer()
    train(stage, rows.batches, rows.collate, FAST)
    ratio = count(classifier, stack_of(classifier), calibration(rows)).ratio
    assert 0.45 < ratio <= 0.5


def test_stages_resume_bit_for_bit(classifier: Any, teacher: Any, rows: Any, tmp_path: Any) -> None:
    """Soft and hard stages stopped in the middle end with the same weights, thresholds and scalar."""
    ends = []
    for interrupted in (False, True):
        model = copy.deepcopy(classifier)
        stage = soft_stage(model, teacher)
        if interrupted:
            train(stage, rows.batches, rows.collate, FAST, checkpoints=tmp_path / "soft", stop_after=13)
            model = copy.deepcopy(classifier)
            stage = soft_stage(model, teacher)
        train(stage, rows.batches, rows.collate, FAST, checkpoints=tmp_path / "soft" if interrupted else None)
        learned = stage.rule.hardened()

        def hard(model: Any, learned: tuple[float, ...] = learned) -> HardStage:
            made = HardStage(
                model,
                lambda s: token_plan([t if t >= ONLY_PROTECTED else t * s for t in learned]),
                teacher=teacher,
                distillation=Distillation(),
                target=0.6,
                calibration=calibration(rows),
                steer_every=4,
            )
            made.steer()
            return made

        before = copy.deepcopy(model)
        last = hard(model)
        if interrupted:
            train(last, rows.batches, rows.collate, FAST, checkpoints=tmp_path / "hard", stop_after=11)
            model = before
            last = hard(model)
        train(last, rows.batches, rows.collate, FAST, checkpoints=tmp_path / "hard" if interrupted else None)
        ends.append((learned, last.scale, {k: v.clone() for k, v in model.state_dict().items()}))
    assert ends[0][:2] == ends[1][:2]
    assert all(torch.equal(ends[0][2][k], ends[1][2][k]) for k in ends[0][2])


def test_solving_finds_the_largest_cost_within_the_target(classifier: Any, rows: Any) -> None:
    """The share lies in [target - tolerance, target] where it can be reached, and is the smallest one elsewhere."""
    stack = stack_of(classifier)
    at = lambda s: token_plan((0.9 * s, 1.0 * s, ONLY_PROTECTED))  # noqa: E731
    for target in (0.35, 0.5, 0.7):
        scale, share = solve_scale(classifier, stack, at, calibration(rows), target)
        assert share <= target
        assert share >= target - 0.05  # 60 short sentences: one token is worth 0.2 %
        with stack.using(rule_of(at(scale))):
            assert count(classifier, stack, calibration(rows)).ratio == pytest.approx(share)
    _, smallest = solve_scale(classifier, stack, at, calibration(rows), 0.01)
    assert 0.01 < smallest < 0.3


def test_without_weight_and_budget_there_is_nothing_to_learn(classifier: Any, teacher: Any) -> None:
    """The error names the option to give."""
    with pytest.raises(Usage, match=r"--budget macs=0\.5x"):
        soft_stage(classifier, teacher, target=None, weight=None)


def test_the_teacher_is_neither_trained_nor_saved(classifier: Any, teacher: Any, rows: Any) -> None:
    """Distillation leaves the dense model as it was, and out of the checkpoint."""
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    stage = soft_stage(classifier, teacher)
    assert not any("teacher" in name for name in stage.state_dict())
    train(stage, rows.batches, rows.collate, FAST, stop_after=3)
    assert all(torch.equal(before[k], v) for k, v in teacher.state_dict().items())
    assert not any(p.requires_grad for p in teacher.parameters())


def test_answers_worked_out_before_teach_like_the_teacher_itself(
    classifier: Any, trained: Any, rows: Any
) -> None:
    """The loss with cached logits equals the loss with the teacher running beside; rows not worked out are NaN, not 0."""
    asked = np.arange(4, 40)
    taught = answers(trained, rows, asked, tokens=64)
    assert taught.shape == (160, 2)
    assert taught.isnan().all(1).nonzero().flatten().tolist() == [*range(4), *range(40, 160)]
    stage = soft_stage(classifier, trained).eval()
    batch = rows.collate(np.arange(10, 26))
    with torch.no_grad():
        beside, cached, other = (
            float(stage(**given)[0])
            for given in (batch, batch | {"taught": taught[10:26]}, batch | {"taught": -taught[10:26]})
        )
    assert cached == pytest.approx(beside, abs=1e-6)
    assert other != pytest.approx(beside, abs=1e-4)


@pytest.mark.parametrize("dropout", [True, False])
def test_dropout_can_be_left_out(classifier: Any, teacher: Any, rows: Any, dropout: bool) -> None:
    """Without it two losses of a batch agree while gradients flow; with it they differ."""
    stage = HardStage(
        classifier,
        lambda s: token_plan((0.5, 0.8, ONLY_PROTECTED)),
        teacher=teacher,
        distillation=Distillation(),
        target=None,
        calibration=[],
        steer_every=1,
        dropout=dropout,
    ).train()
    batch = rows.collate(np.arange(16))
    first, second = stage(**batch)[0], stage(**batch)[0]
    assert first.requires_grad
    assert (float(first.detach()) == float(second.detach())) is not dropout


def test_distillation_of_the_model_into_itself_costs_nothing(teacher: Any, rows: Any) -> None:
    """With nothing removed and no dropout, both distances are 0."""
    model = copy.deepcopy(teacher).eval()
    stage = HardStage(
        model,
        lambda s: token_plan((0.0, 0.0, 0.0)),
        teacher=teacher,
        distillation=Distillation(states=1.0),
        target=None,
        calibration=[],
        steer_every=1,
    )
    _, logs = stage.loss(rows.collate(np.arange(8)))
    assert float(logs["distill"]) == pytest.approx(0, abs=1e-6)
    assert float(logs["states"]) == pytest.approx(0, abs=1e-6)
    assert not math.isnan(float(logs["task"]))


def test_matched_rows_follow_the_lengths_of_use() -> None:
    """Rows drawn from short training texts are as long as the texts of use; each at most once."""
    generator = np.random.default_rng(0)
    train_lengths = generator.integers(3, 40, 5000)
    use = generator.integers(20, 40, 300)
    rows = matched_rows(train_lengths, use, 256, seed=0)
    assert len(set(rows)) == 256
    assert train_lengths[rows].mean() == pytest.approx(use.mean(), abs=1.0)
    assert np.array_equal(rows, matched_rows(train_lengths, use, 256, seed=0))


def test_thresholds_start_where_a_share_of_the_tokens_lies_below(trained: Any, rows: Any) -> None:
    """The start removes about the share asked for in every layer, so no gate is saturated."""
    stack = stack_of(trained)
    (first,) = score_quantiles(trained, stack, calibration(rows), [0.2], "all")
    kept = [0.0] * 3
    for layer in range(3):  # each layer's threshold alone
        alone = [t if i == layer else 0.0 for i, t in enumerate(first)]
        with stack.using(rule_of(token_plan(alone))):
            kept[layer] = count(trained, stack, calibration(rows)).shares()[layer]["ffn"]
    assert all(0.78 < share < 0.92 for share in kept)  # the class token, one of nine, stays anyway
