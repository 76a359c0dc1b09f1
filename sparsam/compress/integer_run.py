"""int8 applied to one model: calibration, biases, training if asked for, integers. The mathematics is in ``quantization``."""

import copy
import hashlib
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sparsam.compress.calibration import TOKENS, Seen, applied_by, products_of, rounding_to, watched
from sparsam.compress.evaluation import Progress
from sparsam.compress.mixed_run import ROWS, WIDTHS, bytes_at, losses_of
from sparsam.compress.mixed_time import TimeLimit
from sparsam.compress.opening import Opened, weight_bytes
from sparsam.compress.timed import Timed
from sparsam.cost import Budget
from sparsam.errors import Refused, Usage
from sparsam.models import dense_plan, lift, plan_of, stack_of
from sparsam.models.digest import weights_digest
from sparsam.models.encoder import Linear, Stack, call
from sparsam.models.formats import ROLES, words_of
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
from sparsam.quantization.int8 import MIXED, RANGES, SAMPLES, Int8
from sparsam.quantization.mixed import Width, assign, bit_operations, worth_asking
from sparsam.structure.knapsack import choose_within
from sparsam.training.feed import Feed, by_length, matched_rows
from sparsam.training.loop import Settings, compute_device, train
from sparsam.training.tokens import Distillation, Student

WORDS = 8
"""Bits of the words' embeddings."""

TRIES = 4
"""Choices that are timed; what a limit of time leaves for floats is halved from one to the next."""

NORMS = {"qkv": "attention_norm", "up": "ffn_norm"}
"""The norms that give these products, and nothing else, their inputs where norms stand in front of each half."""


class IntegerRun:
    """int8 on one model, from calibration rows to integers.

    Args:
        opened: the model; it is changed in place.
        taught: the dense model, which training learns from.
        feed: training rows; labels are read by training alone.
        wanted: lengths of the inputs in use.
        method, budget, settings: what to do; a budget is checked after reload, and only mixed widths depend on it: on its
            ``bytes``, relative to the dense model.
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
        clocks: Sequence[TimeLimit] = (),
    ) -> None:
        self.clocks = tuple(clocks)
        self.model, self.teacher, self.feed, self.method = opened.model, taught.model, feed, method
        self.settings, self.work, self.progress, self.budget = settings, work, progress, budget
        for one in (self.model, self.teacher):
            one.to(compute_device()).eval()
        self._check()
        self.rows = self.calibration_rows = self._rows(wanted)
        self.widths: dict[tuple[int, str], Width] = {}
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
        check_limits(self.method, self.budget)
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
        self.widths = self._widths(seen)
        grids = self._grids()
        if self.method.correct:
            self._correct(seen, grids)
        layers = self._layers(seen)
        if self.method.qat_epochs > 0:
            self._train(layers, grids)
            if (
                self.method.inputs == "token"
            ):  # the grids in the plan are not those it was trained with: look again
                layers = self._layers(self._watched("calibration-again", rounding_to(grids)))
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

    def _widths(self, seen: dict[tuple[int, str], Seen]) -> dict[tuple[int, str], Width]:
        """Bits of every product: the method's own, or what loses least within the budget."""
        products = {(index, product): list(m.values()) for index, product, m in products_of(self.stack)}
        if self.method.bits != MIXED:
            return dict.fromkeys(products, self.method.widest)
        costs, budgets = [], []
        if self.budget.bytes is not None:
            costs.append([[bytes_at(modules, bits) for bits in WIDTHS] for modules in products.values()])
            budgets.append(self._bytes_left(self.budget.bytes, sum(row[-1] for row in costs[0])))
        if self.method.bitops is not None:
            work = [_macs(seen[key], dict(self._modules(*key))) for key in products]
            costs.append([[bit_operations(macs, bits) for bits in WIDTHS] for macs in work])
            budgets.append(self.method.bitops * sum(bit_operations(macs, WORDS) for macs in work))
        self._check_least(costs, budgets)
        counted = len(budgets)
        for clock in self.clocks:
            budgets.append(clock.left(self.model))
            extra = clock.costs(self.model, _shares(seen, len(self.stack.left)))
            costs.append(
                [
                    [max(0.0, extra.get(key, 0.0)) if bits is None else 0.0 for bits in WIDTHS]
                    for key in products
                ]
            )
        asked = sorted({at for block in zip(*costs, strict=True) for at in worth_asking(block)})
        widths = [WIDTHS[at] for at in asked]
        costs = [[[row[at] for at in asked] for row in table] for table in costs]
        rows, show = self.rows[:ROWS], self.progress
        device = next(self.model.parameters()).device
        batches = [
            {name: x.to(device) for name, x in self.feed.collate(rows[group]).items()}
            for group in by_length(self.feed.lengths[rows], TOKENS)
        ]
        kind = self.method.sensitivity or "kl"
        with self._stage("sensitivity", len(rows)):
            losses = losses_of(
                self.model, batches, kind, widths, self.method.ends, self.settings.seed,
                None if show is None else (lambda done, total: show("sensitivity", done, total, {})),
            )  # fmt: skip
        for _ in range(TRIES):
            chosen = assign([losses[key] for key in products], costs, budgets, choose_within)
            found = {key: widths[at] for key, at in zip(products, chosen, strict=True)}
            own = {key for key, bits in found.items() if bits is not None}
            late = [clock.of(self.model, own)[0] > clock.share for clock in self.clocks]
            if not any(late):
                return found
            budgets[counted:] = [x / 2 if y else x for x, y in zip(budgets[counted:], late, strict=True)]
        budgets[counted:] = [0.0] * len(self.clocks)
        chosen = assign([losses[key] for key in products], costs, budgets, choose_within)
        return {key: widths[at] for key, at in zip(products, chosen, strict=True)}

    def _modules(self, layer: int, product: str) -> list[tuple[str, Any]]:
        return [(role, self.stack.blocks[layer].part(role)) for role in ROLES[product]]

    def _bytes_left(self, share: float, products: float) -> float:
        """What the budget leaves for the products' weights: embeddings, norms, biases and head take theirs."""
        words = None if self.method.embeddings == "none" else words_of(self.model)
        saved = 0 if words is None else words.weight.numel() * 3 - 4 * words.weight.shape[0]
        return share * weight_bytes(self.teacher) - (weight_bytes(self.model) - products - saved)

    def _check_least(self, costs: Sequence[Sequence[Sequence[float]]], budgets: Sequence[float]) -> None:
        """Refuse in words of the budget what two bits for everything do not keep.

        Raises:
            Refused: ``budget-unreachable``.
        """
        names = [] if self.budget.bytes is None else [(f"bytes={self.budget.bytes:.3g}x", "bytes")]
        if self.method.bitops is not None:
            names.append((f"bitops={self.method.bitops:.3g}", "bit operations"))
        for (name, what), table, budget in zip(names, costs, budgets, strict=True):
            least = sum(min(row) for row in table)
            if least > budget:
                raise Refused(
                    f"{name} cannot be reached by bits alone: it leaves {max(0.0, budget):.4g} {what} for the products' "
                    f"weights, which take {least:.4g} at the fewest bits. Allow more, or leave out heads and filters first "
                    "(ftpp+int8).",
                    code="budget-unreachable",
                )

    def _grids(self) -> dict[int, Grid]:
        """The grid of the weights of every product that is to be in integers, by module."""
        found = dict[int, Grid]()
        with self._stage("weights", 0):
            for index, product, modules in products_of(self.stack):
                bits = self.widths[index, product]
                if bits is not None:
                    form, ends = weight_form(bits), self.method.ends(bits)
                    found |= {id(module): fit(module.weight, form, ends) for module in modules.values()}
        return found

    @torch.no_grad()
    def _correct(self, seen: dict[tuple[int, str], Seen], grids: dict[int, Grid]) -> None:
        """Move what rounded weights change in the mean outputs into the biases."""
        for index, product, modules in products_of(self.stack):
            for role, module in modules.items():
                if module.bias is None or id(module) not in grids:
                    continue
                mean = seen[index, product].means[role].mean().to(module.weight.device)
                rounded = fake_quantize(module.weight, grids[id(module)])
                module.bias.copy_(corrected_bias(module.weight, rounded, module.bias, mean))

    def _layers(self, seen: dict[tuple[int, str], Seen]) -> tuple[LayerPlan, ...]:
        """The layers as they are, their products with the formats that calibration gives."""
        method, formats = RANGES[self.method.range], [dict[Any, Format]() for _ in self.stack.left]
        for (index, product), one in seen.items():
            bits = self.widths[index, product]
            if bits is None:
                continue
            grid = grid_between(*method.bounds(one.range, INPUT), INPUT)
            kind: Any = self.method.inputs
            formats[index][product] = Format(bits, kind, float(grid.scale), int(grid.zero))
        return tuple(replace(left, formats=one) for left, one in zip(self.stack.left, formats, strict=True))

    @torch.no_grad()
    def _put(self, layers: Sequence[LayerPlan], grids: dict[int, Grid]) -> None:
        """Integers in place of floats, and the plan that says so."""
        for _, _, modules in products_of(self.stack):
            for module in modules.values():
                grid = grids.get(id(module))
                if grid is None:
                    continue
                put(module, quantize(module.weight, grid), grid.scale)
        words = None if self.method.embeddings == "none" else words_of(self.model)
        if words is not None:
            grid = fit(words.weight, weight_form(WORDS))
            put(words, quantize(words.weight, grid), grid.scale)
        lift(
            self.model, replace(self.plan, layers=tuple(layers), embeddings=None if words is None else WORDS)
        )

    def _tell(self) -> None:
        """Note what is in integers now, in words."""
        layers = self.plan.layers
        used = Counter(form.bits for left in layers for form in left.formats.values())
        count = sum(used.values())
        of_bits = " and ".join(
            f"{bits} ({n})" if len(used) > 1 else str(bits) for bits, n in sorted(used.items())
        )
        how = "token by token" if self.method.inputs == "token" else "on one grid each"
        words = (
            "" if self.plan.embeddings is None else f"; the words' embeddings in {self.plan.embeddings} bits"
        )
        self.notes += (
            f"In integers of {of_bits or 'no'} bits: {count} of {len(PRODUCTS) * len(layers)} products, inputs rounded "
            f"{how}{words}.",
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
            with applied_by(stack, rounding_to(grids)):
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
            seen = trial._watched("calibration")
            trial.widths = trial._widths(seen)
            layers, grids = trial._layers(seen), trial._grids()
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


def check_limits(method: Int8, budget: Budget, alone: bool = True) -> None:
    """Mixed widths need something that limits them; time does where no heads, filters or tokens are chosen by it, too.

    Raises:
        Usage: ``mixed-budget``.
    """
    timed = alone and budget.timed
    if method.bits == MIXED and method.bitops is None and not budget.names("bytes") and not timed:
        raise Usage(
            "mixed bits are chosen within a budget; none is given for them. Give one of size, --budget bytes=0.2x, or of bit "
            "operations relative to eight bits, --bitops 0.6; where nothing else is left out one of time will do, too, "
            "--budget throughput=1.3x.",
            code="mixed-budget",
        )


def _shares(seen: dict[tuple[int, str], Seen], layers: int) -> list[tuple[float, float]]:
    """For each layer the share of all tokens that its first half reads, and its second."""

    def count(layer: int, product: str, role: str) -> float:
        one = seen.get((layer, product))
        return 0.0 if one is None else float(one.means[role].count)

    whole = max((count(layer, "qkv", "k") for layer in range(layers)), default=0.0) or 1.0
    found, left = [], 1.0
    for layer in range(layers):
        before = count(layer, "qkv", "k") / whole or left
        left = count(layer, "up", "up") / whole or count(layer, "o", "o") / whole or before
        found.append((before, left))
    return found


def _macs(seen: Seen, modules: dict[str, Any]) -> float:
    """Multiply-accumulates of a product on the calibration rows, by what its modules read."""
    return float(sum(module.weight.numel() * seen.means[role].count for role, module in modules.items()))
