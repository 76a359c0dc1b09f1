"""The dense checkpoint as ONNX, for ONNX Runtime and OpenVINO alike.

Exported with attention written out, by torch's older exporter where it is there: its graph is the one that ONNX Runtime's
optimiser knows how to fuse (``Attention``, ``SkipLayerNormalization``, ``BiasGelu``). The newer exporter's graph gives the same
numbers, but its attention stays in pieces.
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparsam.baselines.cache import Entry, digest_of, version_of, versions_of
from sparsam.baselines.feed import Feed

ONNX = "model.onnx"
OPSET = 17
"""As the older exporter writes it."""


def why_absent(*names: str) -> str | None:
    """Which packages are missing."""
    missing = [name for name in names if version_of(name) is None]
    if not missing:
        return None
    extra = "openvino" if "openvino" in names else "onnx"
    return f"needs {' and '.join(missing)}: pip install 'sparsam[{extra}]'"


def plain(feed: Feed, cache: Path) -> Entry:
    """The plain ONNX model, in float32, any batch and any length."""
    key = {
        "what": "onnx",
        "checkpoint": digest_of(feed.loaded.folder),
        "inputs": list(feed.inputs),
        "versions": versions_of("torch", "transformers", "onnx"),
    }
    return Entry(cache, key, lambda folder: _write(feed, folder / ONNX))


class _ByPlace(nn.Module):
    """A model that takes its inputs by place and gives logits alone, as exporters want it."""

    def __init__(self, model: Any, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(**dict(zip(self.names, inputs, strict=True))).logits
        return logits


def _write(feed: Feed, file: Path) -> None:
    model: Any = feed.loaded.model.eval().float()
    model.set_attn_implementation("eager")
    names = feed.inputs
    rows = (
        np.argsort(feed.stored.encoded.lengths)[-2:]
        if not feed.is_image
        else np.arange(min(2, len(feed.stored)))
    )
    sample = tuple(torch.from_numpy(x) for x in feed.sample(feed.stored.encoded, rows).values())
    axes = {name: {0: "batch"} if feed.is_image else {0: "batch", 1: "tokens"} for name in names}
    common: dict[str, Any] = {"input_names": list(names), "output_names": ["logits"]}
    wrapped = _ByPlace(model, names).eval()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the older exporter says at length that it is the older one
        try:
            torch.onnx.export(
                wrapped, sample, str(file), dynamo=False, opset_version=OPSET,
                dynamic_axes=axes | {"logits": {0: "batch"}}, **common,
            )  # fmt: skip
        except (ImportError, AttributeError, TypeError, ValueError):  # a torch without it
            torch.onnx.export(
                wrapped, sample, str(file), dynamo=True, external_data=False,
                dynamic_shapes=(tuple(axes.values()),), **common,
            )  # fmt: skip
