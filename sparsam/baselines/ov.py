"""OpenVINO on the plain ONNX model: float32, bfloat16, and int8 after NNCF's post-training quantisation.

int8 is made with ``ModelType.TRANSFORMER`` from up to 300 rows of the task's train split, drawn with seed 0; what is not
int8 is in the precision OpenVINO chooses here. One stream on all threads (the hint ``LATENCY``): batches come one by one.

Neither OpenVINO nor NNCF tells anybody of it; :mod:`sparsam.telemetry` says how that is kept so.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsam.baselines import export
from sparsam.baselines.cache import Entry, versions_of
from sparsam.baselines.eager import Serve
from sparsam.baselines.feed import Arrays, Feed, Part
from sparsam.errors import Refused
from sparsam.telemetry import without_telemetry

IR = "model.xml"
CALIBRATION = 300
"""Rows for NNCF: its own default."""

HINTS = {"float32": "f32", "bfloat16": "bf16", "int8": None}


def why_absent(precision: str) -> str | None:
    """Which packages are missing."""
    return export.why_absent("onnx", "openvino", *(("nncf",) if precision == "int8" else ()))


def entries(feed: Feed, cache: Path, precision: str) -> list[Entry]:
    """The models to export, each made from the one before."""
    first = export.plain(feed, cache)
    if precision != "int8":
        return [first]
    rows = calibration(feed)
    digest = hashlib.sha256()
    for arrays in rows:
        for name, x in arrays.items():
            digest.update(f"{name} {x.shape} ".encode() + x.tobytes())
    key = dict(first.key) | {
        "what": "openvino int8",
        "calibration": digest.hexdigest(),
        "versions": versions_of("onnx", "openvino", "nncf", "torch", "transformers"),
    }
    return [first, Entry(cache, key, lambda folder: _quantize(first.made() / export.ONNX, folder / IR, rows))]


def calibration(feed: Feed) -> list[Arrays]:
    """Training rows, one at a time, so that none is padded.

    Raises:
        Refused: ``calibration`` where the task has no training rows.
    """
    held = feed.stored.calibration
    if held is None or not len(held):
        raise Refused("needs rows to calibrate with, and the task has no train split", code="calibration")
    return [feed.sample(held, np.array([row])) for row in range(len(held))]


def _quantize(source: Path, target: Path, rows: list[Arrays]) -> None:
    without_telemetry()
    import nncf
    import openvino

    nncf.set_log_level(40)  # errors
    model = openvino.Core().read_model(str(source))
    small = nncf.quantize(
        model, nncf.Dataset(rows), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(rows)
    )
    openvino.save_model(small, str(target), compress_to_fp16=False)


def open_ov(feed: Feed, cache: Path, threads: int, precision: str) -> Serve:
    """A compiled model on this many threads."""
    folder = entries(feed, cache, precision)[-1].made()
    without_telemetry()
    import openvino

    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    hint = HINTS[precision]
    settings |= {} if hint is None else {"INFERENCE_PRECISION_HINT": hint}
    core: Any = openvino.Core()
    model = core.read_model(str(folder / (IR if precision == "int8" else export.ONNX)))
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    taken = {name for one in model.inputs for name in one.get_names()}

    def serve(part: Part) -> NDArray[np.float32]:
        arrays = {name: x for name, x in part.padded().items() if name in taken}
        found = request.infer(arrays, share_inputs=True, share_outputs=False)
        return np.array(next(iter(found.values())), np.float32)

    return serve
