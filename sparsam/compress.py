"""The main road: a model and a task in, a smaller checkpoint out, checked after reload.

    load ─ methods ─ save ─ reload ─ evaluate

Choices are made on training data alone: thresholds and penalties on a seeded slice of it. Validation is looked at once, through
the reloaded checkpoint.
"""

import copy
import hashlib
import resource
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparsam import artifact
from sparsam.cost import Budget, Cost
from sparsam.errors import BudgetMissed, Refused, Usage
from sparsam.measure import Measurement, metric_interval, paired_difference
from sparsam.models import dense_plan, is_lifted, lift, plan_of, reads_class_token, stack_of
from sparsam.models.count import Tally, shapes_of
from sparsam.models.scratch import is_scratch, make_vit
from sparsam.plan import Plan, TokenPlan
from sparsam.task import Split, Task
from sparsam.tokens import LTP
from sparsam.tokens.control import Control
from sparsam.tokens.ltp import ONLY_PROTECTED, token_plan
from sparsam.training.feed import Feed, answers, matched_rows, streamed
from sparsam.training.loop import (
    Batches,
    History,
    Settings,
    Supervised,
    Trainee,
    on_main_process,
    precision_here,
    rows_seen,
    train,
)
from sparsam.training.tokens import Distillation, HardStage, RuleAt, SoftStage, score_quantiles

Method = LTP | Control
Progress = Callable[[str, int, int, dict[str, float]], None]
"""Stage, step, total, figures."""

CALIBRATION = 256
"""Examples a budget is read on while training; set aside from the training rows. Chosen by us: their mean share of MACs is
known to about 0.5 %."""

MARGIN = 0.985
"""Training aims this much below the budget, because validation is not the calibration set. Chosen by us."""

TOLERANCE = 1.02
"""A budget counts as met up to this factor after reload, on other inputs than it was solved on. Chosen by us."""


@dataclass(frozen=True)
class Evaluation:
    """How good a model is on a split, and what it took."""

    split: str
    metric: Measurement
    cost: Cost
    dense: Cost
    kept: tuple[dict[str, float], ...]
    """Mean share of tokens alive, layer by layer, at attention and at feed-forward."""
    truncated: int
    seconds: float
    predictions: NDArray[Any]
    labels: NDArray[Any]

    @property
    def macs_ratio(self) -> float:
        """MACs relative to the dense model on the same inputs."""
        return self.cost.relative_to(self.dense)

    def to_json(self) -> dict[str, Any]:
        """The facts without the predictions."""
        return {
            "split": self.split,
            **self.metric.as_json(),
            "macs": self.cost.macs,
            "macs_ratio": self.macs_ratio,
            "macs_per_sample": self.cost.macs / max(self.cost.samples, 1),
            "kept": list(self.kept),
            "truncated": self.truncated,
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class Opened:
    """A model with what it takes to feed it."""

    model: Any
    processor: Any
    name: str

    @property
    def kind(self) -> str:
        """``text`` or ``image``."""
        return "image" if self.model.main_input_name == "pixel_values" else "text"

    @property
    def image_tokens(self) -> int:
        """Tokens of one image, class token included; 1 for text models."""
        return image_tokens(self.model.config) if self.kind == "image" else 1

    @property
    def max_length(self) -> int | None:
        """Longest text the position table holds."""
        return longest_text(self.model, self.processor) if self.kind == "text" else None

    @property
    def pad_id(self) -> int:
        """Token id of padding."""
        found = getattr(self.processor, "pad_token_id", None)
        return int(found) if found is not None else 0


def image_tokens(config: Any) -> int:
    """Patches of one image and the special tokens before them."""
    size, patch = config.image_size, config.patch_size
    height, width = (size, size) if isinstance(size, int) else size
    down, across = (patch, patch) if isinstance(patch, int) else patch
    return (height // down) * (width // across) + (2 if config.model_type == "deit" else 1)


def longest_text(model: Any, processor: Any) -> int:
    """Longest text in tokens: rows of the position table, less what RoBERTa-like models reserve for padding."""
    config = model.config
    rows = int(getattr(config, "max_position_embeddings", 512))
    if config.model_type in ("roberta", "xlm-roberta", "mpnet"):
        rows -= int(config.pad_token_id if config.pad_token_id is not None else 1) + 1
    limit = getattr(processor, "model_max_length", rows)
    return min(rows, int(limit)) if limit and limit < 10**9 else rows


@dataclass(frozen=True)
class Compressed:
    """What :func:`compress` gives back: the reloaded model, its plan, and the two evaluations."""

    model: Any
    processor: Any
    plan: Plan
    folder: Path
    dense: Evaluation
    compressed: Evaluation
    difference: Measurement
    missed: tuple[str, ...]
    """What of the budget was not met, in sentences; empty when it was."""
    budget: Budget
    notes: tuple[str, ...]
    history: dict[str, dict[str, float]]
    dense_bytes: int
    compressed_bytes: int

    @property
    def met(self) -> bool:
        """Whether the reloaded model keeps the budget."""
        return not self.missed

    def to_json(self) -> dict[str, Any]:
        """All facts as one object."""
        return {
            "folder": str(self.folder),
            "plan": self.plan.to_json(),
            "dense": self.dense.to_json() | {"bytes": self.dense_bytes},
            "compressed": self.compressed.to_json() | {"bytes": self.compressed_bytes},
            "difference": self.difference.as_json(),
            "budget": {"macs": self.budget.macs, "accuracy": self.budget.accuracy, "met": self.met},
            "training": self.history,
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class DryRun:
    """What a run would take, measured on a few steps of a copy."""

    stages: tuple[dict[str, float | str], ...]
    seconds: float
    peak_memory_bytes: int
    parameters: int

    def to_json(self) -> dict[str, Any]:
        """All facts as one object."""
        return {
            "stages": list(self.stages),
            "seconds": self.seconds,
            "peak_memory_bytes": self.peak_memory_bytes,
            "parameters": self.parameters,
        }


def open_model(
    source: Any, task: Task | None = None, *, processor: Any = None, fresh_head: bool = False
) -> Opened:
    """A model from a folder, a hub id, or one that is loaded already, with its processor.

    Args:
        source: folder, hub id or transformers model.
        task: what it will be used for; says the kind of head, and the classes of a fresh one.
        processor: needed when ``source`` is a model.
        fresh_head: give it a new head for the task (fine-tuning) instead of asking for a trained one.

    Raises:
        Refused: the family is not supported, weights are missing, corrupt or not finite, or the model and the task do not fit.
    """
    if isinstance(source, nn.Module):
        if processor is None:
            raise Usage(
                "give processor= (tokenizer or image processor) together with a loaded model.",
                code="processor-missing",
            )
        opened = Opened(source, processor, str(getattr(source, "name_or_path", "") or type(source).__name__))
    elif is_scratch(source):
        if task is None or task.kind != "image" or task.train is None or not fresh_head:
            raise Usage(
                f"{source!r} makes a new image model; it can only be fine-tuned on an image task.",
                code="model-spec",
            )
        images = task.train.take(np.arange(1)).images or []
        size = (int(images[0].shape[0]), int(images[0].shape[1]))
        model, made_processor = make_vit(source, image_size=size, labels=tuple(task.labels))
        opened = Opened(model, processor or made_processor, source)
    elif artifact.is_artifact(source) and not fresh_head:
        loaded = artifact.load(source)
        opened = Opened(loaded.model, processor or loaded.processor, str(source))
    else:
        labels = None
        if fresh_head and task is not None:
            labels = tuple(task.labels)
        made = artifact.load_dense(
            source,
            kind=None if task is None else task.kind,
            labels=labels,
            regression=task is not None and task.problem == "regression",
        )
        opened = Opened(made.model, processor or made.processor, str(source))
    if task is not None:
        _check_fit(opened, task)
    if not is_lifted(opened.model):
        lift(opened.model)
    return opened


def _check_fit(opened: Opened, task: Task) -> None:
    if opened.kind != task.kind:
        raise Refused(
            f"{opened.name} reads {opened.kind}, the task {task.name} holds {task.kind}. Choose a model of the "
            "other kind.",
            code="task-kind",
        )
    config = opened.model.config
    classes = 1 if task.problem == "regression" else len(task.labels)
    if not hasattr(opened.model, "classifier"):
        raise Refused(
            f"{opened.name} has no classification head. Fine-tune it first: sparsam finetune {opened.name} "
            f"--task {task.name} --out DIR",
            code="head-missing",
        )
    if config.num_labels != classes:
        raise Refused(
            f"{opened.name} has {config.num_labels} classes, the task {task.name} has {classes}. Fine-tune it "
            f"first: sparsam finetune {opened.name} --task {task.name} --out DIR",
            code="head-classes",
        )


@torch.no_grad()
def predict(
    opened: Opened,
    split: Split,
    *,
    batch_tokens: int = 4096,
    truncate: bool = True,
    progress: Progress | None = None,
) -> tuple[NDArray[np.float32], Tally, int]:
    """Logits of every row (n, classes), the work it took, and how many texts were cut."""
    model = opened.model.eval()
    stack, device = stack_of(model), next(model.parameters()).device
    shapes, tally, cut = shapes_of(stack), Tally(), 0
    logits: NDArray[np.float32] | None = None
    done = 0
    for rows, batch, truncated in streamed(
        split,
        opened.processor,
        tokens=batch_tokens,
        max_length=opened.max_length,
        truncate=truncate,
        image_tokens=opened.image_tokens,
        pad_id=opened.pad_id,
    ):
        inputs = {name: x.to(device) for name, x in batch.items() if name != "labels"}
        with stack.recording() as kept:
            out = model(**inputs).logits.float().cpu().numpy()
        if logits is None:
            logits = np.zeros((len(split), out.shape[1]), np.float32)
        logits[rows] = out
        tally.add(shapes, kept)
        cut += truncated
        done += len(rows)
        if progress is not None:
            progress("evaluate", done, len(split), {})
    if logits is None:
        raise Refused("the split is empty; there is nothing to evaluate.", code="split-empty")
    if not np.isfinite(logits).all():
        row = int(np.flatnonzero(~np.isfinite(logits).all(1))[0])
        raise Refused(
            f"the model's output for row {row} is not a number. Look for NaN in its weights, or load it in "
            "float32.",
            code="non-finite",
        )
    return logits, tally, cut


def evaluate(
    model: Any,
    task: Task | str,
    *,
    split: str = "validation",
    processor: Any = None,
    batch_tokens: int = 4096,
    truncate: bool = True,
    progress: Progress | None = None,
) -> Evaluation:
    """Metric with its 95 % interval, kept tokens and MACs of a model on a split.

    Args:
        model: a folder, hub id, transformers model, or what :func:`open_model` gave.
        task: what :meth:`Task.load` reads, or a task.
        split: ``train``, ``validation`` or ``test``.
    """
    task = Task.load(task) if isinstance(task, str) else task
    opened = model if isinstance(model, Opened) else open_model(model, task, processor=processor)
    chosen = _split(task, split)
    started = time.monotonic()
    logits, tally, cut = predict(
        opened, chosen, batch_tokens=batch_tokens, truncate=truncate, progress=progress
    )
    predictions = logits[:, 0] if task.problem == "regression" else logits.argmax(1)
    labels = chosen.labels
    metric = metric_interval(task.metric, predictions, labels)
    return Evaluation(
        split,
        metric,
        tally.cost,
        tally.dense,
        tuple(tally.shares()),
        cut,
        time.monotonic() - started,
        predictions,
        labels,
    )


def finetune(
    model: Any,
    task: Task | str,
    out: str | Path,
    *,
    settings: Settings | None = None,
    processor: Any = None,
    truncate: bool = True,
    progress: Progress | None = None,
) -> tuple[Opened, Evaluation, History]:
    """Fine-tune a pretrained encoder with a fresh head, on packed batches, and save it as an ordinary folder.

    Returns the reloaded model, its evaluation on validation, and what happened.
    """
    task = Task.load(task) if isinstance(task, str) else task
    settings = settings or Settings(epochs=3, lr=7e-5)
    artifact.check_target(Path(out))
    torch.manual_seed(settings.seed)  # a fresh head, or a whole fresh model, repeats too
    opened = open_model(model, task, processor=processor, fresh_head=not isinstance(model, nn.Module))
    if _removes_tokens(opened.model):
        raise Usage(
            f"{opened.name} is compressed; fine-tuning would keep its plan. Fine-tune the dense model it came from, or "
            "train it on with transformers' Trainer.",
            code="finetune-compressed",
        )
    feed = _feed(opened, _split(task, "train"), truncate)
    history = train(
        Supervised(opened.model),
        feed.batches(settings.batch_tokens, settings.seed),
        feed.collate,
        settings,
        checkpoints=_work(out) / "finetune",
        identity={"model": weights_digest(opened.model), "rows": len(feed)},
        progress=None if progress is None else (lambda s, t, logs: progress("finetune", s, t, logs)),
    )
    facts = _facts(opened, task, settings, {})
    on_main_process(lambda: artifact.save(opened.model.cpu(), out, processor=opened.processor, facts=facts))
    on_main_process(lambda: _clean(_work(out)))
    reloaded = open_model(str(out), task)
    return reloaded, evaluate(reloaded, task, truncate=truncate, progress=progress), history


def compress(
    model: Any,
    task: Task | str,
    *,
    out: str | Path,
    methods: Sequence[Method] = (LTP(),),
    budget: Budget | str | None = None,
    teacher: Any = None,
    settings: Settings | None = None,
    processor: Any = None,
    truncate: bool = True,
    progress: Progress | None = None,
    strict: bool = True,
) -> Compressed:
    """Make a fine-tuned encoder cheaper and save it as an ordinary checkpoint with a plan.

    Args:
        model: fine-tuned for the task: folder, hub id or transformers model. One that was compressed before goes on from its
            plan; give the dense model as ``teacher`` then.
        task: what :meth:`Task.load` reads, or a task.
        out: folder to write, whole or not at all.
        methods: what to apply, in order.
        budget: what may be spent and lost, such as ``"macs=0.5x,accuracy=-1"``.
        teacher: the dense model to learn from and to compare with; ``model`` as it came, if absent.
        settings: batch size, seed and precision; epochs and rates are the methods' own.
        strict: raise when the budget is missed (the folder is written all the same).

    Raises:
        BudgetMissed: ``budget-missed``, after saving the best that was found.
        Refused, Usage, InputOutput: see their texts.
    """
    task = Task.load(task) if isinstance(task, str) else task
    budget = Budget.parse(budget) if isinstance(budget, str) else budget or Budget()
    settings = settings or Settings()
    artifact.check_target(Path(out))
    torch.manual_seed(settings.seed)
    opened = open_model(model, task, processor=processor)
    taught = (
        copy.deepcopy(opened) if teacher is None else open_model(teacher, task, processor=opened.processor)
    )
    if _removes_tokens(taught.model):
        if teacher is None:
            raise Usage(
                f"{opened.name} is compressed already; give the dense model it came from as --teacher.",
                code="teacher-missing",
            )
        raise Usage(
            f"the teacher {taught.name} is compressed itself; give the dense model it came from as --teacher.",
            code="teacher-compressed",
        )
    feed = _feed(opened, _split(task, "train"), truncate)
    wanted = _lengths_of_use(opened, task, feed, truncate)
    history: dict[str, dict[str, float]] = {}
    plan = plan_of(opened.model) or dense_plan(opened.model)
    for number, method in enumerate(methods):
        run = _TokenRun(
            opened, taught, feed, wanted, method, budget, settings, _work(out) / str(number), progress
        )
        tokens = run.all_stages()
        history |= {f"{number}-{stage}": facts for stage, facts in run.history.items()}
        plan = replace(plan, tokens=tokens)
        lift(opened.model, plan)
    facts = _facts(opened, task, settings, history) | {
        "budget": {"macs": budget.macs, "accuracy": budget.accuracy}
    }
    on_main_process(lambda: artifact.save(opened.model.cpu(), out, processor=opened.processor, facts=facts))
    reloaded = open_model(str(out), task)
    dense = evaluate(taught, task, truncate=truncate, progress=progress)
    after = evaluate(reloaded, task, truncate=truncate, progress=progress)
    difference = paired_difference(task.metric, dense.predictions, after.predictions, dense.labels)
    missed = _missed(budget, after, difference)
    result = Compressed(
        reloaded.model,
        reloaded.processor,
        plan,
        Path(out),
        dense,
        after,
        difference,
        tuple(missed),
        budget,
        (*task.notes, *_cut(feed)),
        history,
        weight_bytes(taught.model),
        weight_bytes(reloaded.model),
    )
    on_main_process(lambda: _clean(_work(out)))
    if missed and strict:
        raise BudgetMissed(
            f"{' '.join(missed)} The best that was found is kept in {out}. Allow more, or train longer "
            "(--epochs).",
            code="budget-missed",
        )
    return result


def plan_run(
    model: Any,
    task: Task | str,
    *,
    methods: Sequence[Method] = (LTP(),),
    budget: Budget | str | None = None,
    settings: Settings | None = None,
    processor: Any = None,
    truncate: bool = True,
    steps: int = 3,
) -> DryRun:
    """What :func:`compress` would train, for how long and with which memory: a few steps of each stage are timed on a copy."""
    task = Task.load(task) if isinstance(task, str) else task
    budget = Budget.parse(budget) if isinstance(budget, str) else budget or Budget()
    settings = settings or Settings()
    opened = open_model(model, task, processor=processor)
    feed = _feed(opened, _split(task, "train"), truncate)
    wanted = _lengths_of_use(opened, task, feed, truncate)
    stages: list[dict[str, float | str]] = []
    for method in methods:
        trial = Opened(copy.deepcopy(opened.model), opened.processor, opened.name)
        run = _TokenRun(trial, copy.deepcopy(opened), feed, wanted, method, budget, settings, None, None)
        stages += run.timed(steps)
    return _dry_run(stages, opened.model)


def plan_finetuning(
    model: Any, task: Task | str, *, settings: Settings | None = None, truncate: bool = True, steps: int = 3
) -> DryRun:
    """What :func:`finetune` would take: a few steps on the clock, extended to the whole."""
    task = Task.load(task) if isinstance(task, str) else task
    settings = settings or Settings(epochs=3, lr=7e-5)
    opened = open_model(model, task, fresh_head=not isinstance(model, nn.Module))
    feed = _feed(opened, _split(task, "train"), truncate)
    batches = feed.batches(settings.batch_tokens, settings.seed)
    history = train(Supervised(opened.model), batches, feed.collate, settings, stop_after=steps)
    stage = _extended("finetune", history, len(batches(0)) * settings.epochs, settings, opened.model)
    return _dry_run([stage], opened.model)


def _extended(
    stage: str, history: History, steps: float, settings: Settings, model: nn.Module
) -> dict[str, float | str]:
    each = history.seconds / max(history.steps, 1)
    return {
        "stage": stage,
        "steps": max(1, round(steps)),
        "epochs": settings.epochs,
        "lr": settings.lr,
        "seconds_per_step": each,
        "seconds": each * steps,
        "precision": precision_here(settings, next(model.parameters()).device),
    }


def _dry_run(stages: Sequence[dict[str, float | str]], model: nn.Module) -> DryRun:
    return DryRun(
        tuple(stages),
        float(sum(float(stage["seconds"]) for stage in stages)),
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        sum(p.numel() for p in model.parameters()),
    )


class _TokenRun:
    """One token method applied to one model: its stages, in order."""

    def __init__(
        self,
        opened: Opened,
        taught: Opened,
        feed: Feed,
        wanted: NDArray[np.int64],
        method: Method,
        budget: Budget,
        settings: Settings,
        work: Path | None,
        progress: Progress | None,
    ) -> None:
        self.model, self.teacher, self.feed, self.method = opened.model, taught.model, feed, method
        self.settings, self.work, self.progress = settings, work, progress
        self.layers = len(stack_of(self.model).blocks)
        self.class_token = reads_class_token(self.model)
        self.target = None if budget.macs is None else MARGIN * budget.macs
        if isinstance(method, Control) and self.target is None:
            raise Usage(
                f"the control {method.rule} needs a budget, such as --budget macs=0.5x.", code="token-target"
            )
        self.distillation = Distillation(method.distill, method.distill_states, method.distill_temperature)
        if len(feed) < 16:
            raise Refused(
                f"the training split has {len(feed)} rows; a token method needs at least 16, some of them to read the "
                "budget on.",
                code="too-few-rows",
            )
        calibration = matched_rows(feed.lengths, wanted, min(CALIBRATION, len(feed) // 4), settings.seed)
        self.rows = np.setdiff1d(np.arange(len(feed)), calibration)
        by_length = calibration[np.argsort(feed.lengths[calibration], kind="stable")]
        self.calibration = [
            feed.collate(part) for part in np.array_split(by_length, max(1, len(by_length) // 64))
        ]
        self.taught: Tensor | None = None
        self.history: dict[str, dict[str, float]] = {}
        self.identity = {
            "method": [type(method).__name__, asdict(method)],
            "target": self.target,
            "model": weights_digest(self.model),
            "teacher": weights_digest(self.teacher),
            "rows": hashlib.sha256(np.concatenate([self.rows, feed.lengths]).tobytes()).hexdigest(),
        }

    def all_stages(self) -> TokenPlan:
        """Train everything; the plan that is reached."""
        self._teach()
        if isinstance(self.method, LTP):
            self._train("soft", self._soft(), self.method.soft_epochs, self.method.lr)
        hard = self._hard()
        hard.steer()
        self._train("hard", hard, self.method.hard_epochs, self.method.hard_lr)
        hard.steer()
        return self.rule_at(hard.scale)

    def _teach(self) -> None:
        """The teacher's logits, worked out once for the rows that the stages look at."""
        if not self.method.distill or self.method.distill_states:
            return
        stages = [("hard", self.method.hard_epochs)]
        if isinstance(self.method, LTP):
            stages.append(("soft", self.method.soft_epochs))
        seen = [rows_seen(self._batches(stage), epochs) for stage, epochs in stages if epochs > 0]
        if not seen:
            return
        started = time.monotonic()
        show = self.progress
        rows = np.unique(np.concatenate(seen))
        precision = precision_here(self.settings, next(self.teacher.parameters()).device)
        self.taught = answers(
            self.teacher,
            self.feed,
            rows,
            precision=precision,
            progress=None if show is None else (lambda done, total: show("teacher", done, total, {})),
        )
        self.history["teacher"] = {"samples": len(rows), "seconds": round(time.monotonic() - started, 1)}

    def _batches(self, stage: str) -> Batches:
        seed = self.settings.seed + (0 if stage == "soft" else 1000)
        return self.feed.batches(self.settings.batch_tokens, seed, self.rows)

    def _collate(self, indices: NDArray[np.int64]) -> dict[str, Tensor]:
        batch = self.feed.collate(indices)
        return batch if self.taught is None else batch | {"taught": self.taught[torch.from_numpy(indices)]}

    def _soft(self) -> SoftStage | None:
        assert isinstance(self.method, LTP)
        before = plan_of(self.model)
        stack = stack_of(self.model)
        stack.rule = None
        first = score_quantiles(
            self.model, stack, self.calibration, self.method.initial, self.method.relative_to
        )
        start = self.method.start(first, self.class_token)
        if before is not None and before.tokens is not None and before.tokens.rule == "ltp":
            values = [0.0 if v is None else v for v in before.tokens.values]
            with torch.no_grad():
                start.threshold.copy_(torch.tensor(values))
        self.rule = start
        if self.method.soft_epochs <= 0:
            return None
        return SoftStage(
            self.model,
            self.rule,
            teacher=self.teacher,
            distillation=self.distillation,
            target=self.target,
            weight=self.method.weight,
            threshold_lr=self.method.threshold_lr,
            dropout=self.method.dropout,
        )

    def _hard(self) -> HardStage:
        stack_of(self.model).rule = None
        return HardStage(
            self.model,
            self.rule_at,
            teacher=self.teacher,
            distillation=self.distillation,
            target=self.target,
            calibration=self.calibration,
            steer_every=self.method.steer_every,
            dropout=self.method.dropout,
        )

    @property
    def rule_at(self) -> RuleAt:
        """The method's rules along one scalar."""
        method = self.method
        if isinstance(method, Control):
            return lambda scale: method.plan_at(scale, self.layers, self.class_token, self.settings.seed)
        learned = self.rule.hardened()
        unit = method.relative_to
        return lambda scale: token_plan(
            [t if t >= ONLY_PROTECTED else t * scale for t in learned], relative_to=unit
        )

    def _stage_settings(self, epochs: float, lr: float) -> Settings:
        return replace(self.settings, epochs=epochs, lr=lr)

    def _train(self, stage: str, trainee: Trainee | None, epochs: float, lr: float) -> None:
        if trainee is None or epochs <= 0:
            return
        show = self.progress
        history = train(
            trainee,
            self._batches(stage),
            self._collate,
            self._stage_settings(epochs, lr),
            checkpoints=None if self.work is None else self.work / stage,
            identity=self.identity,
            progress=None if show is None else (lambda s, t, logs: show(stage, s, t, logs)),
        )
        self.history[stage] = {
            "steps": history.steps,
            "seconds": round(history.seconds, 1),
            "samples": history.samples,
            "tokens": history.tokens,
            "epochs": epochs,
            "lr": lr,
        }

    def timed(self, steps: int) -> list[dict[str, float | str]]:
        """A few steps of each stage on the clock, extended to the whole."""
        stages: list[tuple[str, Trainee | None, float, float]] = []
        if isinstance(self.method, LTP):
            stages.append(("soft", self._soft(), self.method.soft_epochs, self.method.lr))
        found: list[dict[str, float | str]] = []
        for name in ("soft", "hard"):
            if name == "hard":
                hard = self._hard()
                hard.steer()
                stages.append(("hard", hard, self.method.hard_epochs, self.method.hard_lr))
            elif not stages:
                continue
            stage, trainee, epochs, lr = stages[-1]
            if trainee is None or epochs <= 0:
                continue
            batches = self.feed.batches(self.settings.batch_tokens, self.settings.seed, self.rows)
            total = len(batches(0)) * epochs
            history = train(
                trainee, batches, self.feed.collate, self._stage_settings(epochs, lr), stop_after=steps
            )
            found.append(_extended(stage, history, total, self._stage_settings(epochs, lr), self.model))
        return found


def _missed(budget: Budget, after: Evaluation, difference: Measurement) -> list[str]:
    missed = []
    if budget.macs is not None and after.macs_ratio > TOLERANCE * budget.macs:
        missed.append(
            f"The reloaded model takes {after.macs_ratio:.3f}x of the dense MACs; {budget.macs}x was asked for."
        )
    if budget.accuracy is not None and difference.value < budget.accuracy:
        missed.append(
            f"The reloaded model loses {-difference.value:.2f} points; at most {-budget.accuracy:g} were allowed."
        )
    return missed


def _removes_tokens(model: nn.Module) -> bool:
    plan = plan_of(model)
    return plan is not None and plan.tokens is not None


def _cut(feed: Feed) -> tuple[str, ...]:
    if not feed.truncated:
        return ()
    return (
        f"{feed.truncated:,} of {len(feed):,} training texts were longer than the model reads, and were cut.",
    )


def _split(task: Task, name: str) -> Split:
    found = getattr(task, name, None) if name in ("train", "validation", "test") else None
    if not isinstance(found, Split):
        raise Usage(
            f"the task {task.name} has no split {name!r}; choose another one with --split.",
            code="split-missing",
        )
    return found


def _feed(opened: Opened, split: Split, truncate: bool) -> Feed:
    return Feed(
        split,
        opened.processor,
        max_length=opened.max_length,
        truncate=truncate,
        image_tokens=opened.image_tokens,
        pad_id=opened.pad_id,
    )


def _lengths_of_use(opened: Opened, task: Task, feed: Feed, truncate: bool) -> NDArray[np.int64]:
    """Lengths of validation inputs: the only thing looked at there before the end."""
    if opened.kind == "image":
        return feed.lengths[:1]
    use = _split(task, "validation")
    sample = use.sample(min(len(use), 2000), seed=0)
    return _feed(opened, sample, truncate).lengths


def weights_digest(model: nn.Module) -> str:
    """SHA-256 over all parameters and buffers that are saved."""
    found = hashlib.sha256()
    for name, x in sorted(model.state_dict().items()):
        found.update(name.encode())
        found.update(x.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def weight_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers that are saved."""
    seen: dict[int, Tensor] = {x.data_ptr(): x for x in model.state_dict().values()}
    return sum(x.numel() * x.element_size() for x in seen.values())


def _facts(
    opened: Opened, task: Task, settings: Settings, history: dict[str, dict[str, float]]
) -> dict[str, Any]:
    return {
        "source": opened.name,
        "task": task.name,
        "data": [
            {"file": file, "bytes": size, "sha256": digest} for file, size, digest in task.source_hashes()
        ],
        "seed": settings.seed,
        "settings": vars(settings),
        "training": history,
    }


def _work(out: str | Path) -> Path:
    out = Path(out)
    return out.parent / f"{out.name}.work"


def _clean(folder: Path) -> None:
    """Remove the checkpoints of a run that is finished."""
    if not folder.is_dir():
        return
    for path in folder.rglob("checkpoint-*"):  # nothing else there is ours
        path.unlink()
    for path in [*sorted((p for p in folder.rglob("*") if p.is_dir()), reverse=True), folder]:
        with suppress(OSError):  # not empty: somebody keeps files here
            path.rmdir()


__all__ = [
    "Compressed",
    "DryRun",
    "Evaluation",
    "Opened",
    "compress",
    "evaluate",
    "finetune",
    "open_model",
    "plan_finetuning",
    "plan_run",
    "predict",
]
