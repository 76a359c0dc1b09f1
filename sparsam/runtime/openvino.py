"""A classifier as OpenVINO reads it: the ONNX graph, converted, in float32; run in float32 or in bfloat16.

Weights of products that have number formats stand in the file as signed 8-bit integers. Where the format's inputs have one
fixed scale (``tensor``), they are quantised too, and OpenVINO multiplies integers; else the products are in floating point: it
has no products with a scale for each token. Without VNNI integers are slower there than float32, and sums of pairs are clipped
(docs/export.md).
"""

import os
import tempfile
from pathlib import Path
from typing import Any

from sparsam.runtime.onnx import FILE as ONNX
from sparsam.runtime.onnx import check_installed, graph, save
from sparsam.telemetry import without_telemetry

FILE = "openvino_model.xml"
"""As optimum-intel names it; weights are in the file of that name that ends in ``.bin``."""


def write_openvino(model: Any, file: Path, inputs: tuple[str, ...]) -> None:
    """Write a classifier, dense or with a plan, as OpenVINO's two files.

    Args:
        model: a transformers model.
        file: the ``.xml``.
        inputs: see :func:`sparsam.runtime.portable.portable`.

    Raises:
        Usage: ``extra-missing``.
        Refused: ``export-head``, ``export-rule``, ``export-failed`` and those of lifting.
    """
    check_installed("openvino", "onnx", "onnxscript", "openvino")
    made = graph(model, inputs, "openvino")
    without_telemetry()
    import openvino

    with tempfile.TemporaryDirectory(prefix="sparsam-export-") as folder:
        save(made, Path(folder) / ONNX)
        read = openvino.Core().read_model(Path(folder) / ONNX)
        openvino.save_model(read, str(file), compress_to_fp16=False)


def open_openvino(file: str | os.PathLike[str], threads: int, precision: str = "f32") -> Any:
    """A request to a model compiled for so many threads, its floats in this precision; batches come one by one.

    Where a processor has no bfloat16 OpenVINO works in float32 instead.
    """
    without_telemetry()
    import openvino

    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": precision,
    }
    core: Any = openvino.Core()
    return core.compile_model(core.read_model(os.fspath(file)), "CPU", settings).create_infer_request()
