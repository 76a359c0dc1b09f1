"""I-BERT on one model: scales from calibration rows, training with everything rounded if asked for, then integers alone.

The arithmetic is :mod:`sparsam.quantization.integer_only`'s, its simulation :mod:`sparsam.quantization.rounded_encoder`'s.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from sparsam.compress.calibration import TOKENS
from sparsam.errors import Refused, Usage
from sparsam.models import dense_plan, lift, plan_of
from sparsam.models.formats import refuse_integers
from sparsam.models.integer_only import answers_alone, parts_of, put_integers
from sparsam.models.lift import is_lifted
from sparsam.models.positions import first_position
from sparsam.quantization.int8 import RANGES, SAMPLES
from sparsam.quantization.integer_only import IBert, IntegerEncoder, Scales
from sparsam.quantization.rounded_encoder import RoundedEncoder, Sequences, found_scales
from sparsam.runtime.ends import head_of
from sparsam.training.feed import Feed, by_length, matched_rows
from sparsam.training.loop import History, Progress, Settings, Trainee, train
from sparsam.training.tokens import match_logits


@dataclass(frozen=True)
class IntegerOnlyMethod:
    """Settings of the method.

    Args:
        arithmetic: the widths, and how an activation is computed.
        range: where points of 8 bits end: ``percentile``, ``mse``, ``minmax``, ``kl`` or ``aciq``.
        samples: calibration rows; their labels are not looked at.
        qat_epochs: passes over the training rows with everything rounded; none by default.
        qat_lr: its peak learning rate.
        distill: share of training's loss that comes from the teacher's answers, if there is a teacher.
    """

    arithmetic: IBert = field(default_factory=IBert)
    range: str = "percentile"
    samples: int = SAMPLES
    qat_epochs: float = 0.0
    qat_lr: float = 1e-5
    distill: float = 0.9

    def __post_init__(self) -> None:
        if self.range not in RANGES or self.range == "ema":
            raise Usage(
                f"range is percentile, mse, minmax, kl or aciq; got {self.range!r}.", code="method-settings"
            )
        if self.samples < 1 or self.qat_epochs < 0 or not self.qat_lr > 0 or not 0 <= self.distill <= 1:
            raise Usage(
                "samples is 1 or more, qat_epochs 0 or more, qat_lr above 0, distill in [0, 1]; got "
                f"{self.samples}, {self.qat_epochs}, {self.qat_lr}, {self.distill}.",
                code="method-settings",
            )


def integer_only(
    model: Any,
    feed: Feed,
    method: IntegerOnlyMethod | None = None,
    *,
    wanted: NDArray[np.int64] | None = None,
    teacher: nn.Module | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> IntegerEncoder:
    """Make a text classifier's encoder run in integers alone, in place; save it, or freeze it to serve.

    Args:
        model: in float32, lifted or not, pruned or not. Its plan names the integers afterwards.
        feed: training rows, to calibrate on, and to train on where ``method`` says so.
        method: percentiles and no training if None.
        wanted: lengths of the inputs in use, like which calibration rows are drawn; those of the feed if None.
        teacher: the dense model, whose answers teach.
        settings: of training.
        progress: told of every step.

    Raises:
        Refused: ``integer-only`` for a model that the arithmetic does not know, ``quantized`` where weights are integers
            already, ``head`` for one without a known classifier's head, and those of calibration.
    """
    method, settings = method or IntegerOnlyMethod(), settings or Settings()
    if not is_lifted(model):
        lift(model, dense_plan(model))
    refuse_integers(plan_of(model), "making integers of them once more")
    model.eval().float()
    parts, alone, first = parts_of(model), answers_alone(model), first_position(model.config)
    rows = matched_rows(
        feed.lengths,
        feed.lengths if wanted is None else wanted,
        min(method.samples, len(feed)),
        settings.seed,
    )
    scales = found_scales(
        parts, batches_of(feed, rows, first), method.arithmetic, RANGES[method.range], alone=alone
    )
    if method.qat_epochs > 0:
        student = RoundedStudent(model, scales, method, teacher)
        trained(student, feed, method, settings, progress)
    return put_integers(model, scales, method.arithmetic)


def batches_of(feed: Feed, rows: NDArray[np.int64], first: int) -> Iterator[Sequences]:
    """Rows of a feed by length, as packed tokens."""
    for group in by_length(feed.lengths[rows], TOKENS):
        yield sequences_of(feed.collate(rows[group]), first)


def sequences_of(batch: dict[str, Tensor], first: int) -> Sequences:
    """A padded batch (padding on the right) as packed tokens; positions count from ``first``."""
    living = batch["attention_mask"].bool()
    places = (torch.arange(living.shape[1]) + first).expand(living.shape)
    kinds = batch.get("token_type_ids")
    return Sequences(
        batch["input_ids"][living], places[living], None if kinds is None else kinds[living], living.sum(1)
    )


class RoundedStudent(Trainee):
    """A classifier in training whose encoder answers as its integers will.

    The scales of activations stand still, as calibration found them; those of weights follow the weights. Labels teach, and a
    teacher's answers if there is one. No dropout.
    """

    def __init__(
        self, model: Any, scales: Scales, method: IntegerOnlyMethod, teacher: nn.Module | None = None
    ) -> None:
        super().__init__()
        head = head_of(model)
        if head is None:
            raise Refused(
                f"a {type(model).__name__} has no classifier's head that is known here; training in integers needs one. Leave "
                "training out (qat_epochs=0).",
                code="head",
            )
        self.model, self.head, self.method = model, head, method
        self.encoder = RoundedEncoder(parts_of(model), scales, method.arithmetic)
        self.first = first_position(model.config)
        self._teacher = [teacher]  # in a list: neither trained nor saved
        if teacher is not None:
            teacher.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> "RoundedStudent":
        """No dropout."""
        super().train(mode)
        self.model.eval()
        return self

    def logits(self, batch: dict[str, Tensor]) -> Float[Tensor, "b c"]:
        """As the integers will answer."""
        states = self.encoder.run(sequences_of(batch, self.first), alone=True)
        return self.head(self.model, states.float()[:, None])

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Labels, and the teacher's answers."""
        own, teacher, share = self.logits(batch), self._teacher[0], self.method.distill
        task = (
            F.mse_loss(own[:, 0], batch["labels"].float())
            if own.shape[1] == 1
            else F.cross_entropy(own, batch["labels"])
        )
        if teacher is None or not share:
            return task, {"task": task.detach()}
        with torch.no_grad():
            taught = teacher(**{name: x for name, x in batch.items() if name != "labels"}).logits
        match = match_logits(own, taught, 1.0)
        return (1 - share) * task + share * match, {"task": task.detach(), "distill": match.detach()}


def trained(
    student: RoundedStudent,
    feed: Feed,
    method: IntegerOnlyMethod,
    settings: Settings,
    progress: Progress | None = None,
) -> History:
    """Train in place, on the CPU, in float32."""
    settings = replace(settings, epochs=method.qat_epochs, lr=method.qat_lr, precision="fp32")
    batches = feed.batches(settings.batch_tokens, settings.seed)
    return train(student, batches, feed.collate, settings, progress=progress, cpu=True)
