"""ONNX Runtime: float32 on the graph its own optimiser fused, and dynamic int8 (weights per channel, signed) on top of that."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsam.baselines import export
from sparsam.baselines.cache import Entry, versions_of
from sparsam.baselines.eager import Serve
from sparsam.baselines.feed import Feed, Part
from sparsam.telemetry import without_telemetry

_VERSIONS = ("onnx", "onnxruntime", "torch", "transformers")


def why_absent() -> str | None:
    """Which packages are missing."""
    return export.why_absent("onnx", "onnxruntime")


def entries(feed: Feed, cache: Path, int8: bool) -> list[Entry]:
    """The models to export, each made from the one before."""
    first = export.plain(feed, cache)
    key = dict(first.key) | {"versions": versions_of(*_VERSIONS)}
    fused = Entry(
        cache,
        key | {"what": "onnxruntime fused"},
        lambda folder: _fuse(first.made() / export.ONNX, folder / export.ONNX, feed),
    )
    if not int8:
        return [first, fused]
    small = Entry(
        cache,
        key | {"what": "onnxruntime int8"},
        lambda folder: _quantize(fused.made() / export.ONNX, folder / export.ONNX),
    )
    return [first, fused, small]


def _fuse(source: Path, target: Path, feed: Feed) -> None:
    without_telemetry()
    from onnxruntime.transformers import optimizer

    config = feed.loaded.model.config
    logging.getLogger("onnxruntime.transformers").setLevel(logging.ERROR)
    made = optimizer.optimize_model(
        str(source), model_type="vit" if feed.is_image else "bert", num_heads=config.num_attention_heads,
        hidden_size=config.hidden_size, opt_level=0,
    )  # fmt: skip
    made.save_model_to_file(str(target))


def _quantize(source: Path, target: Path) -> None:
    without_telemetry()
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.getLogger().addFilter(_not_preprocessing)
    # Fused operators have no rule of shape inference, so the type of their outputs is named.
    options = {"DefaultTensorType": onnx.TensorProto.FLOAT}
    quantize_dynamic(
        str(source), str(target), per_channel=True, weight_type=QuantType.QInt8, extra_options=options
    )


def _not_preprocessing(record: logging.LogRecord) -> bool:
    return "pre-processing before quantization" not in record.getMessage()  # the optimiser was that


def open_ort(feed: Feed, cache: Path, threads: int, int8: bool) -> Serve:
    """A session on this many threads."""
    file = entries(feed, cache, int8)[-1].made() / export.ONNX
    without_telemetry()
    import onnxruntime

    options: Any = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    session: Any = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    taken = {one.name for one in session.get_inputs()}

    def serve(part: Part) -> NDArray[np.float32]:
        arrays = {name: x for name, x in part.padded().items() if name in taken}
        found: NDArray[np.float32] = session.run(["logits"], arrays)[0]
        return found

    return serve
