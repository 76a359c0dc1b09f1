"""The table of peers: how each is called, what it wants, and how it is opened.

All are made from one dense checkpoint and take the same rows. A peer that cannot run here is absent by its name, with the
reason in words. ``packed-fp32`` and ``packed-bf16`` of a compressed checkpoint are the candidate.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from sparsam.baselines import compiled, export, ort, ov
from sparsam.baselines.cache import Entry
from sparsam.baselines.eager import Serve, open_eager
from sparsam.baselines.exported import open_exported
from sparsam.baselines.feed import Feed
from sparsam.baselines.frozen import open_frozen
from sparsam.baselines.stock import open_stock
from sparsam.runtime.freeze import native_bf16


def _anywhere() -> str | None:
    return None


def _with_bf16(also: Callable[[], str | None] = _anywhere) -> Callable[[], str | None]:
    def why_absent() -> str | None:
        return also() if native_bf16() else "this processor does not multiply bfloat16 itself"

    return why_absent


@dataclass(frozen=True)
class Peer:
    """One way to serve a checkpoint."""

    says: str
    """What it is, in words."""
    open: Callable[[Feed, Path, int, int], Serve]
    """From the rows, the folder of exported models, threads and the batch's size."""
    why_absent: Callable[[], str | None] = _anywhere
    """Why it cannot run here, in words; None if it can."""
    exports: Callable[[Feed, Path], list[Entry]] | None = None
    """Models that are exported first, each made from the one before."""
    reads_itself: bool = False
    """It reads texts and images itself, so it has no figure without that."""


EAGER = "eager-fp32"
"""What all others are compared with, in speed and in answers."""

STOCK = "stock"

PEERS = {
    EAGER: Peer(
        "transformers, float32, padded to the batch's longest, fused attention",
        lambda feed, cache, threads, batch: open_eager(feed, torch.float32),
    ),
    "eager-bf16": Peer(
        "the same, bfloat16",
        lambda feed, cache, threads, batch: open_eager(feed, torch.bfloat16),
        _with_bf16(),
    ),
    STOCK: Peer(
        "from_pretrained and pipeline, float32",
        lambda feed, cache, threads, batch: open_stock(feed, batch),
        reads_itself=True,
    ),
    "compile-bf16": Peer(
        "torch.compile, frozen bfloat16 weights, one graph for all lengths",
        lambda feed, cache, threads, batch: compiled.open_compiled(feed),
        _with_bf16(compiled.why_absent),
    ),
    "packed-fp32": Peer(
        "sparsam.freeze, float32",
        lambda feed, cache, threads, batch: open_frozen(feed, "float32"),
    ),
    "packed-bf16": Peer(
        "sparsam.freeze, bfloat16",
        lambda feed, cache, threads, batch: open_frozen(feed, "bfloat16"),
        _with_bf16(),
    ),
    "onnxruntime-fp32": Peer(
        "ONNX Runtime, float32, fused graph",
        lambda feed, cache, threads, batch: ort.open_ort(feed, cache, threads, int8=False),
        ort.why_absent,
        lambda feed, cache: ort.entries(feed, cache, int8=False),
    ),
    "onnxruntime-int8": Peer(
        "ONNX Runtime, dynamic int8, weights per channel",
        lambda feed, cache, threads, batch: ort.open_ort(feed, cache, threads, int8=True),
        ort.why_absent,
        lambda feed, cache: ort.entries(feed, cache, int8=True),
    ),
    "openvino-fp32": Peer(
        "OpenVINO, float32",
        lambda feed, cache, threads, batch: ov.open_ov(feed, cache, threads, "float32"),
        lambda: ov.why_absent("float32"),
        lambda feed, cache: ov.entries(feed, cache, "float32"),
    ),
    "openvino-bf16": Peer(
        "OpenVINO, bfloat16",
        lambda feed, cache, threads, batch: ov.open_ov(feed, cache, threads, "bfloat16"),
        _with_bf16(lambda: ov.why_absent("bfloat16")),
        lambda feed, cache: ov.entries(feed, cache, "bfloat16"),
    ),
    "openvino-int8": Peer(
        "OpenVINO, int8 by NNCF, calibrated on 300 training rows",
        lambda feed, cache, threads, batch: ov.open_ov(feed, cache, threads, "int8"),
        lambda: ov.why_absent("int8"),
        lambda feed, cache: ov.entries(feed, cache, "int8"),
    ),
}

EXPORTED = {
    "onnx": Peer("an exported folder, ONNX Runtime", open_exported, lambda: export.why_absent("onnxruntime")),
    "openvino": Peer(
        "an exported folder, OpenVINO, float32", open_exported, lambda: export.why_absent("openvino")
    ),
}
"""How an exported folder runs, by what it was exported to. It is always a candidate."""


INTEGERS = {
    "packed-int8": Peer(
        "sparsam.freeze, products in 8-bit integers",
        lambda feed, cache, threads, batch: open_frozen(feed, "float32"),
    )
}
"""How a checkpoint whose products are in integers runs; it is always a candidate."""


def peer_of(form: str) -> Peer:
    """The line of a form in any of the tables."""
    return (PEERS | EXPORTED | INTEGERS)[form]


CANDIDATE = {"fp32": "packed-fp32", "bf16": "packed-bf16", "stock": STOCK}
"""The forms in which a compressed checkpoint runs, by the name they are shown under."""

IN_INTEGERS = {"int8": "packed-int8", "stock": STOCK}
"""The same for one whose products are in integers."""
