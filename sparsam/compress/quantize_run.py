"""``sparsam quantize``: one scheme on the weights of a model's products, saved, reloaded, and put beside the dense model.

    open ─ calibrate ─ scheme, product by product ─ save ─ reload ─ errors by layer, evaluation

Where a scheme's weights are integers and inputs are rounded, too, the folder has a plan and the int8 runtime multiplies them.
Everything else is saved as an ordinary dense checkpoint whose weights happen to lie on few levels: simulated. Which of the two
it is stands in the result, in the saved facts and in what the command prints.
"""

import copy
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from sparsam import artifact
from sparsam.compress.calibration import Seen, applied_by, grouped, products_of, watched
from sparsam.compress.debug import Debugged, layer_by_layer
from sparsam.compress.evaluation import Evaluation, Progress, evaluate
from sparsam.compress.ibert_run import IntegerOnlyMethod, integer_only
from sparsam.compress.mixed_run import bytes_at
from sparsam.compress.opening import (
    Opened,
    data_record,
    feed_of,
    open_model,
    rows_record,
    split_of,
    weight_bytes,
)
from sparsam.compress.start import removes_tokens
from sparsam.compress.token_run import lengths_of_use
from sparsam.errors import Refused, Usage
from sparsam.measure import Measurement, machine_facts, paired_difference
from sparsam.models import dense_plan, head_alone, lift, plan_of, stack_of
from sparsam.models.digest import weights_digest
from sparsam.models.encoder import call
from sparsam.models.formats import refuse_integers, words_of
from sparsam.models.integer_only import left_in_floats
from sparsam.models.integers import put
from sparsam.plan import Format, Plan
from sparsam.quantization import INPUT, Hessian, corrected_bias, fit, grid_between, quantize, weight_form
from sparsam.quantization.int8 import RANGES, SAMPLES
from sparsam.quantization.schemes import Made, Scheme, scheme_named
from sparsam.task import Task, held_out
from sparsam.training.feed import Feed, matched_rows
from sparsam.training.loop import Settings, compute_device, on_main_process

ROWS = 256
"""Rows on which errors are looked at. Chosen by us."""

INPUTS = ("none", "token", "tensor")
WORDS = 8


@dataclass(frozen=True)
class Asked:
    """What is wanted of a scheme.

    Args:
        scheme: one of :data:`~sparsam.quantization.schemes.SCHEMES`.
        bits: of the weights of all products.
        group: inputs that share a scale; the scheme's own if None.
        inputs: of a product in integers: ``token`` rounds each token on a grid of its own, ``tensor`` all on one that
            calibration gave; ``none`` leaves them and multiplies in floating point. If None ``token`` where the scheme gives
            integers, else ``none``.
        range: where the calibrated grid of inputs ends, one of :data:`~sparsam.quantization.int8.RANGES`; if None ``mse``, for
            an encoder in integers alone ``percentile``.
        samples: calibration rows; 512, or as many as there are, if None.
        correct: move what rounded weights change in the mean outputs into the biases.
        embeddings: ``8`` bits for the words' embeddings where products are in integers, or ``none``.
        seed: draws calibration rows, and those that errors are looked at on.
    """

    scheme: Scheme
    bits: int
    group: int | None = None
    inputs: str | None = None
    range: str | None = None
    samples: int | None = None
    correct: bool = False
    embeddings: str = "none"
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "group", self.scheme.check(self.bits, self.group))
        whole = self.scheme.in_integers(self.bits, self.group)
        if self.range is None:
            object.__setattr__(self, "range", "percentile" if self.scheme.encoder else "mse")
        if self.scheme.encoder:
            self._check_encoder()
        if self.inputs is None:
            object.__setattr__(self, "inputs", "token" if whole else "none")
        for name, choices in (("inputs", INPUTS), ("range", tuple(RANGES)), ("embeddings", ("8", "none"))):
            if getattr(self, name) not in choices:
                raise Usage(
                    f"{name} is one of {', '.join(choices)}; got {getattr(self, name)!r}.",
                    code="scheme-settings",
                )
        if self.samples is not None and self.samples < 1:
            raise Usage(f"samples must be at least 1; got {self.samples}.", code="scheme-settings")
        if self.inputs != "none" and not whole:
            raise Usage(
                f"--inputs {self.inputs} rounds the inputs of products in integers; {self.scheme.name} at {self.bits} bits"
                f"{'' if self.group is None else f' by groups of {self.group}'} is simulated, weights alone. Leave --inputs "
                "out.",
                code="scheme-inputs",
            )
        if self.embeddings == "8" and not self.runs_in_integers:
            raise Usage(
                "--embeddings 8 is for models whose products are in integers; this one is simulated, in floating point. Leave "
                "it out.",
                code="scheme-embeddings",
            )

    def _check_encoder(self) -> None:
        """An encoder in integers alone has calibrated grids, and leaves nothing to choose about them."""
        if self.inputs in ("none", "token") or self.correct:
            raise Usage(
                f"{self.scheme.name} puts everything on calibrated grids: --inputs tensor, and no --correct. Leave them out.",
                code="scheme-inputs",
            )
        object.__setattr__(self, "inputs", "tensor")
        object.__setattr__(self, "embeddings", "8")

    @property
    def runs_in_integers(self) -> bool:
        """Whether the int8 runtime multiplies what comes out."""
        return self.inputs != "none" and self.scheme.in_integers(self.bits, self.group)

    @property
    def reads_rows(self) -> bool:
        """Whether calibration rows are looked at."""
        return self.scheme.calibrated or self.correct or self.runs_in_integers

    def to_json(self) -> dict[str, Any]:
        """For the saved facts."""
        return {
            "scheme": self.scheme.name, "title": self.scheme.title, "paper": self.scheme.paper, "bits": self.bits,
            "group": self.group, "inputs": self.inputs, "range": self.range, "correct": self.correct,
            "embeddings": self.embeddings, "runs": self.scheme.runs if self.scheme.encoder else
            "int8" if self.runs_in_integers else "simulated",
        }  # fmt: skip


@dataclass(frozen=True)
class Quantized:
    """What :func:`quantize_model` gives back: the reloaded model beside the dense one."""

    model: Any
    processor: Any
    folder: Path
    asked: Asked
    errors: Debugged | None
    """By layer; None for a regression, whose answers neither agree nor differ."""
    dense: Evaluation
    quantized: Evaluation
    difference: Measurement
    dense_bytes: int
    saved_bytes: int
    """Of the weights as they lie in the folder."""
    packed_bytes: int
    """Of the same with the scheme's weights in their bits and nothing to spare."""
    products: int
    """How many the scheme was applied to."""
    samples: int
    seconds: float
    notes: tuple[str, ...] = field(default=())
    rival: float | None = None
    """Squared error of clipped uniform grids of equal storage over the scheme's, all products together; None where it is
    uniform itself."""
    in_floats: tuple[str, ...] = ()
    """Modules of a model in integers alone that stay in floating point."""

    @property
    def said(self) -> str:
        """In a sentence whether this runs in integers here."""
        asked = self.asked
        if asked.scheme.encoder:
            return (
                "Runs in integers alone here, from token ids to the encoder's last norm; in floating point stay "
                f"{', '.join(self.in_floats)}. Layers are compared with products and their inputs rounded, the rest in "
                "floating point; answers are those of the integers."
            )
        if asked.runs_in_integers:
            how = (
                "each token on a grid of its own"
                if asked.inputs == "token"
                else "on one calibrated grid each"
            )
            return (
                f"Runs in integers here: {self.products} products are multiplied by the int8 runtime, inputs in 8 "
                f"bits, {how}."
            )
        return (
            f"Simulated: {self.products} products are multiplied in floating point, so nothing is faster, and the file has "
            "floats in it. Accuracy is what this scheme would have."
        )

    @property
    def size(self) -> str:
        """In a sentence what it takes, as saved and packed."""
        line = f"{self.saved_bytes / 1e6:.2f} MB of weights as saved (dense {self.dense_bytes / 1e6:.2f})"
        if self.packed_bytes >= self.saved_bytes:
            return f"{line}."
        return f"{line}; {self.packed_bytes / 1e6:.2f} MB if packed to {self.asked.bits} bits, which no file here does."

    @property
    def beside_uniform(self) -> str | None:
        """In a sentence how a uniform grid of equal storage would do."""
        if self.rival is None:
            return None
        bits = self.asked.bits + self.asked.scheme.extra_bits
        return (
            f"At equal storage ({bits} bits a weight) uniform grids with a searched clip have {self.rival:.2f} times the "
            "squared error."
        )

    def to_json(self) -> dict[str, Any]:
        """All facts as one object."""
        return self.asked.to_json() | {
            "folder": str(self.folder),
            "said": self.said,
            "dense": self.dense.to_json() | {"bytes": self.dense_bytes},
            "quantized": self.quantized.to_json() | {"bytes": self.saved_bytes},
            "saved_bytes": self.saved_bytes,
            "packed_bytes": self.packed_bytes,
            "products": self.products,
            "samples": self.samples,
            "difference": self.difference.as_json(),
            "errors": None if self.errors is None else self.errors.to_json(),
            "seconds": self.seconds,
            "uniform_at_equal_storage": self.rival,
            "in_floats": list(self.in_floats),
            "notes": list(self.notes),
        }


def quantize_model(
    model: Any,
    task: Task | str,
    *,
    out: str | Path,
    scheme: str | Scheme,
    bits: int,
    rows: int = ROWS,
    processor: Any = None,
    truncate: bool = True,
    progress: Progress | None = None,
    **asked: Any,
) -> Quantized:
    """One scheme on the weights of all products of a fine-tuned encoder; saved, reloaded, compared with the dense model.

    Args:
        model: folder, hub id or transformers model; a loaded one is copied, not changed. Heads and filters may be cut.
        task: what :meth:`Task.load` reads, or a task.
        out: folder to write, whole or not at all.
        scheme: by name, or a :class:`~sparsam.quantization.schemes.Scheme` of your own.
        bits: of the weights.
        rows: on which errors are looked at.
        asked: the rest of :class:`Asked`.

    Raises:
        Usage: ``scheme-unknown``, ``scheme-bits``, ``scheme-group``, ``scheme-inputs``, ``scheme-embeddings``,
            ``scheme-settings``. Refused: ``quantized``, ``quantize-tokens``, ``calibration-rows``, ``too-few-rows``,
            ``embeddings-missing``, and those of :func:`open_model`.
    """
    wanted = Asked(scheme_named(scheme) if isinstance(scheme, str) else scheme, bits, **asked)
    task = Task.load(task) if isinstance(task, str) else task
    artifact.check_target(Path(out))
    opened = open_model(
        copy.deepcopy(model) if isinstance(model, nn.Module) else model, task, processor=processor
    )
    run = QuantizeRun(opened, task, wanted, truncate, progress)
    dense = copy.deepcopy(opened)
    source = weights_digest(opened.model)
    started = time.monotonic()
    run.apply()
    seconds = round(time.monotonic() - started, 3)
    facts = {
        "source": opened.name,
        "source_sha256": source,
        "task": task.name,
        "data": data_record(task),
        "seed": wanted.seed,
        **held_out.record(task),
        "quantization": wanted.to_json() | {"samples": len(run.rows), "packed_bytes": run.packed_bytes()},
        "calibration": [rows_record(wanted.scheme.name, run.rows)] if len(run.rows) else [],
    }
    on_main_process(lambda: artifact.save(opened.model.cpu(), out, processor=opened.processor, facts=facts))
    reloaded = open_model(str(out), task)
    errors = None
    if task.problem != "regression":
        where = "train" if task.train is not None else "validation"
        errors = layer_by_layer(
            reloaded, dense, task, rows=rows, split=where, seed=wanted.seed, progress=progress
        )
    before, after = (evaluate(one, task, truncate=truncate, progress=progress) for one in (dense, reloaded))
    difference = paired_difference(task.metric, before.predictions, after.predictions, before.labels)
    made = Quantized(
        reloaded.model, reloaded.processor, Path(out), wanted, errors, before, after, difference,
        weight_bytes(dense.model), weight_bytes(reloaded.model), run.packed_bytes(), len(run.made), len(run.rows), seconds,
        (*task.notes, *opened.notes), run.rival, left_in_floats(reloaded.model) if wanted.scheme.encoder else (),
    )  # fmt: skip
    record = {
        "task": task.name,
        "model": after.to_json() | {"bytes": made.saved_bytes},
        "dense": before.to_json() | {"bytes": made.dense_bytes, "name": dense.name},
        "difference": difference.as_json(),
        "notes": [made.said, made.size, *made.notes],
        "machine": machine_facts(),
    }
    on_main_process(lambda: artifact.write_record(out, record))
    return made


class QuantizeRun:
    """A scheme on one model, which is changed in place.

    Args:
        opened: the model.
        task: gives calibration rows, without their labels.
        asked: what is wanted.
        truncate: whether texts longer than the model reads are cut.
        progress: told of every stage.
    """

    def __init__(
        self,
        opened: Opened,
        task: Task,
        asked: Asked,
        truncate: bool = True,
        progress: Progress | None = None,
    ) -> None:
        self.opened, self.task, self.asked, self.progress = opened, task, asked, progress
        self.model = opened.model
        self.model.to(compute_device()).eval()
        self._check()
        self.made: dict[tuple[int, str], tuple[int, int]] = {}
        """Bytes of every product that is done, as they are saved and as they would be packed."""
        self.errors = [0.0, 0.0]
        """Summed squared errors of what is done, and of uniform grids of equal storage, where the scheme tells."""
        self.rows: NDArray[np.int64] = np.zeros(0, np.int64)
        self.wanted: NDArray[np.int64] = np.zeros(0, np.int64)
        """Lengths of the inputs in use, like which calibration rows are drawn."""
        self.feed: Feed | None = None
        if asked.reads_rows:
            self.feed = feed_of(opened, split_of(task, "train"), truncate)
            self.wanted = lengths_of_use(opened, task, self.feed, truncate)
            there = len(self.feed)
            if asked.samples is not None and asked.samples > there:
                raise Refused(
                    f"{asked.samples:,} calibration samples were asked for; the training split has {there:,}. Ask for fewer "
                    "(--samples).",
                    code="too-few-rows",
                )
            count = min(asked.samples or SAMPLES, there)
            self.rows = matched_rows(self.feed.lengths, self.wanted, count, asked.seed)

    def _check(self) -> None:
        """Refuse what this model or task has no place for, before any work."""
        asked = self.asked
        refuse_integers(plan_of(self.model), "quantizing it again")
        if removes_tokens(self.model):
            raise Refused(
                f"{self.opened.name} removes tokens; schemes are compared layer by layer on all of them. Put it in integers "
                "with sparsam compress --method int8, or start from the dense model.",
                code="quantize-tokens",
            )
        if asked.reads_rows and self.task.train is None:
            why = (
                f"{asked.scheme.name} reads inputs" if asked.scheme.calibrated
                else "biases are corrected for mean inputs" if asked.correct
                else "products in integers have calibrated grids of inputs"
            )  # fmt: skip
            raise Refused(
                f"{why}, so calibration rows are needed; {self.task.name} has no training split. Give data with one, or take a "
                "scheme that reads none and is simulated: --inputs none without --correct.",
                code="calibration-rows",
            )
        if asked.embeddings == "8" and words_of(self.model) is None:
            raise Refused(
                f"a {type(self.model).__name__} reads no words, so it has no embeddings of words. Leave --embeddings out.",
                code="embeddings-missing",
            )

    @property
    def plan(self) -> Plan:
        """What the model runs by so far."""
        return plan_of(self.model) or dense_plan(self.model)

    @torch.no_grad()
    def apply(self) -> None:
        """Calibrate; round layer by layer, each on what the rounded ones before it give; name what is in integers."""
        asked, stack = self.asked, stack_of(self.model)
        if asked.scheme.encoder:
            self._whole()
            return
        seen = self._watched() if asked.correct or asked.runs_in_integers else {}
        products = list(products_of(stack))
        formats: dict[int, dict[Any, Format]] = {}
        curved: dict[str, Hessian] = {}
        for done, (index, product, modules) in enumerate(products):
            if asked.scheme.calibrated and (not done or index != products[done - 1][0]):
                curved = self._hessians(index)
            bits, packed, pieces = None, 0, None
            for role, module in modules.items():
                hessian = curved[_SHARED.get(role, role)].matrix() if asked.scheme.calibrated else None
                made = asked.scheme.make(module.weight.detach().cpu(), asked.bits, asked.group, hessian)
                if asked.correct and module.bias is not None:
                    mean = seen[index, product].means[role].mean()
                    moved = corrected_bias(module.weight.cpu(), made.values, module.bias.cpu(), mean)
                    module.bias.copy_(moved)
                bits = self._put(module, made)
                packed += made.packed_bytes
                pieces = made.pieces if bits is not None else None
                if made.rival is not None:
                    self.errors = [a + b for a, b in zip(self.errors, made.rival, strict=True)]
            stored = packed if pieces is not None else int(bytes_at(list(modules.values()), bits))
            self.made[index, product] = stored, packed
            if asked.runs_in_integers:
                assert asked.range is not None
                grid = grid_between(*RANGES[asked.range].bounds(seen[index, product].range, INPUT), INPUT)
                kind: Any = asked.inputs
                assert bits is not None
                formats.setdefault(index, {})[product] = Format(
                    bits, kind, float(grid.scale), int(grid.zero), pieces
                )
            if self.progress is not None:
                self.progress(asked.scheme.name, done + 1, len(products), {})
        if asked.runs_in_integers:
            self._name(formats)

    @torch.enable_grad()
    def _whole(self) -> None:
        """The encoder in integers alone, calibrated on the same rows: they are drawn by the same lengths, number and seed."""
        assert self.feed is not None and self.asked.range is not None
        method = IntegerOnlyMethod(samples=len(self.rows), range=self.asked.range)
        self.model.cpu()
        integer_only(
            self.model, self.feed, method, wanted=self.wanted, settings=Settings(seed=self.asked.seed)
        )
        for index, product, modules in products_of(stack_of(self.model)):
            stored = int(bytes_at(list(modules.values()), self.asked.bits))
            self.made[index, product] = stored, stored

    @property
    def rival(self) -> float | None:
        """The squared error of uniform grids of equal storage over the scheme's; None where there is nothing to compare."""
        own, uniform = self.errors
        return uniform / own if own > 0 else None

    def packed_bytes(self) -> int:
        """Of all weights, with the scheme's in their bits and nothing to spare."""
        spared = sum(stored - packed for stored, packed in self.made.values())
        return weight_bytes(self.model) - spared

    def _watched(self) -> dict[tuple[int, str], Seen]:
        """Ranges and means of what the products read."""
        show, feed = self.progress, self.feed
        assert feed is not None and self.asked.range is not None
        return watched(
            self.model, feed, self.rows, RANGES[self.asked.range],
            progress=None if show is None else (lambda done, total: show("calibration", done, total, {})),
        )  # fmt: skip

    def _hessians(self, layer: int) -> dict[str, Hessian]:
        """Hessians of what a layer's modules read now, by role; the model runs no further than that layer."""
        assert self.feed is not None
        stack = stack_of(self.model)
        block, device = stack.blocks[layer], next(self.model.parameters()).device
        roles = {id(block.part(role)): role for role in ("q", "k", "o", "up", "down")}
        found = {role: Hessian(block.part(role).weight.shape[1]) for role in roles.values()}

        def watch(module: nn.Module, x: Float[Tensor, "t i"]) -> Tensor:
            role = roles.get(id(module))
            if role is not None:
                found[role].add(x)
                if role == "down":
                    raise _FarEnough
            return call(module, x)

        with applied_by(stack, watch), head_alone(self.model):
            for part in grouped(self.feed, self.rows):
                batch = {
                    name: x.to(device) for name, x in self.feed.collate(part).items() if name != "labels"
                }
                with suppress(_FarEnough):
                    self.model(**batch)
        return found

    def _put(self, module: Any, made: Made) -> int | None:
        """Numbers in place of a module's weight; the bits that its integers are stored in, None for floats."""
        if not self.asked.runs_in_integers:
            module.weight.copy_(made.values)
            return None
        assert made.integers is not None
        integers, scales, bits = made.integers
        put(module, integers.to(module.weight.device), scales.to(module.weight.device))
        return bits

    def _name(self, formats: dict[int, dict[Any, Format]]) -> None:
        """The plan that says what is in integers."""
        layers = tuple(
            replace(left, formats=formats.get(index, {}))
            for index, left in enumerate(stack_of(self.model).left)
        )
        words = words_of(self.model) if self.asked.embeddings == "8" else None
        if words is not None:
            grid = fit(words.weight, weight_form(WORDS))
            put(words, quantize(words.weight, grid), grid.scale)
        lift(self.model, replace(self.plan, layers=layers, embeddings=None if words is None else WORDS))


class _FarEnough(Exception):
    """The layer that is watched has read all it reads."""


_SHARED = {"v": "k"}
"""Roles that read what another one reads."""
