"""The command ``compress``: its options, and the call of the main road."""

from typing import Annotated, Literal

import typer

from sparsam.cli.answers import answer_compressed, answer_plan
from sparsam.cli.methods import METHODS, MethodName
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
    not_negative,
    share,
)
from sparsam.cli.prepare import check_out, load_task
from sparsam.cli.recording import NoProvenance, Recorded
from sparsam.cli.working import working

app = typer.Typer()


@app.command(
    "compress",
    cls=Recorded,
    short_help="Make a fine-tuned encoder cheaper within a budget.",
    help="Make a fine-tuned encoder cheaper: drop tokens, heads and filters within a budget, put its products in integers, "
    "save it as an ordinary checkpoint with a plan, reload that and measure it.",
    epilog=examples(
        "sparsam compress runs/dense --task nyu-mll/glue:sst2 --budget macs=0.5x --out runs/half",
        "sparsam compress runs/dense --task nyu-mll/glue:sst2 --method ftpp --budget macs=0.6x --out runs/pruned",
        "sparsam compress runs/dense --task nyu-mll/glue:sst2 --method int8 --budget accuracy=-0.5 --out runs/int8",
        "sparsam compress runs/dense --task nyu-mll/glue:sst2 --budget macs=0.4x,accuracy=-1 \\",
        "    --epochs 6 --out runs/small",
        "sparsam compress runs/dense --task nyu-mll/glue:sst2 --budget throughput=2.5x,accuracy=-1 --out runs/fast",
        "sparsam compress runs/dense --task nyu-mll/glue:sst2 --budget latency=8ms,bytes=40MB --out runs/edge",
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
            help="What may be spent and lost: macs=0.5x (share of the dense model's multiply-accumulates), bytes=0.5x, "
            "throughput=2.5x (of the packed dense form, samples a second), latency=0.4x (of its p50, one at a time), "
            "accuracy=-1 (points of the metric). In their own units: macs=120M (a sample), bytes=20MB, throughput=900/s, "
            "latency=8ms. All that are named are kept.",
        ),
    ] = None,
    method: Annotated[
        MethodName | None,
        typer.Option(
            "--method",
            help="ltp learns which tokens to drop; ftpp removes heads and filters without training; ltp+ftpp does one after "
            "the other; int8 puts products in integers, alone or last; the rest are controls that learn nothing. "
            "Not given: ltp, or what suits this machine of tokens, heads, filters and integers where the budget "
            "names throughput or latency (bytes: ftpp+int8).",
        ),
    ] = None,
    batch: Annotated[
        int,
        typer.Option("--batch", metavar="N", min=1, help="Samples of a batch that throughput is meant for."),
    ] = 32,
    teacher: Annotated[
        str | None,
        typer.Option(
            "--teacher", metavar="DIR", help="Dense model to learn from and compare with; MODEL if not given."
        ),
    ] = None,
    epochs: Annotated[
        float | None,
        epochs_option("Epochs in all, shared between the stages as by default (ltp: 1 soft, 2 hard)."),
    ] = None,
    soft_epochs: Annotated[
        float | None,
        typer.Option(
            "--soft-epochs", metavar="X", callback=not_negative, help="Epochs learning where to cut."
        ),
    ] = None,
    hard_epochs: Annotated[
        float | None,
        typer.Option(
            "--hard-epochs", metavar="X", callback=not_negative, help="Epochs learning to live with the cut."
        ),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option("--lr", metavar="X", callback=above_zero, help="Peak learning rate of the soft stage."),
    ] = None,
    hard_lr: Annotated[
        float | None,
        typer.Option(
            "--hard-lr", metavar="X", callback=above_zero, help="Peak learning rate of the hard stage."
        ),
    ] = None,
    weight: Annotated[
        float | None,
        typer.Option(
            "--weight",
            metavar="X",
            callback=not_negative,
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
            "--temperature",
            metavar="X",
            callback=above_zero,
            help="Temperature of the soft gates, as a share of the spread of each layer's scores.",
        ),
    ] = None,
    distill: Annotated[
        float | None,
        typer.Option(
            "--distill",
            metavar="X",
            callback=share,
            help="Share of the loss taken from the teacher's answers.",
        ),
    ] = None,
    distill_states: Annotated[
        float | None,
        typer.Option(
            "--distill-states",
            metavar="X",
            callback=not_negative,
            help="Weight of the distance to the teacher's states.",
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            "--samples",
            metavar="N",
            min=2,
            help="ftpp, int8: calibration rows; 2,048 and 512, or all, if not given.",
        ),
    ] = None,
    score: Annotated[
        Literal["fisher", "magnitude", "random"] | None,
        typer.Option(
            "--score", help="ftpp: what heads and filters are ranked by; the last two are controls."
        ),
    ] = None,
    rearrange: Annotated[
        bool,
        typer.Option("--no-rearrange", help="ftpp: keep the search's own choice inside each layer."),
    ] = False,
    tune: Annotated[
        Literal["full", "scale", "none"] | None,
        typer.Option(
            "--tune",
            help="ftpp: solve the kept output weights anew, or one scale a unit as the paper, or none.",
        ),
    ] = None,
    multiple: Annotated[
        int | None,
        typer.Option(
            "--multiple", metavar="N", min=1, help="ftpp: filters stay in multiples of this; 16 if not given."
        ),
    ] = None,
    labels: Annotated[
        Literal["data", "sampled"] | None,
        typer.Option("--labels", help="ftpp: the data's labels, or drawn from the model's own answers."),
    ] = None,
    recover: Annotated[
        float | None,
        typer.Option(
            "--recover",
            metavar="EPOCHS",
            callback=not_negative,
            help="ftpp: epochs of learning from the dense model afterwards; if not given 0, or with ltp half the hard ones.",
        ),
    ] = None,
    recover_lr: Annotated[
        float | None,
        typer.Option(
            "--recover-lr", metavar="X", callback=above_zero, help="ftpp: peak learning rate of that."
        ),
    ] = None,
    bits: Annotated[
        str | None,
        typer.Option(
            "--bits",
            metavar="N|mixed",
            help="int8: bits of the products' weights, 2 to 8; 8 if not given. mixed chooses for each product, within "
            "--budget bytes=..., --bitops, or throughput=... and latency=... where int8 is the only method.",
        ),
    ] = None,
    sensitivity: Annotated[
        Literal["kl", "hessian", "fisher"] | None,
        typer.Option(
            "--sensitivity",
            help="int8, mixed bits: what a product loses, by the answers while it alone is rounded (kl, as if not given), by "
            "the Hessian's trace, or by squared gradients.",
        ),
    ] = None,
    bitops: Annotated[
        float | None,
        typer.Option(
            "--bitops",
            metavar="X",
            callback=above_zero,
            help="int8, mixed bits: bit operations (MACs times the bits of either side) as a share of those of eight bits.",
        ),
    ] = None,
    inputs: Annotated[
        Literal["token", "tensor"] | None,
        typer.Option(
            "--inputs",
            help="int8: inputs on a grid of their own token by token, as if not given, or on one that calibration gave.",
        ),
    ] = None,
    range_: Annotated[
        Literal["minmax", "ema", "percentile", "mse", "kl", "aciq"] | None,
        typer.Option("--range", help="int8: where the calibrated grid of inputs ends; mse if not given."),
    ] = None,
    clip: Annotated[
        Literal["minmax", "mse"] | None,
        typer.Option(
            "--clip",
            help="int8: where the grid of an output's weights ends; minmax if not given, mse below eight bits.",
        ),
    ] = None,
    correct: Annotated[
        bool,
        typer.Option("--correct", help="int8: move the weights' mean error into the biases."),
    ] = False,
    smooth: Annotated[
        float | None,
        typer.Option(
            "--smooth",
            metavar="X",
            callback=share,
            help="int8: SmoothQuant's alpha; for models whose norms stand before each half.",
        ),
    ] = None,
    embeddings: Annotated[
        Literal["8", "none"] | None,
        typer.Option(
            "--embeddings",
            help="int8: bits of the words' embeddings; 8 if not given and the model reads words.",
        ),
    ] = None,
    qat: Annotated[
        float | None,
        typer.Option(
            "--qat",
            metavar="EPOCHS",
            callback=not_negative,
            help="int8: epochs of learning from the dense model with everything rounded; none if not given.",
        ),
    ] = None,
    qat_lr: Annotated[
        float | None,
        typer.Option("--qat-lr", metavar="X", callback=above_zero, help="int8: peak learning rate of that."),
    ] = None,
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
    given = {
        "epochs": epochs, "soft_epochs": soft_epochs, "hard_epochs": hard_epochs, "lr": lr, "hard_lr": hard_lr,
        "weight": weight, "soft": soft, "temperature": temperature, "distill": distill,
        "distill_states": distill_states, "samples": samples, "score": score, "rearrange": False if rearrange else None,
        "tune": tune, "multiple": multiple, "labels": labels, "recover_epochs": recover, "recover_lr": recover_lr,
        "bits": int(bits) if bits is not None and bits.isdecimal() else bits, "sensitivity": sensitivity, "bitops": bitops,
        "inputs": inputs, "range": range_, "clip": clip, "correct": correct or None, "smooth": smooth,
        "embeddings": embeddings, "qat_epochs": qat, "qat_lr": qat_lr,
    }  # fmt: skip
    with working(as_json, debug, out) as show:
        from sparsam.cost import Budget

        allowed = Budget() if budget is None else Budget.parse(budget)
        check_out(out, model, teacher)
        from sparsam.compress import compress, plan_run
        from sparsam.training.loop import Settings

        usual: MethodName = (
            "ltp+ftpp+int8" if allowed.timed else "ftpp+int8" if allowed.names("bytes") else "ltp"
        )
        name = method or usual
        chosen = METHODS[name](**{name: value for name, value in given.items() if value is not None})
        settings = Settings(batch_tokens=batch_tokens, seed=seed, precision=precision)
        data = load_task(
            show, task, label, text, metric, split_seed, seed=seed, train_rows=train_rows, train=True
        )
        show.say(f"compressing {model} for {data.name} with {name}")
        planned = None
        if dry_run:
            planned = plan_run(
                model, data, methods=chosen, budget=allowed, teacher=teacher, settings=settings,
                truncate=not no_truncate, batch=batch,
            )  # fmt: skip
        else:
            made = compress(
                model, data, out=out, methods=chosen, budget=allowed, teacher=teacher, settings=settings,
                truncate=not no_truncate, progress=show.progress, strict=False, batch=batch,
            )  # fmt: skip
    if planned is not None:
        return answer_plan(show, planned, model, data, out, as_json)
    return answer_compressed(show, made, data.name, as_json)
