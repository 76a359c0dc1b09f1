"""FTPP applied to one model: calibration rows, gradients, search, cut, reconstruction. The mathematics is in ``structure``."""

import copy
import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from sparsam.compress.evaluation import Progress
from sparsam.compress.opening import Opened
from sparsam.compress.reconstruction import Reconstruction, reconstruct
from sparsam.compress.timed import Timed
from sparsam.cost import Budget, Shape, layer_cost
from sparsam.errors import Refused, Usage
from sparsam.models import head_alone, stack_of
from sparsam.models.apply import cut, units_of
from sparsam.models.count import dense_shapes_of, shapes_of
from sparsam.models.digest import weights_digest
from sparsam.models.encoder import Kept
from sparsam.models.walk import embedded
from sparsam.plan import LayerPlan
from sparsam.structure import FTPP
from sparsam.structure.ftpp import (
    SAMPLES,
    Prices,
    Scores,
    batch_means,
    fisher,
    offered,
    rearranged,
    search,
    to_plans,
)
from sparsam.structure.mask import HALVES, Gates
from sparsam.training.feed import Feed, by_length, matched_rows
from sparsam.training.loop import Settings, compute_device, precision_here, train
from sparsam.training.tokens import Distillation, Student

TOKENS = 2048
"""Real tokens a batch of calibration. Chosen by us: large enough for the products, small enough for the caches."""

TUNING_TOKENS = 24
"""Tokens that outputs are reproduced on, at most, for each input of the widest output product. Chosen by us on SST-2: with half
of them the divergence from the dense model is a tenth larger, with twice as many a twentieth smaller."""

Keep = list[tuple[NDArray[np.bool_], NDArray[np.bool_]]]
Within = Prices | Sequence[Prices]
"""Prices of one limit, or of several that are all kept."""

Lengths = NDArray[np.int64]
Living = tuple[list[Lengths], list[Lengths], Lengths]
"""Tokens alive at each layer's attention and feed-forward part, (b,) each, and those each sequence starts with."""


class StructureRun:
    """FTPP on one model, from scores to a smaller model.

    Args:
        opened: the model; it is changed in place.
        taught: the dense model, which recovery learns from.
        feed: training rows; labels are read unless the method samples them.
        wanted: lengths of the inputs in use, which cost is counted on.
        method, budget, settings: what to do.
        work: folder for recovery's checkpoints.
        progress: told of every stage.
    """

    def __init__(
        self,
        opened: Opened,
        taught: Opened,
        feed: Feed,
        wanted: NDArray[np.int64],
        method: FTPP,
        budget: Budget,
        settings: Settings,
        work: Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.model, self.teacher, self.feed, self.method = opened.model, taught.model, feed, method
        self.settings, self.work, self.progress, self.wanted = settings, work, progress, wanted
        for one in (self.model, self.teacher):
            one.to(compute_device()).eval()
        self.target = budget.macs
        self.rows = self.calibration_rows = self._rows()
        self.history: dict[str, dict[str, float]] = {}
        self.notes: tuple[str, ...] = ()
        self.reconstructions: list[Reconstruction] = []
        self.identity = {
            "method": [type(method).__name__, asdict(method)],
            "target": self.target,
            "model": weights_digest(self.model),
            "teacher": weights_digest(self.teacher),
            "rows": hashlib.sha256(np.concatenate([self.rows, feed.lengths]).tobytes()).hexdigest(),
        }

    # ---- What is looked at -------------------------------------------------------------------------------------------

    def _rows(self) -> NDArray[np.int64]:
        """The calibration rows: as many as asked for, as long as the inputs in use."""
        asked, there = self.method.samples, len(self.feed)
        if asked is not None and asked > there:
            raise Refused(
                f"{asked:,} calibration samples were asked for; the training split has {there:,}. Ask for fewer (--samples).",
                code="too-few-rows",
            )
        if there < 2:
            raise Refused(
                f"the training split has {there} rows; calibration wants at least 2.", code="too-few-rows"
            )
        rows = matched_rows(self.feed.lengths, self.wanted, min(asked or SAMPLES, there), self.settings.seed)
        labels = np.unique(self.feed.split.labels[rows])
        if self.method.labels == "data" and len(labels) == 1 and self.method.score == "fisher":
            raise Refused(
                f"all {len(rows):,} calibration rows have the label {labels[0]}: gradients would know one class alone. Take "
                "more rows (--samples), or sample labels from the model (--labels sampled).",
                code="one-class",
            )
        return rows

    def _batches(self, rows: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], dict[str, Tensor]]]:
        """Rows by length, about :data:`TOKENS` real tokens at a time."""
        device = next(self.model.parameters()).device
        for group in by_length(self.feed.lengths[rows], TOKENS):
            part = rows[group]
            yield part, {name: x.to(device) for name, x in self.feed.collate(part).items()}

    @contextmanager
    def _stage(self, name: str, samples: int) -> Iterator[None]:
        """Keep the time of a stage."""
        started = time.monotonic()
        yield
        seconds = round(time.monotonic() - started, 3)
        self.history[name] = {"seconds": seconds, "samples": samples}

    def _show(self, stage: str, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(stage, done, total, {})

    @property
    def _autocast(self) -> Any:
        device = next(self.model.parameters()).device
        bf16 = precision_here(self.settings, device) == "bf16"
        return torch.autocast(device.type, torch.bfloat16, enabled=bf16)

    # ---- The method, in the paper's order ----------------------------------------------------------------------------

    def apply(self, prices: Within | None = None, scores: Scores | None = None) -> list[LayerPlan]:
        """Prune to the budget, or within given prices (and by given scores); what was kept of the layers as they were.

        Raises:
            Usage: ``structure-target`` where nothing says how much.
        """
        if prices is None and self.target is None:
            raise Usage(
                "FTPP needs to know how much may stay, such as --budget macs=0.6x.", code="structure-target"
            )
        scores, given = scores or self.scores(), prices or self.macs_prices(self.target or 1.0)
        plans = self.plans(given, scores)
        self.prune(plans, self._reference(scores))
        self.recover()
        return plans

    def plans(self, given: Within, scores: Scores | None = None) -> list[LayerPlan]:
        """What is to be kept within prices; the model is not changed."""
        return to_plans(self.kept(scores or self.scores(), given))

    def prune(self, plans: list[LayerPlan], reference: Any = None) -> None:
        """Cut, and reproduce what a reference gives: the model as it came, if absent. Nothing is trained."""
        reference = copy.deepcopy(self.model) if reference is None else reference
        cut(self.model, plans)
        self.tune(reference)

    def kept(self, scores: Scores, prices: Within) -> Keep:
        """Search, and rearrangement."""
        keep = search(scores, prices)
        return rearranged(scores, keep) if self.method.rearrange else keep

    def scores(self) -> Scores:
        """What every head and filter is worth."""
        kind = self.method.score
        if kind == "fisher":
            return self._fisher()
        if kind == "magnitude":
            return _magnitude(self.model)
        generator = np.random.default_rng([self.settings.seed, 7])
        heads, filters = zip(*units_of(self.model), strict=True)
        return Scores(
            tuple(generator.random(count) for count in heads),
            tuple(generator.random(count) for count in filters),
        )

    def _fisher(self) -> Scores:
        """The Fisher information of a gate on every unit, exact for each sample."""
        sampled = self.method.labels == "sampled"
        if sampled:
            self.notes += (
                "Labels were sampled from the model's own answers; the data's were not looked at.",
            )
        generator = torch.Generator().manual_seed(self.settings.seed)
        stack, units = stack_of(self.model), units_of(self.model)
        heads, filters = zip(*units, strict=True)
        found: dict[str, list[NDArray[np.float32]]] = {
            half: [np.empty((len(self.rows), count), np.float32) for count in counts]
            for half, counts in zip(HALVES, (heads, filters), strict=True)
        }
        done = 0
        with self._stage("gradients", len(self.rows)), _frozen_weights(self.model):
            for part, batch in self._batches(self.rows):
                gates = Gates.ones(heads, filters, len(part), next(self.model.parameters()).device)
                labels = batch.pop("labels")
                with head_alone(self.model), stack.gated(gates), self._autocast:
                    logits = self.model(**batch).logits.float()
                _loss(logits, _drawn(logits, generator) if sampled else labels).backward()
                for half, kept in found.items():
                    for layer, gradient in zip(kept, gates.gradients(half), strict=True):
                        layer[done : done + len(part)] = gradient.cpu().numpy()
                done += len(part)
                self._show("gradients", done, len(self.rows))
        if self.method.variant == "released":
            order = np.random.default_rng([self.settings.seed, 5]).permutation(len(self.rows))
            found = {half: [batch_means(x, order) for x in kept] for half, kept in found.items()}
        return fisher(found["attention"], found["ffn"])

    def macs_prices(self, ratio: float, living: Living | None = None) -> Prices:
        """Multiply-accumulates of every number of heads and filters, over the lengths in use; a rule's survivors counted.

        Those of the model's own rule, or ``living`` of one that it does not have yet.
        """
        stack = stack_of(self.model)
        shapes, dense_shapes = shapes_of(stack), dense_shapes_of(self.model, stack)
        if living is not None:
            shapes = [replace(shape, scored=at < len(shapes) - 1) for at, shape in enumerate(shapes)]
        attention, ffn, lengths = living or self._living()
        dense = sum(layer_cost(_unscored(shape), lengths, lengths).macs for shape in dense_shapes)
        head = [
            layer_cost(_with(shape, heads=1, filters=0), n, m).macs
            for shape, n, m in zip(shapes, attention, ffn, strict=True)
        ]
        filter_ = [
            layer_cost(_with(shape, heads=0, filters=1), n, m).macs
            for shape, n, m in zip(shapes, attention, ffn, strict=True)
        ]
        budget = int(ratio * dense)
        multiple = self.method.multiple
        same = len(set(head)) == len(set(filter_)) == 1 and multiple == 1
        tables = []
        for units, each, step in (
            ([shape.heads for shape in shapes], head, 1),
            ([shape.filters for shape in shapes], filter_, multiple),
        ):
            numbers = [offered(count, step) for count in units]
            tables.append(
                tuple((n, n.astype(np.float64) * one) for n, one in zip(numbers, each, strict=True))
            )
        return Prices(
            tables[0], tables[1], float(budget), uniform=(head[0], filter_[0], budget) if same else None
        )

    def living_at(self, attention: Sequence[float], ffn: Sequence[float]) -> Living | None:
        """The lengths in use, with these shares of their tokens alive in each layer; None where all of them are."""
        if min(*attention, *ffn) >= 1:
            return None
        both = [
            [np.maximum(1, np.rint(share * self.wanted)).astype(np.int64) for share in kind]
            for kind in (attention, ffn)
        ]
        return both[0], both[1], self.wanted

    def _living(self) -> Living:
        stack = stack_of(self.model)
        layers = len(stack.left)
        if stack.rule is None:
            return [self.wanted] * layers, [self.wanted] * layers, self.wanted
        found = Kept()
        with torch.no_grad():
            for _, batch in self._batches(self.rows[: min(len(self.rows), 512)]):
                batch.pop("labels")
                with stack.recording() as kept:
                    self.model(**batch)
                found.attention.append(torch.stack(kept.attention, 1))
                found.ffn.append(torch.stack(kept.ffn, 1))
        attention, ffn = (torch.cat(x).cpu().numpy().T for x in (found.attention, found.ffn))
        return list(attention), list(ffn), attention[0]

    # ---- Making up for what is gone ----------------------------------------------------------------------------------

    def _reference(self, scores: Scores) -> Any:
        """The model whose outputs are reproduced: the one that came; for the released code one pruned at the budget's root."""
        larger = copy.deepcopy(self.model)
        if self.method.variant == "released" and self.target is not None:
            cut(larger, to_plans(search(scores, self.macs_prices(self.target**0.5))))
        return larger

    def tune(self, reference: Any) -> None:
        """Reproduce the reference's outputs half by half, from the first layer on, with what the halves before now give."""
        if self.method.tune == "none":
            return
        order = np.random.default_rng([self.settings.seed, 11]).permutation(self.rows)
        blocks = stack_of(reference).blocks
        widest = max(int(block.part(role).weight.shape[1]) for block in blocks for role in ("o", "down"))
        enough = np.cumsum(self.feed.lengths[order]) <= TUNING_TOKENS * widest
        rows = order[: max(1, int(enough.sum()))]
        with self._stage("tuning", len(rows)), torch.no_grad(), _without_rule(self.model, reference):
            with self._autocast:
                states = [embedded(self.teacher, batch) for _, batch in self._batches(rows)]
            show = lambda done, total: self._show("tuning", done, total)  # noqa: E731
            with self._autocast:
                self.reconstructions = reconstruct(self.model, reference, states, self.method, show)

    def trial(self, samples: int) -> "StructureRun":
        """The same run on a copy of the model, and on fewer calibration rows."""
        made = copy.copy(self)
        made.model = copy.deepcopy(self.model)
        made.rows = np.random.default_rng([self.settings.seed, 13]).permutation(self.rows)[:samples]
        made.progress, made.history = None, {}
        return made

    @cached_property
    def held_out(self) -> list[dict[str, Tensor]]:
        """Batches of rows that calibration does not look at, as long as the inputs in use; of its own where there are few."""
        others = np.setdiff1d(np.arange(len(self.feed)), self.rows)
        if len(others) < 64:
            others = self.rows
        lengths = self.feed.lengths[others]
        rows = others[matched_rows(lengths, self.wanted, min(256, len(others)), self.settings.seed)]
        return [batch for _, batch in self._batches(rows)]

    def timed(self, steps: int) -> list[Timed]:
        """A few batches of each stage on the clock, on copies."""
        rows = self.rows[np.argsort(self.feed.lengths[self.rows], kind="stable")]
        middle = len(rows) // 2
        few = rows[max(0, middle - 32 * steps) : middle + 32 * steps]
        trial = self.trial(len(few))
        trial.rows, trial.method = few, replace(self.method, recover_epochs=0.0)
        trial.apply()
        found = [
            Timed(stage, facts["seconds"] / len(few), len(self.rows), None)
            for stage, facts in trial.history.items()
        ]
        if self.method.recover_epochs > 0:
            trainee = Student(trial.model, self.teacher, Distillation(self.method.distill), dropout=False)
            batches = self.feed.batches(self.settings.batch_tokens, self.settings.seed)
            settings = self._recovery
            history = train(trainee, batches, self.feed.collate, settings, stop_after=steps)
            count = len(batches(0)) * settings.epochs
            found.append(Timed("recover", history.seconds / max(history.steps, 1), count, settings))
        return found

    # ---- Training, if asked for --------------------------------------------------------------------------------------

    @property
    def _recovery(self) -> Settings:
        return replace(self.settings, epochs=self.method.recover_epochs, lr=self.method.recover_lr)

    def recover(self) -> None:
        """Learn from the dense model for some epochs, with what is left; the token rule stays as it is."""
        method = self.method
        if method.recover_epochs <= 0:
            return
        trainee = Student(self.model, self.teacher, Distillation(method.distill), dropout=False)
        show = self.progress
        history = train(
            trainee,
            self.feed.batches(self.settings.batch_tokens, self.settings.seed),
            self.feed.collate,
            self._recovery,
            checkpoints=None if self.work is None else self.work / "recover",
            identity=self.identity,
            progress=None if show is None else (lambda s, t, logs: show("recover", s, t, logs)),
        )
        self.history["recover"] = history.record(method.recover_epochs, method.recover_lr)


def _magnitude(model: Any) -> Scores:
    """Mean square of all weights that leave with a unit."""
    heads, filters = [], []
    for block, (count, _) in zip(stack_of(model).blocks, units_of(model), strict=True):
        weights = {
            role: block.part(role).weight.detach().double().cpu()
            for role in ("q", "k", "v", "o", "up", "down")
        }
        rows = sum(weights[role].square().mean(1) for role in ("q", "k", "v")) + weights["o"].square().mean(0)
        heads.append((rows.unflatten(0, (count, -1)).mean(1) / 4).numpy())
        filters.append(((weights["up"].square().mean(1) + weights["down"].square().mean(0)) / 2).numpy())
    return Scores(tuple(heads), tuple(filters))


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The task's loss, summed over samples."""
    if logits.shape[1] == 1:
        return F.mse_loss(logits[:, 0], labels.float(), reduction="sum")
    return F.cross_entropy(logits, labels, reduction="sum")


def _drawn(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Labels as the model itself would give them: drawn from its answers, with unit variance about a number."""
    own = logits.detach().cpu()
    if own.shape[1] == 1:
        return (own[:, 0] + torch.randn(len(own), generator=generator)).to(logits.device)
    return torch.multinomial(own.softmax(1), 1, generator=generator)[:, 0].to(logits.device)


def _with(shape: Shape, *, heads: int, filters: int) -> Shape:
    return replace(shape, heads=heads, filters=filters)


def _unscored(shape: Shape) -> Shape:
    return replace(shape, scored=False)


@contextmanager
def _frozen_weights(model: Any) -> Iterator[None]:
    """No gradients for the weights: half of the work of a backward pass."""
    wanted = [p for p in model.parameters() if p.requires_grad]
    for p in wanted:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in wanted:
            p.requires_grad_(True)


@contextmanager
def _without_rule(*models: Any) -> Iterator[None]:
    """Every token goes through every layer: outputs are reproduced for all of them."""
    with ExitStack() as stacks:
        for model in models:
            stacks.enter_context(stack_of(model).using(None))
        yield
