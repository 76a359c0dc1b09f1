"""The command ``finetune``: its options, the training, and its answer."""

from typing import Annotated

import typer

from sparsam.cli.answers import answer, answer_plan, cut_note, score_table
from sparsam.cli.options import (
    BatchTokens,
    Debug,
    DryRunFlag,
    Json,
    Label,
    Metric,
    ModelName,
    NoTruncate,
    Out,
    Precision,
    Seed,
    SplitSeed,
    TaskName,
    Text,
    TrainRows,
    above_zero,
    epochs_option,
    examples,
)
from sparsam.cli.prepare import check_out, load_task
from sparsam.cli.recording import NoProvenance, Recorded
from sparsam.cli.show import duration, new_console, plain
from sparsam.cli.working import working

app = typer.Typer()


@app.command(
    "finetune",
    cls=Recorded,
    short_help="Fine-tune a pretrained encoder for a task.",
    help="Fine-tune a pretrained encoder for a task, on packed batches, and save it as an ordinary folder. MODEL is a "
    "folder, a hub id, or a ViT to make: vit:width=128,layers=4,heads=4,patch=4.",
    epilog=examples(
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
    epochs: Annotated[float, epochs_option("Passes over the training data; may be a fraction.")] = 3.0,
    lr: Annotated[
        float, typer.Option("--lr", metavar="X", callback=above_zero, help="Peak learning rate.")
    ] = 7e-5,
    batch_tokens: BatchTokens = 1024,
    seed: Seed = 0,
    split_seed: SplitSeed = 0,
    precision: Precision = "auto",
    label: Label = None,
    text: Text = None,
    metric: Metric = None,
    train_rows: TrainRows = None,
    no_truncate: NoTruncate = False,
    dry_run: DryRunFlag = False,
    as_json: Json = False,
    no_provenance: NoProvenance = False,
    debug: Debug = False,
) -> int:
    with working(as_json, debug, out) as show:
        check_out(out, model)
        from sparsam.compress import finetune, plan_finetuning, weight_bytes
        from sparsam.training.loop import Settings

        settings = Settings(epochs=epochs, lr=lr, batch_tokens=batch_tokens, seed=seed, precision=precision)
        data = load_task(
            show, task, label, text, metric, split_seed, seed=seed, train_rows=train_rows, train=True
        )
        show.say(f"fine-tuning {model} for {data.name}")
        planned = (
            plan_finetuning(model, data, settings=settings, truncate=not no_truncate) if dry_run else None
        )
        if planned is None:
            made = finetune(
                model, data, out, settings=settings, truncate=not no_truncate, progress=show.progress
            )
    if planned is not None:
        return answer_plan(show, planned, model, data, out, as_json)
    found, size, history = made.evaluation, weight_bytes(made.model), made.history
    show.note_all([*made.notes, cut_note(found)])
    if as_json:
        trained = {name: getattr(history, name) for name in ("steps", "seconds", "samples", "tokens")}
        facts = {"folder": str(out), "task": data.name, "model": found.to_json() | {"bytes": size}}
        return answer(facts | {"training": trained, "notes": show.notes})
    console = new_console()
    console.print(score_table(f"{data.name}, {found.split}", {"fine-tuned": (found, size)}))
    console.print(f"Saved in {plain(out)} after {duration(history.seconds)}.")
    return 0
