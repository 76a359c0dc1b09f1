"""The command ``inspect``: a model's configuration is read, and what is supported of it is shown."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import typer

from sparsam.cli.answers import answer, complain
from sparsam.cli.options import Debug, Json, ModelName, examples
from sparsam.cli.show import integers_in_words, new_console, new_table, plain
from sparsam.cli.working import working
from sparsam.errors import InputOutput, Refused

if TYPE_CHECKING:
    from rich.table import Table

    from sparsam.plan import Plan

app = typer.Typer()


@app.command(
    "inspect",
    short_help="What is supported of a model, before any compute.",
    help="What sparsam can do with a model, read from its configuration alone, before any compute: what is supported, "
    "what not and why, and its layers. Of a compressed model the plan too. Exit code 3 if it is not supported.",
    epilog=examples(
        "sparsam inspect google-bert/bert-base-uncased",
        "sparsam inspect runs/half --json",
    ),
)
def _inspect(model: ModelName, as_json: Json = False, debug: Debug = False) -> int:
    with working(as_json, debug):
        from sparsam.models import inspect_model

        config, plan, refused = _configuration(model)
        found = inspect_model(config, plan, None if refused is None else str(refused))
    problem = None
    if not found.supported:
        problem = Refused(f"{model} is not supported: {found.problems[0]}", code="model-unsupported")
    if as_json:
        facts = {"model": model} | found.to_json() | {"plan": None if plan is None else plan.to_json()}
        return answer(facts, problem)
    console = new_console()
    table = new_table(f"{model}: {found.model_type}", "part", "", "why")
    for finding in found.findings:
        table.add_row(plain(finding.part), "yes" if finding.supported else "no", plain(finding.reason))
    console.print(table)
    if found.layers:
        console.print(_layers(found.layers, plan, [finding.reason for finding in found.findings]))
    return 0 if problem is None else complain(problem)


def _configuration(source: str) -> tuple[Any, "Plan | None", Refused | None]:
    """The configuration of a model, its plan where it has one, and why its files are refused, if they are.

    The checks are those of every command that opens a model. Reads no weights and runs no code of the model's.

    Raises:
        InputOutput: ``config-missing``, ``safetensors-corrupt``. Refused: ``config-invalid``, or what is wrong with the plan.
    """
    from transformers import CONFIG_MAPPING, PretrainedConfig

    try:
        raw, _ = PretrainedConfig.get_config_dict(source)
    except (OSError, ValueError, RecursionError) as error:
        raise InputOutput(
            f"no configuration of {source!r} was found: {str(error).splitlines()[0].rstrip('.')}. Give a folder with "
            "config.json, or a hub id.",
            code="config-missing",
        ) from error
    if not raw:
        raise InputOutput(
            f"{source} has no config.json. Give a folder with one, or a hub id.", code="config-missing"
        )
    plan, refused = _checked(raw, source)
    raw.pop("quantization_config", None)
    name = raw.get("model_type")
    if not isinstance(name, str) or name not in CONFIG_MAPPING:
        return SimpleNamespace(model_type=str(name)), plan, refused
    try:
        return CONFIG_MAPPING[name].from_dict(raw), plan, refused
    except Exception as error:  # whatever transformers makes of values that are off
        raise Refused(
            f"the configuration of {source} is not valid: {error}. Mend its config.json.",
            code="config-invalid",
        ) from error


def _checked(raw: Mapping[str, Any], source: str) -> tuple["Plan | None", Refused | None]:
    """The plan of a configuration; and the refusal, where it names code, other formats, or is not what was saved."""
    from sparsam import plugin
    from sparsam.artifact import check_config
    from sparsam.plan import Plan

    kept, plan = raw.get("quantization_config"), None
    if isinstance(kept, dict) and kept.get("quant_method") == plugin.METHOD:
        plan = Plan.from_json(kept.get("plan") or {})
    try:
        check_config(raw, source)
        files = sorted(Path(source).glob("model*.safetensors")) if Path(source).is_dir() else []
        plugin.check_files(files, plan, SimpleNamespace(id2label=raw.get("id2label")), tensors=False)
    except Refused as refused:
        return plan, refused
    return plan, None


def _layers(layers: Sequence[Mapping[str, Any]], plan: "Plan | None", above: Sequence[str]) -> "Table":
    """One line a layer: heads and filters, kept of all where a plan says so, the token rule's number, products in integers.

    Where a layer is not supported, also whether each is, and why not, if that does not stand ``above``.
    """
    rule = None if plan is None else plan.tokens
    doubtful = not all(layer["supported"] for layer in layers)
    integers = plan is not None and any(left.formats for left in plan.layers)
    columns = ["layer", "heads", "filters"] + ([] if rule is None else [f"tokens: {rule.rule}"])
    columns += ["in integers"] if integers else []
    table = new_table("layers", *columns, *(["", "why"] if doubtful else []))
    for number, layer in enumerate(layers):
        kept = None if plan is None or number >= len(plan.layers) else plan.layers[number]
        row = [str(number + 1)]
        for part in ("heads", "filters"):
            left = None if kept is None else getattr(kept, part)
            row.append(f"{layer[part]:,}" if left is None else f"{len(left):,} of {layer[part]:,}")
        if rule is not None:
            row.append(_rule_value(rule.rule, rule.values[number]) if number < len(rule.values) else "")
        if integers:
            row.append("none" if kept is None or not kept.formats else integers_in_words(kept.formats))
        if doubtful:
            reason = "as above" if layer["reason"] in above else plain(layer["reason"])
            row += ["yes" if layer["supported"] else "no", reason]
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
