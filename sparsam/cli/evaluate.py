"""The command ``evaluate``: one model measured on a split, or two compared."""

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
from sparsam.cli.show import new_console
from sparsam.cli.working import working

if TYPE_CHECKING:
    from sparsam.compress import Evaluation

app = typer.Typer()


@app.command(
    "evaluate",
    short_help="Metric, kept tokens and counted work of a model.",
    help="Metric with its 95 % interval, kept tokens and counted work of a model on a split of a task.",
    epilog=examples(
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
    split_seed: SplitSeed = 0,
    label: Label = None,
    text: Text = None,
    metric: Metric = None,
    no_truncate: NoTruncate = False,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    with working(as_json, debug) as show:
        from sparsam.compress import evaluate, open_model, weight_bytes
        from sparsam.measure import paired_difference

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
