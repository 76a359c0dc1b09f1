"""int8 applied to one model: calibration, biases, training if asked for, integers. The mathematics is in ``quantization``."""

import copy
import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from sparsam.compress.calibration import Seen, applied_by, products_of, watched
from sparsam.compress.evaluation import Progress
from sparsam.compress.opening import Opened
from sparsam.compress.timed import Timed
from sparsam.cost import Budget
from sparsam.errors import Refused
from sparsam.models import dense_plan, lift, plan_of, stack_of
from sparsam.models.digest import weights_digest
from sparsam.models.encoder import Linear, Stack, call
from sparsam.models.formats import words_of
from sparsam.models.integers import put
from sparsam.plan import PRODUCTS, Format, LayerPlan, Plan
from sparsam.quantization import (
    INPUT,
    Grid,
    corrected_bias,
    divided,
    fake_quantize,
    fit,
    grid_between,
    quantize,
    smoothed,
    smoothing,
    weight_form,
)
from sparsam.quantization.int8 import CLIPS, RANGES, SAMPLES, Int8
from sparsam.training.feed import Feed, matched_rows
from sparsam.training.loop import Settings, compute_device, train
from sparsam.training.tokens import Distillation, Student

BITS = 8

NORMS = {"qkv": "attention_norm", "up": "ffn_norm"}
"""The norms that give these products, and nothing else, their inputs where norms stand in front of each half."""


class IntegerRun:
    """int8 on one model, from calibration rows to integers.

    Args:
        opened: the model; it is changed in place.
        taught: the dense model, which training learns from.
        feed: training rows; labels are read by training alone.
        wanted: lengths of the inputs in use.
        method, budget, settings: what to do; a budget is checked after reload, nothing here depends on it.
        work: folder for training's checkpoints.
        progress: told of every stage.
    """

    def __init__(
        self,
        opened: Opened,
        taught: Opened,
        feed: Feed,
        wanted: NDArray[np.int64],
        method: Int8,
        budget: Budget,
        settings: Settings,
        work: Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.model, self.teacher, self.feed, self.method = opened.model, taught.model, feed, method
        self.settings, self.work, self.progress = settings, work, progress
        for one in (self.model, self.teacher):
            one.to(compute_device()).eval()
        self._check()
        self.rows = self._rows(wanted)
        self.history: dict[str, dict[str, float]] = {}
        self.notes: tuple[str, ...] = ()
        self.identity = {
            "method": [type(method).__name__, asdict(method)],
            "model": weights_digest(self.model),
            "teacher": weights_digest(self.teacher),
            "rows": hashlib.sha256(np.concatenate([self.rows, feed.lengths]).tobytes()).hexdigest(),
        }

    def _check(self) -> None:
        """Refuse what this model has no place for, before any work."""
        name = type(self.model).__name__
        if self.method.smooth is not None and not self.stack.family.pre_norm:
            raise Refused(
                f"smoothing moves differences between inputs out of a norm into the weights behind it; the norms of a {name} "
                "also give the residual stream, which would change. Leave --smooth out.",
                code="smooth-norm",
            )
        if self.method.embeddings == "8" and words_of(self.model) is None:
            raise Refused(
                f"a {name} reads no words, so it has no embeddings of words. Leave --embeddings out.",
                code="embeddings-missing",
            )

    def _rows(self, wanted: NDArray[np.int64]) -> NDArray[np.int64]:
        asked, there = self.method.samples, len(self.feed)
        if asked is not None and asked > there:
            raise Refused(
                f"{asked:,} calibration samples were asked for; the training split has {there:,}. Ask for fewer (--samples).",
                code="too-few-rows",
            )
        return matched_rows(self.feed.lengths, wanted, min(asked or SAMPLES, there), self.settings.seed)

    @property
    def stack(self) -> Stack:
        """The model's packed encoder."""
        return stack_of(self.model)

    @property
    def plan(self) -> Plan:
        """What the model runs by so far."""
        return plan_of(self.model) or dense_plan(self.model)

    @contextmanager
    def _stage(self, name: str, samples: int) -> Iterator[None]:
        """Keep the time of a stage."""
        started = time.monotonic()
        yield
        self.history[name] = {"seconds": round(time.monotonic() - started, 3), "samples": samples}

    # ---- The method --------------------------------------------------------------------------------------------------

    def apply(self) -> None:
        """Calibrate, correct, train if asked for, make the integers; the model then runs by a plan that names them."""
        if self.method.smooth is not None:
            self._smooth(self.method.smooth)
        seen = self._watched("calibration")
        grids = self._grids()
        if self.method.correct:
            self._correct(seen, grids)
        layers = self._layers(seen)
        if self.method.qat_epochs > 0:
            self._train(layers, grids)
            if (
                self.method.inputs == "token"
            ):  # the grids in the plan are not those it was trained with: look again
                layers = self._layers(self._watched("calibration-again", _rounding(grids)))
        with self._stage("integers", 0):
            self._put(layers, grids)
        self._tell()

    def _watched(
        self, stage: str, linear: Linear = call, largest: bool = False
    ) -> dict[tuple[int, str], Seen]:
        """What the products read of the calibration rows."""
        show = self.progress
        with self._stage(stage, len(self.rows)):
            return watched(
                self.model, self.feed, self.rows, RANGES[self.method.range], largest=largest, linear=linear,
                progress=None if show is None else (lambda done, total: show(stage, done, total, {})),
            )  # fmt: skip

    @torch.no_grad()
    def _smooth(self, alpha: float) -> None:
        """Divide what norms give by SmoothQuant's factors, and multiply the weights that read it: the same function."""
        seen = self._watched("smoothing", largest=True)
        for index, product, modules in products_of(self.stack):
            if product not in NORMS:
                continue
            norm = self.stack.blocks[index].part(NORMS[product])
            largest = seen[index, product].largest.largest().to(norm.weight.device)
            factors = smoothing(largest, [module.weight for module in modules.values()], alpha)
            weight, bias = divided(norm.weight, norm.bias, factors)
            norm.weight.copy_(weight)
            norm.bias.copy_(bias)
            for module in modules.values():
                module.weight.copy_(smoothed(module.weight, factors))

    def _grids(self) -> dict[int, Grid]:
        """The grid of every product's weights, by module."""
        clip, found = CLIPS[self.method.clip], dict[int, Grid]()
        with self._stage("weights", 0):
            for _, _, modules in products_of(self.stack):
                found |= {
                    id(module): fit(module.weight, weight_form(BITS), clip) for module in modules.values()
                }
        return found

    @torch.no_grad()
    def _correct(self, seen: dict[tuple[int, str], Seen], grids: dict[int, Grid]) -> None:
        """Move what rounded weights change in the mean outputs into the biases."""
        for index, product, modules in products_of(self.stack):
            for role, module in modules.items():
                if module.bias is None:
                    continue
                mean = seen[index, product].means[role].mean().to(module.weight.device)
                rounded = fake_quantize(module.weight, grids[id(module)])
                module.bias.copy_(corrected_bias(module.weight, rounded, module.bias, mean))

    def _layers(self, seen: dict[tuple[int, str], Seen]) -> tuple[LayerPlan, ...]:
        """The layers as they are, their products with the formats that calibration gives."""
        method, formats = RANGES[self.method.range], [dict[Any, Format]() for _ in self.stack.left]
        for (index, product), one in seen.items():
            grid = grid_between(*method.bounds(one.range, INPUT), INPUT)
            kind: Any = self.method.inputs
            formats[index][product] = Format(BITS, kind, float(grid.scale), int(grid.zero))
        return tuple(replace(left, formats=one) for left, one in zip(self.stack.left, formats, strict=True))

    @torch.no_grad()
    def _put(self, layers: Sequence[LayerPlan], grids: dict[int, Grid]) -> None:
        """Integers in place of floats, and the plan that says so."""
        for _, _, modules in products_of(self.stack):
            for module in modules.values():
                grid = grids[id(module)]
                put(module, quantize(module.weight, grid), grid.scale)
        words = None if self.method.embeddings == "none" else words_of(self.model)
        if words is not None:
            grid = fit(words.weight, weight_form(BITS))
            put(words, quantize(words.weight, grid), grid.scale)
        lift(self.model, replace(self.plan, layers=tuple(layers), embeddings=None if words is None else BITS))

    def _tell(self) -> None:
        """Note what is in integers now, in words."""
        layers = self.plan.layers
        count = sum(len(left.formats) for left in layers)
        how = "token by token" if self.method.inputs == "token" else "on one grid each"
        words = (
            "" if self.plan.embeddings is None else f"; the words' embeddings in {self.plan.embeddings} bits"
        )
        self.notes += (
            f"In integers of {BITS} bits: {count} of {len(PRODUCTS) * len(layers)} products, inputs rounded {how}{words}.",
        )

    # ---- Training, if asked for --------------------------------------------------------------------------------------

    @property
    def _training(self) -> Settings:
        """In float32: inputs and weights of eight bits would be rounded once more in bfloat16."""
        return replace(self.settings, epochs=self.method.qat_epochs, lr=self.method.qat_lr, precision="fp32")

    def _student(self) -> Student:
        return Student(self.model, self.teacher, Distillation(self.method.distill), dropout=False)

    @contextmanager
    def _rounded(self, layers: Sequence[LayerPlan], grids: dict[int, Grid]) -> Iterator[None]:
        """Inside the block the model answers as it will in integers; its weights stay floats underneath."""
        stack = self.stack
        before, stack.left = stack.left, tuple(layers)
        try:
            with applied_by(stack, _rounding(grids)):
                yield
        finally:
            stack.left = before

    def _train(self, layers: Sequence[LayerPlan], grids: dict[int, Grid]) -> None:
        """Learn from the dense model with rounded weights and inputs; the grids stand still."""
        show = self.progress
        with self._rounded(layers, grids):
            history = train(
                self._student(),
                self.feed.batches(self.settings.batch_tokens, self.settings.seed),
                self.feed.collate,
                self._training,
                checkpoints=None if self.work is None else self.work / "qat",
                identity=self.identity,
                progress=None if show is None else (lambda s, t, logs: show("qat", s, t, logs)),
            )
        self.history["qat"] = history.record(self.method.qat_epochs, self.method.qat_lr)

    def timed(self, steps: int) -> list[Timed]:
        """A few batches of each stage on the clock, on a copy."""
        trial = copy.copy(self)
        trial.model, trial.history, trial.notes, trial.progress = copy.deepcopy(self.model), {}, (), None
        trial.rows = self.rows[: max(1, min(len(self.rows), 32 * steps))]
        trial.method = replace(self.method, qat_epochs=0.0)
        found: list[Timed] = []
        if self.method.qat_epochs > 0:
            layers, grids = trial._layers(trial._watched("calibration")), trial._grids()
            batches, settings = (
                self.feed.batches(self.settings.batch_tokens, self.settings.seed),
                self._training,
            )
            with trial._rounded(layers, grids):
                history = train(trial._student(), batches, self.feed.collate, settings, stop_after=steps)
            count = len(batches(0)) * settings.epochs
            found.append(Timed("qat", history.seconds / max(history.steps, 1), count, settings))
        trial.apply()
        for stage, facts in trial.history.items():
            rows = int(facts["samples"])
            found.append(Timed(stage, facts["seconds"] / max(rows, 1), len(self.rows) if rows else 1, None))
        return found


def _rounding(grids: dict[int, Grid]) -> Linear:
    """The ``linear`` seam with weights on their grids."""

    def linear(module: nn.Module, x: Float[Tensor, "t i"]) -> Float[Tensor, "t o"]:
        grid = grids.get(id(module))
        if grid is None:
            return call(module, x)
        layer: Any = module
        return F.linear(x, fake_quantize(layer.weight, grid), layer.bias)

    return linear
