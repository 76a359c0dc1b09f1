"""From runs and benchmarks to what each section of the page shows: plain values and finished figures, no markup."""

from collections.abc import Mapping, Sequence
from typing import Any

from sparsam.report.bench import Bench
from sparsam.report.examples import Example
from sparsam.report.figures import (
    count,
    metric_name,
    number,
    pairs,
    scaled,
    signed,
    size,
    unit,
    words,
)
from sparsam.report.pictures import Point, plots
from sparsam.report.runs import Run, Score

View = dict[str, Any]

_SAID = ("settings", "training", "methods", "budget", "data", "trained_on")
"""Facts with a place of their own in the recipe."""

MOST_HEADLINES = 2
"""Models whose figures stand large at the top. Chosen by us."""


def evaluations(runs: Sequence[Run]) -> list[View]:
    """One picture and table for each task, split and metric: the models measured on it, dense ones first."""
    groups: dict[tuple[str, ...], list[tuple[str, Score, Run]]] = {}
    for run in runs:
        if run.evaluated is None:
            continue
        for name, score in _scores(run):
            key = (run.evaluated.task, score.split, score.what, score.unit)
            groups.setdefault(key, []).append((name, score, run))
    return [_evaluation(key, _once(group)) for key, group in groups.items()]


def _scores(run: Run) -> list[tuple[str, Score]]:
    assert run.evaluated is not None
    found = [(run.name, run.evaluated.model)]
    dense = run.evaluated.dense
    if dense is None:
        return found
    return [(dense.name.rstrip("/").rpartition("/")[2] or f"dense model of {run.name}", dense), *found]


def _once(group: Sequence[tuple[str, Score, Run]]) -> list[tuple[str, Score, Run]]:
    """Each measurement once: a dense model may be a run of its own and also what another run was compared with."""
    found: dict[tuple[Any, ...], tuple[str, Score, Run]] = {}
    for name, score, run in group:
        key = (score.value, score.low, score.high, score.n, score.macs_per_sample, score.bytes)
        own = run.evaluated is not None and run.evaluated.model is score
        if key not in found or (own and not _own(found[key])):
            found[key] = (name, score, run)
    return sorted(found.values(), key=lambda one: not _dense(one[1]))


def _own(entry: tuple[str, Score, Run]) -> bool:
    return entry[2].evaluated is not None and entry[2].evaluated.model is entry[1]


def _dense(score: Score) -> bool:
    """Whether nothing was left out."""
    return score.macs_ratio == 1


def _evaluation(key: tuple[str, ...], group: Sequence[tuple[str, Score, Run]]) -> View:
    points, rows = [], []
    for name, score, run in group:
        value, low, high = (scaled(score, x) for x in (score.value, score.low, score.high))
        points.append(Point(name, score.macs_ratio, value, low, high, _dense(score)))
        away = (
            run.evaluated.difference if run.evaluated is not None and run.evaluated.model is score else None
        )
        rows.append(
            {
                "name": name,
                "dense": _dense(score),
                "value": f"{value:.2f}{unit(score)}",
                "interval": f"{low:.2f} to {high:.2f}",
                "n": f"{score.n:,}",
                "macs": f"{score.macs_ratio:.3f}×",
                "away": "" if away is None else f"{signed(away.value)} {away.unit}",
                "away_interval": "" if away is None else f"{signed(away.low)} to {signed(away.high)}",
                "flips": () if away is None else _flips(away.extra),
            }
        )
    first = group[0][1]
    drawn = plots(points, unit(first))
    return {
        "task": key[0],
        "split": key[1],
        "what": metric_name(first),
        "unit": unit(first).strip(),
        "plots": drawn,
        "numbered": not all(plot.named for plot in drawn),
        "rows": rows,
        "compared": any(row["away"] for row in rows),
    }


def _flips(extra: Mapping[str, float | int]) -> tuple[str, ...]:
    """How many answers went wrong and how many came right, and how likely that is by chance."""
    if not {"lost", "won", "p"} <= extra.keys():
        return ()
    return (f"{words(extra['lost'])} lost, {words(extra['won'])} won", f"p = {number(float(extra['p']))}")


def headlines(runs: Sequence[Run]) -> list[View]:
    """The few figures that say it all, for each compressed model that was measured; where there are more, the table says it."""
    found = []
    for run in runs:
        score = None if run.evaluated is None else run.evaluated.model
        if run.evaluated is None or score is None or _dense(score):
            continue
        away = run.evaluated.difference
        found.append(
            {
                "name": run.name,
                "macs": f"{score.macs_ratio:.2f}×",
                "away": "" if away is None else signed(away.value),
                "away_unit": "" if away is None else away.unit,
                "away_interval": "" if away is None else f"{signed(away.low)} to {signed(away.high)}",
                "n": f"{score.n:,}",
                "what": score.what,
                "kept": f"{100 * sum(layer.ffn for layer in score.kept) / len(score.kept):.0f} %"
                if score.kept
                else "",
            }
        )
    return found if len(found) <= MOST_HEADLINES else []


def kept(runs: Sequence[Run]) -> list[View]:
    """Tokens kept layer by layer, for each model that drops some."""
    return [
        {
            "name": run.name,
            "layers": [
                {
                    "layer": at + 1,
                    "rule": _rule_in(run, at),
                    "attention": round(100 * layer.attention, 1),
                    "ffn": round(100 * layer.ffn, 1),
                }
                for at, layer in enumerate(run.evaluated.model.kept)
            ],
        }
        for run in runs
        if run.evaluated is not None
        and run.evaluated.model.kept
        and run.plan is not None
        and run.plan.tokens is not None
    ]


def _rule_in(run: Run, layer: int) -> str:
    """What the token rule asks for in one layer, in words."""
    from sparsam.tokens.ltp import ONLY_PROTECTED

    tokens = run.plan.tokens if run.plan is not None else None
    if tokens is None or layer >= len(tokens.values):
        return ""
    value = tokens.values[layer]
    if value is None:
        return "all stay"
    if tokens.rule in ("ltp", "linear-threshold"):
        return "class token only" if value >= ONLY_PROTECTED else f"threshold {value:.3f}"
    return f"{100 * value:.1f} % stay"


def pictures(examples: Mapping[str, Sequence[Example]]) -> list[View]:
    """Example images with the patches that are gone after each layer; places in units of one patch."""
    return [
        {
            "name": name,
            "images": [
                {
                    "id": f"image-{number}-{at}",
                    "png": one.png,
                    "label": one.label,
                    "answer": one.answer,
                    "right": one.label == one.answer,
                    "row": one.row,
                    "down": one.down,
                    "across": one.across,
                    "patches": one.patches,
                    "layers": [
                        {
                            "layer": layer + 1,
                            "left": len(left),
                            "gone": [
                                (patch % one.across, patch // one.across)
                                for patch in range(one.patches)
                                if patch not in set(left)
                            ],
                        }
                        for layer, left in enumerate(one.after)
                    ],
                }
                for at, one in enumerate(images)
            ],
        }
        for number, (name, images) in enumerate(examples.items())
        if images
    ]


def counted(runs: Sequence[Run]) -> list[View]:
    """Figures that were counted, not timed."""
    found = []
    for run in runs:
        score = None if run.evaluated is None else run.evaluated.model
        left = [] if run.plan is None else run.plan.layers
        heads = [len(layer.heads) for layer in left if layer.heads is not None]
        filters = [len(layer.filters) for layer in left if layer.filters is not None]
        found.append(
            {
                "name": run.name,
                "macs": "" if score is None else count(score.macs_per_sample),
                "share": "" if score is None else f"{score.macs_ratio:.3f}×",
                "bytes": "" if score is None else size(score.bytes),
                "file": size(run.file_bytes),
                "rule": "none" if run.plan is None or run.plan.tokens is None else run.plan.tokens.rule,
                "heads": f"{sum(heads)} left in {len(heads)} layers" if heads else "all",
                "filters": f"{sum(filters):,} left in {len(filters)} layers" if filters else "all",
            }
        )
    return found


def machines(runs: Sequence[Run], benches: Sequence[tuple[str, Bench]]) -> list[View]:
    """Each machine once, with what was measured on it."""
    found: dict[str, View] = {}
    places = [(run.name, run.evaluated.machine) for run in runs if run.evaluated is not None]
    places += [(name, bench.machine) for name, bench in benches]
    for name, machine in places:
        if machine:
            entry = found.setdefault(words({"": [machine]}), {"names": [], "facts": pairs(machine)})
            entry["names"].append(name)
    return list(found.values())


def recipes(runs: Sequence[Run]) -> list[View]:
    """How each model was made: where it came from, methods, settings, training, data."""
    found = []
    for run in runs:
        facts = run.facts
        parts: list[tuple[str, list[tuple[str, str]]]] = [
            (
                "Origin",
                [("family", run.model_type), *pairs({k: v for k, v in facts.items() if k not in _SAID})],
            )
        ]
        if isinstance(facts.get("budget"), dict):
            parts.append(("Budget", pairs(facts["budget"])))
        for at, method in enumerate(_objects(facts.get("methods")), 1):
            parts.append((f"Method {at}", pairs(method)))
        if run.plan is not None and run.plan.tokens is not None:
            rule: dict[str, Any] = {"rule": run.plan.tokens.rule, **run.plan.tokens.options}
            parts.append(("Token rule", pairs(rule)))
        if isinstance(facts.get("settings"), dict):
            parts.append(("Settings", pairs(facts["settings"])))
        training = facts.get("training")
        if isinstance(training, dict) and training:
            parts.append(("Training", pairs(training)))
        parts.append(("Versions", pairs(run.versions)))
        data = [
            {
                "file": words(one.get("file")),
                "bytes": words(one.get("bytes")),
                "sha256": words(one.get("sha256")),
            }
            for one in _objects(facts.get("data"))
        ]
        found.append({"name": run.name, "parts": [part for part in parts if part[1]], "data": data})
    return found


def _objects(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def notes(runs: Sequence[Run], more: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """(run, note): what has to be known beside the figures."""
    found = []
    for run in runs:
        if run.evaluated is None:
            found.append(
                (run.name, "No evaluation is kept with this model, so its figures are missing here. sparsam evaluate "
                    "--record keeps one.")
            )  # fmt: skip
            continue
        found += [(run.name, note) for note in run.evaluated.notes]
        if run.evaluated.model.truncated:
            score = run.evaluated.model
            found.append(
                (run.name, f"{score.truncated:,} of {score.n:,} texts of {score.split} were longer than the model reads, "
                 "and were cut.")
            )  # fmt: skip
    return [*dict.fromkeys(found), *more]
