"""The command ``evaluate``: one model measured on a split, or two compared."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sparsam.cli.answers import answer, cut_note, difference_line, score_table
from sparsam.cli.options import (
    BatchTokens,
    Debug,
    Json,
    Label,
    Metric,
    ModelName,
    NoTruncate,
    SplitSeed,
    TaskName,
    Text,
    examples,
)
from sparsam.cli.prepare import load_task
from sparsam.cli.recording import NoProvenance, Recorded
from sparsam.cli.show import new_console
from sparsam.cli.working import working
from sparsam.errors import Usage

if TYPE_CHECKING:
    from sparsam.compress import Evaluation

app = typer.Typer()


@app.command(
    "evaluate",
    cls=Recorded,
    short_help="Metric, kept tokens and counted work of a model.",
    help="Metric with its 95 % interval, kept tokens and counted work of a model on a split of a task.",
    epilog=examples(
        "sparsam evaluate runs/half --task nyu-mll/glue:sst2",
        "sparsam evaluate runs/half --task nyu-mll/glue:sst2 --baseline runs/dense",
        "sparsam evaluate runs/half --task data/sst2 --split test --json",
        "sparsam evaluate runs/half --task data/sst2 --baseline runs/dense --record",
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
    split_seed: SplitSeed = 0,
    label: Label = None,
    text: Text = None,
    metric: Metric = None,
    no_truncate: NoTruncate = False,
    record: Annotated[
        bool,
        typer.Option(
            "--record", help="Keep the figures in MODEL's folder, which sparsam wrote, for sparsam report."
        ),
    ] = False,
    as_json: Json = False,
    no_provenance: NoProvenance = False,
    debug: Debug = False,
) -> int:
    with working(as_json, debug) as show:
        from sparsam.compress import evaluate, open_model, weight_bytes
        from sparsam.measure import machine_facts, paired_difference

        if record:
            _check_record(model)
        data = load_task(show, task, label, text, metric, split_seed)
        found: dict[str, tuple[Evaluation, int]] = {}
        for role, source in {"baseline": baseline, "model": model}.items():
            if source is not None:
                show.say(f"evaluating {source} on {data.name}, {split}")
                opened = open_model(source, data)
                show.note_all(opened.notes)
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
        measured: dict[str, Any] = {
            {"model": "model", "baseline": "dense"}[role]: one.to_json() | {"bytes": size}
            for role, (one, size) in found.items()
        }
        if difference is not None:
            measured["dense"]["name"] = str(baseline)
            measured["difference"] = difference.as_json()
        if record:
            from sparsam.artifact import write_record

            notes = {"task": data.name, "notes": list(show.notes), "machine": machine_facts()}
            show.say(f"kept in {write_record(model, measured | notes)}")
    show.note(cut_note(new))
    if as_json:
        facts: dict[str, Any] = {"task": data.name}
        sources = {"model": model, "baseline": baseline}
        facts |= {
            role: {"name": sources[role]} | one.to_json() | {"bytes": size}
            for role, (one, size) in found.items()
        }
        facts |= {} if difference is None else {"difference": difference.as_json()}
        return answer(facts | {"notes": show.notes})
    console = new_console()
    named = {str(baseline if role == "baseline" else model): row for role, row in found.items()}
    console.print(score_table(f"{data.name}, {split}", named))
    if difference is not None:
        console.print(difference_line(difference))
    return 0


def _check_record(model: str) -> None:
    """Refuse before the work what has no place for its figures."""
    from sparsam.artifact import MANIFEST

    if not (Path(model) / MANIFEST).is_file():
        raise Usage(
            f"--record keeps figures beside a model that sparsam wrote; {model} has no {MANIFEST}. Leave --record out, and "
            "take the figures from --json.",
            code="record",
        )
