"""MiniLM on SST-2 with rounded weights and inputs, simulated: the figures of docs/methods/quantization.md."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from sparsam.quantization import (
    INPUT,
    KL,
    MSE,
    MinMax,
    Percentile,
    RangeMethod,
    dequantize,
    fake_quantize,
    fake_quantize_tokens,
    grid_between,
    quantize_weight,
)

# Ten passes over 872 sentences.
pytestmark = [pytest.mark.data, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(1800)]

Batch = dict[str, Tensor]


class Simulated:
    """The model, its sentences, and what changes its encoder's linear layers for a while."""

    def __init__(self, shared: Path) -> None:
        folder = shared / "models" / "minilm-sst2"
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
        encoder = self.model.base_model.encoder
        self.linears = {name: m for name, m in encoder.named_modules() if isinstance(m, nn.Linear)}
        self.exact = {name: m.weight.detach().clone() for name, m in self.linears.items()}
        table = pq.read_table(shared / "data" / "sst2" / "validation.parquet")
        self.held_out = self.batches(table["sentence"].to_pylist())
        self.labels = torch.tensor(table["label"].to_pylist())
        train = pq.read_table(shared / "data" / "sst2" / "train.parquet")
        self.calibration = self.batches(train["sentence"].to_pylist()[:256])

    def batches(self, texts: list[str]) -> list[tuple[list[int], Batch]]:
        """Batches of 32 by length, with the rows they came from."""
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        rows = [order[start : start + 32] for start in range(0, len(order), 32)]
        return [
            (r, dict(self.tokenizer([texts[i] for i in r], padding=True, return_tensors="pt"))) for r in rows
        ]

    def weights(self, bits: int, **how: Any) -> float:
        """Round all weights; the mean over layers of the squared error relative to the weights' own squares."""
        errors = []
        for name, linear in self.linears.items():
            exact = self.exact[name]
            rounded = dequantize(*quantize_weight(exact, bits, **how))
            linear.weight.data.copy_(rounded)
            errors.append(float((rounded - exact).square().sum() / exact.square().sum()))
        return sum(errors) / len(errors)

    def with_inputs(self, change: Callable[[str, Tensor], Tensor], run: Callable[[], Any]) -> Any:
        """What ``run`` gives while ``change`` stands in front of every linear layer."""

        def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], Tensor]:
            return lambda _, inputs: change(name, inputs[0].flatten(0, 1)).view_as(inputs[0])

        handles = [m.register_forward_pre_hook(hook(name)) for name, m in self.linears.items()]
        try:
            return run()
        finally:
            for handle in handles:
                handle.remove()

    @torch.no_grad()
    def logits(self) -> Tensor:
        """Of the held-out sentences, in their order."""
        found = torch.zeros(len(self.labels), 2)
        for rows, batch in self.held_out:
            found[rows] = self.model(**batch).logits
        return found

    def right(self, logits: Tensor) -> int:
        return int((logits.argmax(1) == self.labels).sum())

    def static(self, methods: dict[str, RangeMethod]) -> dict[str, dict[str, Any]]:
        """Grids of every input by each method, from real tokens of 256 training sentences; padding is left out."""
        seen = {method: {name: how.start(INPUT) for name in self.linears} for method, how in methods.items()}
        live: list[Tensor] = []

        def observe(name: str, x: Tensor) -> Tensor:
            for observers in seen.values():
                observers[name].add(x[live[0]])
            return x

        @torch.no_grad()
        def run() -> None:
            for _, batch in self.calibration:
                live[:] = [batch["attention_mask"].flatten().bool()]
                self.model(**batch)

        self.with_inputs(observe, run)
        return {
            method: {
                name: grid_between(*how.bounds(seen[method][name], INPUT), INPUT) for name in self.linears
            }
            for method, how in methods.items()
        }


def test_minilm_in_integers(shared: Path) -> None:
    """Eight bits lose nothing to speak of by token; by one grid for all tokens the range method decides."""
    simulated = Simulated(shared)
    exact = simulated.logits()
    assert simulated.right(exact) == 781
    methods: dict[str, RangeMethod] = {
        "min-max": MinMax(),
        "percentile": Percentile(99.99),
        "mse": MSE(),
        "kl": KL(),
    }
    grids = simulated.static(methods)
    tokens = lambda _, x: fake_quantize_tokens(x)  # noqa: E731
    found: dict[str, tuple[int, float]] = {}

    def note(name: str, logits: Tensor) -> None:
        found[name] = (simulated.right(logits), float((logits - exact).abs().mean()))

    errors = {8: simulated.weights(8)}
    note("8, token", simulated.with_inputs(tokens, simulated.logits))
    for method, by_input in grids.items():
        fixed = lambda name, x, g=by_input: fake_quantize(x, g[name])  # noqa: E731
        note(f"8, {method}", simulated.with_inputs(fixed, simulated.logits))
    for name, bits, how in (
        ("4 min-max", 4, {"method": MinMax()}),
        ("4", 4, {}),
        ("4 by 64", 4, {"group": 64}),
        ("3 by 64", 3, {"group": 64}),
    ):
        errors[name] = simulated.weights(bits, **how)
        note(f"{name}, token", simulated.with_inputs(tokens, simulated.logits))
    assert errors[8] < 1e-4
    assert errors["4 by 64"] < errors["4"] < errors["4 min-max"]
    on_the_page = {
        "8, token": 782,
        "8, min-max": 774,
        "8, percentile": 781,
        "8, mse": 780,
        "8, kl": 769,
        "4 min-max, token": 764,
        "4, token": 767,
        "4 by 64, token": 776,
        "3 by 64, token": 775,
    }
    for name, right in on_the_page.items():  # machines round differently
        assert abs(found[name][0] - right) <= 4, (name, found)
    assert found["8, token"][1] < 0.5 * min(found[f"8, {method}"][1] for method in methods)
    assert found["4 by 64, token"][1] < found["4, token"][1] < found["4 min-max, token"][1]
