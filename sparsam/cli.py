"""The command ``sparsam``: wiring and printing, nothing else.

Standard output holds the answer: a table, or with ``--json`` exactly one JSON object. Progress, notes and errors go to
standard error. Exit codes: 0 done, 1 a fault of sparsam's own, 2 usage, 3 refused, 4 budget missed, 5 input or output,
130 interrupted.

Names of models, labels and files come from outside. They are printed as text: markup is off on every console here, and
:func:`plain` takes out what would steer a terminal. Heavy modules are imported inside the commands, so that ``--help``
starts fast.
"""

import json
import math
import os
import sys
import time
import traceback
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from sparsam.errors import BudgetMissed, InputOutput, Refused, SparsamError, Usage

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from sparsam.compress import Compressed, DryRun, Evaluation, Method
    from sparsam.measure import Measurement
    from sparsam.plan import Plan
    from sparsam.task import Task

MethodName = Literal["ltp", "top-k", "linear-threshold", "random"]


def _ltp(**given: Any) -> "Method":
    from sparsam.tokens import LTP

    return LTP(**_arguments(LTP, "ltp", given))


def _control(name: str) -> Callable[..., "Method"]:
    def build(**given: Any) -> "Method":
        from sparsam.tokens.control import Control

        return Control(name, **_arguments(Control, name, given))

    return build


METHODS: dict[MethodName, Callable[..., "Method"]] = {
    "ltp": _ltp,
    "top-k": _control("top-k"),
    "linear-threshold": _control("linear-threshold"),
    "random": _control("random"),
}
"""Every method of ``--method``: its name, and what builds it from the options given."""


def _arguments(kind: Any, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """A method's arguments from the options given; ``epochs`` is shared out as the method's stages are by default.

    Raises:
        Usage: ``epochs-twice``; ``method-option`` for an option that means nothing to the method.
    """
    given = dict(given)
    takes: dict[str, Any] = {one.name: one.default for one in fields(kind)}
    epochs = given.pop("epochs", None)
    if epochs is not None:
        stages = [stage for stage in ("soft_epochs", "hard_epochs") if stage in takes]
        twice = [_flag(stage) for stage in stages if stage in given]
        if twice:
            raise Usage(
                f"--epochs is the sum of all stages and cannot stand beside {twice[0]}. Give one of them.",
                code="epochs-twice",
            )
        total = sum(float(takes[stage]) for stage in stages)
        given |= {stage: epochs * float(takes[stage]) / total for stage in stages}
    foreign = [_flag(option) for option in given if option not in takes]
    if foreign:
        known = [option for option in METHOD_OPTIONS if option in takes]
        raise Usage(
            f"--method {name} does not know {', '.join(foreign)}; it takes --epochs, {', '.join(map(_flag, known))}.",
            code="method-option",
        )
    return given


METHOD_OPTIONS = (
    "soft", "soft_epochs", "hard_epochs", "lr", "hard_lr", "weight", "temperature", "distill", "distill_states",
)  # fmt: skip


def _flag(option: str) -> str:
    return "--" + option.replace("_", "-")


# --- options ---------------------------------------------------------------------------------------------------------


def _above_zero(value: float | None) -> float | None:
    if value is not None and not (math.isfinite(value) and value > 0):
        raise typer.BadParameter(f"must be above 0; got {value:g}.")
    return value


def _not_negative(value: float | None) -> float | None:
    if value is not None and not (math.isfinite(value) and value >= 0):
        raise typer.BadParameter(f"must be 0 or more; got {value:g}.")
    return value


def _share(value: float | None) -> float | None:
    if value is not None and not 0 <= value <= 1:
        raise typer.BadParameter(f"is a share from 0 to 1; got {value:g}.")
    return value


ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="Folder or hub id.")]
TaskName = Annotated[
    str,
    typer.Option(
        "--task",
        metavar="TASK",
        help="Hub data set (owner/name[:config]), folder, file (parquet, csv, jsonl), or digits.",
    ),
]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write, whole or not at all.")]
Json = Annotated[
    bool, typer.Option("--json", help="One JSON object on standard output, and nothing else there.")
]
Debug = Annotated[
    bool, typer.Option("--debug", help="Show tracebacks, and the warnings of the libraries below.")
]
Label = Annotated[
    str | None, typer.Option("--label", metavar="COLUMN", help="The label's column; found if not named.")
]
Text = Annotated[
    list[str] | None,
    typer.Option(
        "--text", metavar="COLUMN", help="The text's column, or twice for a pair; found if not named."
    ),
]
Metric = Annotated[
    str | None,
    typer.Option("--metric", help="accuracy, f1, matthews or pearson_spearman; by default the task's own."),
]
TrainRows = Annotated[
    int | None,
    typer.Option("--train-rows", metavar="N", min=1, help="Use N rows of the shuffled training data."),
]
NoTruncate = Annotated[
    bool,
    typer.Option(
        "--no-truncate", help="Refuse texts longer than the model can read, instead of cutting them."
    ),
]
BatchTokens = Annotated[int, typer.Option("--batch-tokens", metavar="N", min=1, help="Real tokens a batch.")]
Seed = Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Seed of everything random.")]
Precision = Annotated[
    Literal["auto", "bf16", "fp32"],
    typer.Option("--precision", help="Of training; auto is bf16 where the machine computes in it natively."),
]
DryRunFlag = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Time a few steps of a copy and say what the run would take; write nothing."
    ),
]


def _epochs_option(text: str) -> Any:
    return typer.Option("--epochs", metavar="X", callback=_above_zero, help=text)


def _examples(*lines: str) -> str:
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


app = typer.Typer(
    name="sparsam",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _version(wanted: bool) -> None:
    if wanted:
        from sparsam import __version__

        print(f"sparsam {__version__}")
        raise typer.Exit


@app.callback(
    help="The same answers for less work: transformers made really smaller and faster, saved as ordinary checkpoints.",
    epilog=_examples(
        "sparsam demo",
        "sparsam inspect google-bert/bert-base-uncased",
        "sparsam finetune google-bert/bert-base-uncased --task nyu-mll/glue:sst2 --out runs/dense",
        "sparsam compress runs/dense --task nyu-mll/glue:sst2 --budget macs=0.5x --out runs/half",
        "sparsam evaluate runs/half --task nyu-mll/glue:sst2 --baseline runs/dense",
    )
    + "\n\n\b\nExit codes: 0 done, 1 fault of sparsam, 2 usage, 3 refused, 4 budget missed,\n"
    "5 input or output, 130 interrupted.",
)
def _sparsam(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(Usage.exit_code)


# --- commands --------------------------------------------------------------------------------------------------------


@app.command(
    "finetune",
    short_help="Fine-tune a pretrained encoder for a task.",
    help="Fine-tune a pretrained encoder for a task, on packed batches, and save it as an ordinary folder. MODEL is a "
    "folder, a hub id, or a ViT to make: vit:width=128,layers=4,heads=4,patch=4.",
    epilog=_examples(
        "sparsam finetune google-bert/bert-base-uncased --task nyu-mll/glue:sst2 --out runs/dense",
        "sparsam finetune distilbert/distilbert-base-uncased --task reviews.csv --label stars \\",
        "    --metric accuracy --out runs/stars --dry-run",
        "sparsam finetune vit:width=128,layers=4,heads=4,patch=4 --task fashion/ --epochs 20 \\",
        "    --lr 1e-3 --out runs/fashion",
    ),
)
def _finetune(
    model: ModelName,
    task: TaskName,
    out: Out,
    epochs: Annotated[float, _epochs_option("Passes over the training data; may be a fraction.")] = 3.0,
    lr: Annotated[
        float, typer.Option("--lr", metavar="X", callback=_above_zero, help="Peak learning rate.")
    ] = 7e-5,
    batch_tokens: BatchTokens = 1024,
    seed: Seed = 0,
    precision: Precision = "auto",
    label: Label = None,
    text: Text = None,
    metric: Metric = None,
    train_rows: TrainRows = None,
    no_truncate: NoTruncate = False,
    dry_run: DryRunFlag = False,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    with _working(as_json, debug, out) as show:
        _check_out(out, model)
        from sparsam.compress import finetune, plan_finetuning, weight_bytes
        from sparsam.training.loop import Settings

        settings = Settings(epochs=epochs, lr=lr, batch_tokens=batch_tokens, seed=seed, precision=precision)
        data = _task(show, task, label, text, metric, seed, train_rows, train=True)
        show.say(f"fine-tuning {model} for {data.name}")
        planned = (
            plan_finetuning(model, data, settings=settings, truncate=not no_truncate) if dry_run else None
        )
        if planned is None:
            opened, found, history = finetune(
                model, data, out, settings=settings, truncate=not no_truncate, progress=show.progress
            )
            size = weight_bytes(opened.model)
    if planned is not None:
        return _answer_plan(show, planned, model, data, out, as_json)
    show.note(_cut(found))
    if as_json:
        trained = {name: getattr(history, name) for name in ("steps", "seconds", "samples", "tokens")}
        facts = {"folder": str(out), "task": data.name, "model": found.to_json() | {"bytes": size}}
        return _answer(facts | {"training": trained, "notes": show.notes})
    console = _console()
    console.print(_scores(f"{data.name}, {found.split}", {"fine-tuned": (found, size)}))
    console.print(f"Saved in {plain(out)} after {_span(history.seconds)}.")
    return 0


@app.command(
    "compress",
    short_help="Make a fine-tuned encoder cheaper within a budget.",
    help="Make a fine-tuned encoder cheaper: train it to drop tokens within a budget, save it as an ordinary "
    "checkpoint with a plan, reload that and measure it.",
    epilog=_examples(
        "sparsam compress runs/dense --task nyu-mll/glue:sst2 --budget macs=0.5x --out runs/half",
        "sparsam compress runs/dense --task nyu-mll/glue:sst2 --budget macs=0.4x,accuracy=-1 \\",
        "    --epochs 6 --out runs/small",
        "sparsam compress runs/half --teacher runs/dense --task nyu-mll/glue:sst2 \\",
        "    --budget macs=0.35x --out runs/third",
        "sparsam compress runs/dense --task nyu-mll/glue:sst2 --method top-k --budget macs=0.5x \\",
        "    --out runs/control --dry-run",
    ),
)
def _compress(
    model: ModelName,
    task: TaskName,
    out: Out,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            metavar="KEY=VALUE,...",
            help="What may be spent and lost: macs=0.5x (share of the dense model's "
            "multiply-accumulates), accuracy=-1 (points of the metric).",
        ),
    ] = None,
    method: Annotated[
        MethodName,
        typer.Option(
            "--method", help="ltp learns which tokens to drop; the others are controls that do not."
        ),
    ] = "ltp",
    teacher: Annotated[
        str | None,
        typer.Option(
            "--teacher", metavar="DIR", help="Dense model to learn from and compare with; MODEL if not given."
        ),
    ] = None,
    epochs: Annotated[
        float | None,
        _epochs_option("Epochs in all, shared between the stages as by default (ltp: 1 soft, 2 hard)."),
    ] = None,
    soft_epochs: Annotated[
        float | None,
        typer.Option(
            "--soft-epochs", metavar="X", callback=_not_negative, help="Epochs learning where to cut."
        ),
    ] = None,
    hard_epochs: Annotated[
        float | None,
        typer.Option(
            "--hard-epochs", metavar="X", callback=_not_negative, help="Epochs learning to live with the cut."
        ),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option("--lr", metavar="X", callback=_above_zero, help="Peak learning rate of the soft stage."),
    ] = None,
    hard_lr: Annotated[
        float | None,
        typer.Option(
            "--hard-lr", metavar="X", callback=_above_zero, help="Peak learning rate of the hard stage."
        ),
    ] = None,
    weight: Annotated[
        float | None,
        typer.Option(
            "--weight",
            metavar="X",
            callback=_not_negative,
            help="Lambda, the penalty's weight; steered to the budget if not given.",
        ),
    ] = None,
    soft: Annotated[
        Literal["mask", "scale"] | None,
        typer.Option("--soft", help="Soft stage: mask is cumulative, scale is the LTP paper's."),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            "--temperature", metavar="X", callback=_above_zero, help="Temperature of the soft gates."
        ),
    ] = None,
    distill: Annotated[
        float | None,
        typer.Option(
            "--distill",
            metavar="X",
            callback=_share,
            help="Share of the loss taken from the teacher's answers.",
        ),
    ] = None,
    distill_states: Annotated[
        float | None,
        typer.Option(
            "--distill-states",
            metavar="X",
            callback=_not_negative,
            help="Weight of the distance to the teacher's states.",
        ),
    ] = None,
    batch_tokens: BatchTokens = 1024,
    seed: Seed = 0,
    precision: Precision = "auto",
    label: Label = None,
    text: Text = None,
    metric: Metric = None,
    train_rows: TrainRows = None,
    no_truncate: NoTruncate = False,
    dry_run: DryRunFlag = False,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    given = {
        "epochs": epochs, "soft_epochs": soft_epochs, "hard_epochs": hard_epochs, "lr": lr, "hard_lr": hard_lr,
        "weight": weight, "soft": soft, "temperature": temperature, "distill": distill,
        "distill_states": distill_states,
    }  # fmt: skip
    with _working(as_json, debug, out) as show:
        from sparsam.cost import Budget

        allowed = Budget() if budget is None else Budget.parse(budget)
        _check_out(out, model, teacher)
        from sparsam.compress import compress, plan_run
        from sparsam.training.loop import Settings

        chosen = METHODS[method](**{name: value for name, value in given.items() if value is not None})
        settings = Settings(batch_tokens=batch_tokens, seed=seed, precision=precision)
        data = _task(show, task, label, text, metric, seed, train_rows, train=True)
        show.say(f"compressing {model} for {data.name} with {method}")
        planned = None
        if dry_run:
            planned = plan_run(
                model, data, methods=[chosen], budget=allowed, settings=settings, truncate=not no_truncate
            )
        else:
            made = compress(
                model, data, out=out, methods=[chosen], budget=allowed, teacher=teacher, settings=settings,
                truncate=not no_truncate, progress=show.progress, strict=False,
            )  # fmt: skip
    if planned is not None:
        return _answer_plan(show, planned, model, data, out, as_json)
    return _answer_compressed(show, made, data.name, as_json)


@app.command(
    "evaluate",
    short_help="Metric, kept tokens and counted work of a model.",
    help="Metric with its 95 % interval, kept tokens and counted work of a model on a split of a task.",
    epilog=_examples(
        "sparsam evaluate runs/half --task nyu-mll/glue:sst2",
        "sparsam evaluate runs/half --task nyu-mll/glue:sst2 --baseline runs/dense",
        "sparsam evaluate runs/half --task data/sst2 --split test --json",
    ),
)
def _evaluate(
    model: ModelName,
    task: TaskName,
    split: Annotated[
        Literal["validation", "test", "train"], typer.Option("--split", help="Which rows.")
    ] = "validation",
    baseline: Annotated[
        str | None,
        typer.Option(
            "--baseline", metavar="DIR", help="Another model to compare with, on the same rows, paired."
        ),
    ] = None,
    batch_tokens: BatchTokens = 4096,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", min=0, help="Seed of splits that have to be drawn.")
    ] = 0,
    label: Label = None,
    text: Text = None,
    metric: Metric = None,
    no_truncate: NoTruncate = False,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    with _working(as_json, debug) as show:
        from sparsam.compress import evaluate, open_model, weight_bytes
        from sparsam.measure import paired_difference

        data = _task(show, task, label, text, metric, seed, None)
        found: dict[str, tuple[Evaluation, int]] = {}
        for role, source in {"baseline": baseline, "model": model}.items():
            if source is not None:
                show.say(f"evaluating {source} on {data.name}, {split}")
                opened = open_model(source, data)
                found[role] = (
                    evaluate(
                        opened, data, split=split, batch_tokens=batch_tokens, truncate=not no_truncate,
                        progress=show.progress,
                    ),
                    weight_bytes(opened.model),
                )  # fmt: skip
        new = found["model"][0]
        difference = None
        if "baseline" in found:
            old = found["baseline"][0]
            difference = paired_difference(data.metric, old.predictions, new.predictions, new.labels)
    show.note(_cut(new))
    if as_json:
        facts: dict[str, Any] = {"task": data.name}
        sources = {"model": model, "baseline": baseline}
        facts |= {
            role: {"name": sources[role]} | one.to_json() | {"bytes": size}
            for role, (one, size) in found.items()
        }
        facts |= {} if difference is None else {"difference": difference.as_json()}
        return _answer(facts | {"notes": show.notes})
    console = _console()
    named = {str(baseline if role == "baseline" else model): row for role, row in found.items()}
    console.print(_scores(f"{data.name}, {split}", named))
    if difference is not None:
        console.print(_difference(difference))
    return 0


@app.command(
    "inspect",
    short_help="What is supported of a model, before any compute.",
    help="What sparsam can do with a model, read from its configuration alone, before any compute: what is supported, "
    "what not and why, and its layers. Of a compressed model the plan too. Exit code 3 if it is not supported.",
    epilog=_examples(
        "sparsam inspect google-bert/bert-base-uncased",
        "sparsam inspect runs/half --json",
    ),
)
def _inspect(model: ModelName, as_json: Json = False, debug: Debug = False) -> int:
    with _working(as_json, debug):
        from sparsam.models import inspect_model

        config, plan = _configuration(model)
        found = inspect_model(config)
    problem = None
    if not found.supported:
        reasons = [finding.reason for finding in found.findings if not finding.supported]
        problem = Refused(f"{model} is not supported: {reasons[-1]}", code="model-unsupported")
    if as_json:
        facts = {"model": model} | found.to_json() | {"plan": None if plan is None else plan.to_json()}
        return _answer(facts, problem)
    console = _console()
    table = _table(f"{model}: {found.model_type}", "part", "", "why")
    for finding in found.findings:
        table.add_row(plain(finding.part), "yes" if finding.supported else "no", plain(finding.reason))
    console.print(table)
    if found.layers:
        console.print(_layers(found.layers, plan))
    return 0 if problem is None else _complain(problem)


@app.command(
    "demo",
    short_help="Train, compress and compare on built-in digits.",
    help="Train a small ViT on scikit-learn's handwritten digits, learn which patches it can do without, save it, "
    "reload it and compare. Needs no network and no files; a few minutes on two cores.",
    epilog=_examples("sparsam demo", "sparsam demo --out /tmp/digits --json"),
)
def _demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of both checkpoints.")] = Path(
        "runs/demo"
    ),
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    with _working(as_json, debug, out / "dense", out / "compressed") as show:
        for folder in (out / "dense", out / "compressed"):
            _check_out(folder)
        from sparsam.demo import run_demo

        made = run_demo(out, show.progress, show.say)
    return _answer_compressed(show, made, "digits", as_json)


# --- what the commands share -----------------------------------------------------------------------------------------


def _task(
    show: "Shown",
    spec: str,
    label: str | None,
    text: list[str] | None,
    metric: str | None,
    seed: int,
    train_rows: int | None,
    *,
    train: bool = False,
) -> "Task":
    """The task, with its notes said; ``train``: it must have training rows."""
    from sparsam.task import Task

    show.say(f"reading {spec}")
    task = Task.load(
        spec, label=label, text=tuple(text) if text else None, metric=metric, seed=seed, train_size=train_rows
    )
    for note in task.notes:
        show.note(note)
    if train and task.train is None:
        raise Refused(
            f"{task.name} has no training rows, so nothing can be learned from it. Give data with a train split.",
            code="split-missing",
        )
    return task


def _check_out(out: Path, *sources: str | None) -> None:
    """Refuse before hours of training what could not be saved after them."""
    if out.exists() and not out.is_dir():
        raise InputOutput(f"--out {out} is a file; name a folder.", code="out-not-folder")
    if any(
        source is not None and Path(source).exists() and out.exists() and out.samefile(source)
        for source in sources
    ):
        raise Usage(f"--out {out} is the model that is read; name another folder.", code="out-is-model")
    from sparsam.artifact import is_artifact

    if out.is_dir() and any(out.iterdir()) and not is_artifact(out):
        raise Refused(
            f"--out {out} holds files that sparsam did not write; they are left alone. Name another folder.",
            code="not-an-artifact",
        )
    above = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not (above.is_dir() and os.access(above, os.W_OK)):
        raise InputOutput(
            f"--out {out} cannot be written: {above} is not a folder you may write to.",
            code="out-not-writable",
        )


def _configuration(source: str) -> tuple[Any, "Plan | None"]:
    """The configuration of a model, and its plan where it has one. Reads no weights and runs no code of the model's.

    Raises:
        InputOutput: ``config-missing``. Refused: ``config-invalid``, or what is wrong with the plan.
    """
    from transformers import CONFIG_MAPPING, PretrainedConfig

    from sparsam.plan import Plan

    try:
        raw, _ = PretrainedConfig.get_config_dict(source)
    except (OSError, ValueError) as error:
        raise InputOutput(
            f"no configuration of {source!r} was found: {str(error).splitlines()[0].rstrip('.')}. Give a folder with "
            "config.json, or a hub id.",
            code="config-missing",
        ) from error
    if not raw:
        raise InputOutput(
            f"{source} has no config.json. Give a folder with one, or a hub id.", code="config-missing"
        )
    kept = raw.pop("quantization_config", None)
    plan = None
    if isinstance(kept, dict) and kept.get("quant_method") == "sparsam":
        plan = Plan.from_json(kept.get("plan") or {})
    name = raw.get("model_type")
    if not isinstance(name, str) or name not in CONFIG_MAPPING:
        return SimpleNamespace(model_type=str(name)), plan
    try:
        return CONFIG_MAPPING[name].from_dict(raw), plan
    except Exception as error:  # whatever transformers makes of values that are off
        raise Refused(
            f"the configuration of {source} is not valid: {error}. Mend its config.json.",
            code="config-invalid",
        ) from error


# --- answers ---------------------------------------------------------------------------------------------------------


def _answer(facts: Mapping[str, Any], problem: SparsamError | None = None) -> int:
    """Print the one JSON object; with a problem, its ``error`` too. Returns the exit code."""
    whole = (
        dict(facts)
        if problem is None
        else {**facts, "error": {"code": problem.code, "message": str(problem)}}
    )
    print(json.dumps(whole, allow_nan=False))
    return 0 if problem is None else problem.exit_code


def _answer_compressed(show: "Shown", made: "Compressed", task: str, as_json: bool) -> int:
    show.note(_cut(made.compressed))
    problem = None
    if not made.met:
        missed = " ".join(made.missed)
        problem = BudgetMissed(
            f"the budget is missed. {missed} The best that was found is kept in {made.folder}. Allow more, or train "
            "longer (--epochs).",
            code="budget-missed",
        )
    if as_json:
        notes = [*made.notes, *(note for note in show.notes if note not in made.notes)]
        return _answer(made.to_json() | {"task": task, "notes": notes}, problem)
    console = _console()
    rows = {"dense": (made.dense, made.dense_bytes), "compressed": (made.compressed, made.compressed_bytes)}
    console.print(_scores(f"{task}, {made.compressed.split}", rows))
    console.print(_difference(made.difference))
    console.print(f"Saved in {plain(made.folder)}; both rows were measured, the compressed one after reload.")
    return 0 if problem is None else _complain(problem)


def _answer_plan(show: "Shown", planned: "DryRun", model: str, task: "Task", out: Path, as_json: bool) -> int:
    rows = 0 if task.train is None else len(task.train)
    if as_json:
        facts = {"dry_run": True, "model": model, "task": task.name, "train_rows": rows, "folder": str(out)}
        return _answer(facts | planned.to_json() | {"notes": show.notes})
    console = _console()
    table = _table(
        f"{model} on {task.name}: {rows:,} training rows", "stage", "epochs", "steps", "a step", "time", "in"
    )
    for stage in planned.stages:
        table.add_row(
            plain(stage["stage"]), f"{stage['epochs']:g}", f"{stage['steps']:,}",
            f"{float(stage['seconds_per_step']):.3f} s", _span(float(stage["seconds"])), plain(stage["precision"]),
        )  # fmt: skip
    console.print(table)
    console.print(
        f"{_count(planned.parameters)} parameters; about {_span(planned.seconds)} of training; memory peaked at "
        f"{planned.peak_memory_bytes / 1e9:.1f} GB while these steps were timed. Nothing was written."
    )
    return 0


def _scores(title: str, rows: "Mapping[str, tuple[Evaluation, int]]") -> "Table":
    """One line a model: metric with interval, counted work, tokens kept, size."""
    first = next(iter(rows.values()))[0].metric
    percent = first.unit == "fraction" and first.what == "accuracy"
    what = first.what if percent or first.unit != "fraction" else f"{first.what} × 100"
    table = _table(
        title,
        "model",
        f"{what} (95 %)",
        "MACs",
        "MACs a sample",
        "tokens kept after each layer, %",
        "size",
    )
    for column in table.columns[1:]:
        column.no_wrap = not str(column.header).startswith("tokens")
    for name, (found, size) in rows.items():
        scale = 100 if found.metric.unit == "fraction" else 1
        value, low, high = (scale * x for x in (found.metric.value, found.metric.low, found.metric.high))
        table.add_row(
            plain(name),
            f"{value:.2f}{' %' if percent else ''} ({low:.2f}–{high:.2f})",
            f"{found.macs_ratio:.3f}x",
            _count(found.cost.macs / max(found.cost.samples, 1)),
            " ".join(f"{100 * layer['ffn']:.0f}" for layer in found.kept),
            f"{size / 1e6:.2f} MB",
        )
    return table


def _difference(found: "Measurement") -> str:
    """The paired difference in words."""
    line = f"Paired difference: {found.value:+.2f} {found.unit} (95 % interval {found.low:+.2f} to {found.high:+.2f}) "
    line += f"over {found.n:,} rows"
    extra = found.extra
    if "lost" in extra:
        line += f"; {extra['lost']} lost, {extra['won']} won, {extra['changed']} answers changed"
        line += f", p = {float(extra['p']):.3g}"
    return line + "."


def _layers(layers: Sequence[Mapping[str, int]], plan: "Plan | None") -> "Table":
    """One line a layer: heads and filters, kept of all where a plan says so, and the token rule's number."""
    rule = None if plan is None else plan.tokens
    columns = ["layer", "heads", "filters"] + ([] if rule is None else [f"tokens: {rule.rule}"])
    table = _table("layers", *columns)
    for number, layer in enumerate(layers):
        kept = None if plan is None or number >= len(plan.layers) else plan.layers[number]
        row = [str(number + 1)]
        for part in ("heads", "filters"):
            left = None if kept is None else getattr(kept, part)
            row.append(f"{layer[part]:,}" if left is None else f"{len(left):,} of {layer[part]:,}")
        if rule is not None and number < len(rule.values):
            row.append(_rule_value(rule.rule, rule.values[number]))
        table.add_row(*row)
    return table


def _rule_value(rule: str, value: float | None) -> str:
    """A token rule's number in one layer, in words."""
    from sparsam.tokens.ltp import ONLY_PROTECTED

    if value is None:
        return "all stay"
    if rule in ("ltp", "linear-threshold"):
        return "class token only" if value >= ONLY_PROTECTED else f"score of {value:.3f} or more"
    return f"{100 * value:.1f} % stay"


def _cut(found: "Evaluation") -> str | None:
    """How many texts were cut, in words; None if none was."""
    if not found.truncated:
        return None
    return (
        f"{found.truncated:,} of {found.metric.n:,} texts of {found.split} are longer than the model can read and were "
        "cut (--no-truncate refuses them)"
    )


# --- printing --------------------------------------------------------------------------------------------------------

_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def plain(text: object) -> str:
    r"""``text`` on one line, without what would steer a terminal: control characters, changes of direction.

    >>> plain("a\x1b[31mb\nc")
    'a[31mb c'
    """
    shown = []
    for character in str(text):
        kind = unicodedata.category(character)
        if character in "\t\n\r" or kind in ("Zl", "Zp"):
            shown.append(" ")
        elif kind == "Cs":
            shown.append("?")
        elif kind != "Cc" and character not in _DIRECTIONS:
            shown.append(character)
    return "".join(shown)


def _console(error: bool = False) -> "Console":
    """A console on which text is text: no markup, no emoji codes, no guessed colours."""
    from rich.console import Console

    stream = sys.stderr if error else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else 120
    return Console(file=stream, markup=False, emoji=False, highlight=False, width=width, soft_wrap=False)


def _table(title: str, *columns: str) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(title=plain(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _count(number: float) -> str:
    """A large number with its power of a thousand: 1.36 G."""
    for power, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= power:
            return f"{number / power:.3g} {letter}"
    return f"{number:.3g}"


def _span(seconds: float) -> str:
    """A time in the unit that suits it."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


class Progress:
    """Stages on standard error: bars with the time left on a terminal, elsewhere a line now and then."""

    SECONDS = 15.0
    """Between two lines. Chosen by us."""

    FIGURES = ("loss", "macs", "lambda")
    """What is shown of the figures that training gives."""

    def __init__(self, console: "Console", clock: Callable[[], float] = time.monotonic) -> None:
        self.console, self.clock = console, clock
        self.bars: Any = None
        self.bar: Any = None
        self.stage, self.step = "", 0
        self.first = (0, 0.0)
        self.last_line = -math.inf

    def __call__(self, stage: str, step: int, total: int, figures: Mapping[str, float]) -> None:
        """Step ``step`` of ``total`` of a stage is done."""
        new = stage != self.stage or step <= self.step
        self.stage, self.step = stage, step
        said = ", ".join(f"{name} {figures[name]:.3g}" for name in self.FIGURES if name in figures)
        if new:
            self.first, self.last_line = (step, self.clock()), -math.inf
        if self.console.is_terminal:
            self._move(new, stage, step, total, said)
        elif step == total or self.clock() - self.last_line >= self.SECONDS:
            self.last_line = self.clock()
            parts = [
                f"{plain(stage)} {step:,}/{total:,} ({100 * step / max(total, 1):.0f} %)",
                self._left(total),
                said,
            ]
            self.console.print(", ".join(part for part in parts if part), soft_wrap=True)

    def _left(self, total: int) -> str:
        """The time left, from the pace since this process began the stage; empty while there is no pace."""
        done, seconds = self.step - self.first[0], self.clock() - self.first[1]
        return f"{_span(seconds / done * (total - self.step))} left" if done > 0 and self.step < total else ""

    def _move(self, new: bool, stage: str, step: int, total: int, said: str) -> None:
        from rich import progress

        if self.bars is None:
            self.bars = progress.Progress(
                progress.TextColumn("{task.description}", markup=False), progress.BarColumn(),
                progress.MofNCompleteColumn(), progress.TimeElapsedColumn(), progress.TimeRemainingColumn(),
                progress.TextColumn("{task.fields[said]}", markup=False), console=self.console,
            )  # fmt: skip
            self.bars.start()
        if new:
            self.bar = self.bars.add_task(plain(stage), total=total, completed=step, said=said)
        else:
            self.bars.update(self.bar, completed=step, said=said)

    def close(self) -> None:
        """Leave the bars as they stand."""
        if self.bars is not None:
            self.bars.stop()


@dataclass
class Shown:
    """What a running command shows beside its answer, on standard error."""

    console: "Console"
    progress: Progress
    notes: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        """A line on what is going on."""
        self.console.print(plain(text), soft_wrap=True)

    def note(self, text: str | None) -> None:
        """A fact that the user should know; said once, and kept for the JSON answer."""
        if text is not None and text not in self.notes:
            self.notes.append(text)
            self.console.print(f"note: {plain(text)}", soft_wrap=True)


class Interrupted(Exception):
    """The user stopped the command; the text says how to go on."""


@contextmanager
def _working(as_json: bool, debug: bool, *outs: Path) -> Iterator[Shown]:
    """Run a command's work: what libraries print goes to standard error, their chatter is off, Ctrl-C is explained."""
    console = _console(error=True)
    show = Shown(console, Progress(console))
    with ExitStack() as stack:
        stack.callback(show.progress.close)
        if not debug:
            stack.enter_context(_hushed())
        if as_json:
            stack.enter_context(redirect_stdout(sys.stderr))
        try:
            yield show
        except KeyboardInterrupt:
            kept = [
                work
                for out in outs
                if (work := Path(f"{out}.work")).is_dir() and any(work.rglob("*.safetensors"))
            ]
            if kept:
                how = (
                    f"Run the same command again to go on from the checkpoint in {', '.join(map(str, kept))}."
                )
            else:
                how = "No checkpoint was written yet; the same command starts anew." if outs else ""
            raise Interrupted(f"interrupted. {how}".strip()) from None


@contextmanager
def _hushed() -> Iterator[None]:
    """No warnings and no progress bars of the libraries below."""
    from huggingface_hub import logging as of_hub
    from transformers.utils import logging as of_transformers

    logging: Any = of_transformers
    hub_logging: Any = of_hub
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    hub_level = hub_logging.get_verbosity()
    logging.set_verbosity_error()
    hub_logging.set_verbosity_error()  # it tells of every retry
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        hub_logging.set_verbosity(hub_level)
        if bars:
            logging.enable_progress_bar()


def _complain(error: SparsamError) -> int:
    """Say an error on standard error; returns its exit code."""
    print(f"error [{plain(error.code)}]: {plain(error)}", file=sys.stderr)
    return error.exit_code


#: Base of typer's usage errors; its module moved when typer stopped depending on click.
_TyperUsage: Any = typer.BadParameter.__bases__[0]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. ``arguments`` are the process's own if absent."""
    # torch reads this at its first allocation: huge pages for large tensors. Training spends 6 % less time (fresh gradients of
    # an embedding table are 12,000 small pages otherwise).
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    as_json, debug = "--json" in arguments, "--debug" in arguments
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(
                errors="replace"
            )  # a terminal that cannot show a character shows a question mark
    try:
        return int(app(arguments, prog_name="sparsam", standalone_mode=False) or 0)
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        code, text, exit_code = _explained(error)
        if debug and exit_code != _TyperUsage.exit_code:
            traceback.print_exception(error, file=sys.stderr)
        if as_json:
            print(json.dumps({"error": {"code": code, "message": text}}))
        print(f"error [{plain(code)}]: {plain(text)}", file=sys.stderr)
        if exit_code == 1 and not debug:
            print("run with --debug for the traceback", file=sys.stderr)
        return exit_code


def _explained(error: Any) -> tuple[str, str, int]:
    """Code, text and exit code of what ended a command."""
    if isinstance(error, SparsamError):
        return error.code, str(error), error.exit_code
    if isinstance(error, Interrupted):
        return "interrupted", str(error), 130
    if isinstance(error, _TyperUsage):
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "sparsam"
        return "usage", f"{error.format_message()} See {command} --help.", Usage.exit_code
    if isinstance(error, OSError):
        return "input-output", str(error) or type(error).__name__, InputOutput.exit_code
    return "fault", f"{type(error).__name__}: {error}", 1


assert set(METHODS) == set(get_args(MethodName))

if __name__ == "__main__":
    sys.exit(main())
