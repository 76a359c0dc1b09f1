"""Runs and benchmarks made by hand, with one word wherever a word from outside may stand; and pages taken apart."""

import html.parser
import re
from pathlib import Path
from typing import Any

from sparsam.plan import LayerPlan, Plan, TokenPlan
from sparsam.report import Bench, Run, bench_of, page_of
from sparsam.report.examples import Example
from sparsam.report.runs import Evaluated

PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAP0lEQVR42iXBQRGAIBAAwB3GADSwykUwCk2MQBSoYAKMQIPz4S5G91uZi8K2Z1V4"
    "1WeDaNkcmJxwxciAO7PzAau/EzzAHBtYAAAAAElFTkSuQmCC"
)


def sound(word: str) -> str:
    """``word`` without half characters, which checked JSON cannot hold; facts and paths may."""
    return re.sub("[\ud800-\udfff]", "\ufffd", word)


def score(
    value: float = 0.9, ratio: float = 0.5, split: str = "validation", what: str = "accuracy"
) -> dict[str, Any]:
    """One evaluation, as a record holds it."""
    return {
        "split": split, "what": what, "value": value, "low": value - 0.02, "high": value + 0.015, "n": 872,
        "unit": "fraction", "extra": {"right": 785}, "macs": 1000, "macs_ratio": ratio, "macs_per_sample": 2e6 * ratio,
        "kept": [{"attention": 1.0, "ffn": 0.875}, {"attention": 0.875, "ffn": 0.0625}], "truncated": 3,
        "seconds": 1.5, "bytes": 4_000_000,
    }  # fmt: skip


def record(word: str = "sst2") -> dict[str, Any]:
    """What is kept beside a compressed model, every word of it ``word``."""
    metric = "accuracy" if word == "sst2" else word
    return {
        "task": word,
        "model": score(0.9, 0.5, word, metric),
        "dense": score(0.91, 1.0, word, metric) | {"name": word},
        "difference": {
            "what": word, "value": -1.03, "low": -2.64, "high": 0.57, "n": 872, "unit": word,
            "extra": {"lost": 14, "won": 5, "changed": 19, "p": 0.0636},
        },
        "notes": [word],
        "machine": {"processor": word, word: word, "memory_bytes": 25_276_502_016, "versions": {word: word}},
    }  # fmt: skip


def run(word: str = "sst2", name: str = "half") -> Run:
    """A compressed model, every word of it ``word``."""
    facts = {
        "source": word, "task": word, word: word, "source_sha256": word, "seed": 0,
        "budget": {"macs": 0.5, word: word}, "methods": [{"method": word, "lr": 2e-5, word: [word, 1]}],
        "settings": {word: word, "epochs": 3.0}, "training": {word: {word: 1.5}},
        "data": [{"file": word, "bytes": 1_176_913, "sha256": word}],
    }  # fmt: skip
    rule = TokenPlan("ltp" if word == "sst2" else sound(word), (0.75, 1e6), {"relative_to": sound(word)})
    plan = Plan("bert", (LayerPlan(heads=(0, 2)), LayerPlan()), rule)
    evaluated = Evaluated.model_validate(record(sound(word)), strict=False)
    versions = {"sparsam": word, word: word}
    return Run(name, Path("."), word, facts, versions, plan, evaluated, 4_100_000, {})


def row(word: str = "half", **changes: Any) -> dict[str, Any]:
    """One line of a benchmark."""
    return {
        "model": word, "baseline": f"openvino-int8 {word}", "ratio_to_baseline": 1.625, "order": "arrival", "batch": 32,
        "tokenisation": False, "low": 1.55, "high": 1.7, "spread": 1.1, "doubtful": False,
        "samples_per_second": 412.3, "baseline_samples_per_second": 253.7, "p50_ms": None, "p95_ms": None,
        "accuracy": 0.8853, "accuracy_difference": -1.03, "interval": [-2.64, 0.57], "rows": 872, "machine": {},
    } | changes  # fmt: skip


def bench(word: str = "half") -> dict[str, Any]:
    """A benchmark, every word of it ``word``."""
    return {
        "schema": "sparsam.bench/1", "task": word, "split": word, "kind": "text", "dense": word,
        "metric": "accuracy" if word == "half" else word,
        "rows": [
            row(word),
            row(word, order="sorted", tokenisation=True, doubtful=True, low=0.9, high=1.8, spread=2.0),
            row(word, batch=1, p50_ms=77.6, p95_ms=81.2, accuracy=None, accuracy_difference=None, interval=None),
            row(f"openvino-int8 {word}", baseline=f"eager-fp32 {word}"),
        ],
        "absent": {word: word}, "warnings": [word], "machine": {word: word, "cores": 2},
    }  # fmt: skip


def example(word: str = "7") -> Example:
    """An image of 2 by 2 patches, one of which goes at each of two layers."""
    return Example(PNG, word, word, 3, 2, 2, ((0, 1, 3), (1, 3)))


def page(word: str | None = None, name: str | None = None, more: tuple[Bench, ...] = ()) -> str:
    """A page with everything on it; with ``word``, it stands wherever words from outside stand."""
    runs = [run(word or "sst2", name or word or "half")]
    benches = [(word or "bench.json", bench_of(bench(sound(word or "half")), "bench"))]
    benches += [(f"more {at}", one) for at, one in enumerate(more)]
    return page_of(
        runs, benches, {word or "half": [example(word or "7")]}, [(word or "half", word or "a note")]
    )


class Parsed(html.parser.HTMLParser):
    """A page's elements with their attributes, in order, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, tuple[tuple[str, str | None], ...]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.rest: list[str] = []
        self.feed(page)
        self.close()

    VOID = frozenset({"meta", "link", "base", "br", "hr", "img", "input"})

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, tuple(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, tuple(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    def handle_comment(self, data: str) -> None:
        self.rest.append(data)

    def handle_pi(self, data: str) -> None:
        self.rest.append(data)

    def unknown_decl(self, data: str) -> None:
        self.rest.append(data)

    @property
    def text(self) -> str:
        """All text, spaces drawn together."""
        return " ".join("".join(self.words).split())
