"""Exporting a checkpoint to another runtime: a folder with the graph, whole or not at all.

DIR/
  model.onnx                      for ONNX Runtime, or openvino_model.xml and openvino_model.bin
  config.json                     of the original architecture, without a plan: the graph is the plan
  tokenizer or image processor
  predict.py                      ten lines that need the runtime, numpy and tokenizers (or Pillow), not sparsam
  sparsam.json                    facts: what it was made from, its plan, its inputs
  MANIFEST.json                   as other artefacts have it; written last
"""

import inspect
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sparsam.artifact.configuration import check_config
from sparsam.artifact.loading import load, load_dense
from sparsam.artifact.loading import processor_of as read_processor
from sparsam.artifact.manifest import CONFIG, FACTS, files_of, read_json, verify, write_manifest, write_text
from sparsam.artifact.saving import check_target, facts_text
from sparsam.artifact.staging import beside, collect, failures, flush, flush_folder, put_in_place, real_path
from sparsam.errors import Refused, Usage
from sparsam.models.digest import weights_digest
from sparsam.runtime import onnx, openvino
from sparsam.runtime.onnx import sample

PREDICT = "predict.py"


@dataclass(frozen=True)
class Runtime:
    """A runtime that a checkpoint is exported to."""

    file: str
    write: Callable[[Any, Path, tuple[str, ...]], None]
    open: Callable[[Path, int, str], Callable[[dict[str, NDArray[Any]]], NDArray[np.float32]]]
    """From the file, threads and precision: inputs by name to logits. Names the graph does not take are passed over."""
    loads: str
    """The line of predict.py that loads the graph; PRECISION stands for a key of ``precisions``."""
    module: str
    asks: str
    """The line that runs it on ``given``."""
    precisions: tuple[str, ...] = ("f32",)
    """What it can work in; the graph is float32 in any case."""


def _open_onnx(
    file: Path, threads: int, precision: str
) -> Callable[[dict[str, NDArray[Any]]], NDArray[np.float32]]:
    session = onnx.open_onnx(file, threads)
    taken = {one.name for one in session.get_inputs()}

    def serve(given: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = session.run(["logits"], {k: v for k, v in given.items() if k in taken})[
            0
        ]
        return found

    return serve


def _open_openvino(
    file: Path, threads: int, precision: str
) -> Callable[[dict[str, NDArray[Any]]], NDArray[np.float32]]:
    request = openvino.open_openvino(file, threads, precision)
    taken = {name for one in request.model_inputs for name in one.get_names()}

    def serve(given: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        found = request.infer({k: v for k, v in given.items() if k in taken}, share_inputs=True)
        return np.array(next(iter(found.values())), np.float32)

    return serve


RUNTIMES = {
    "onnx": Runtime(
        onnx.FILE,
        onnx.write_onnx,
        _open_onnx,
        f'run = onnxruntime.InferenceSession(here / "{onnx.FILE}").run',
        "onnxruntime",
        'run(["logits"], given)[0]',
    ),
    "openvino": Runtime(
        openvino.FILE,
        openvino.write_openvino,
        _open_openvino,
        f'run = openvino.Core().compile_model(here / "{openvino.FILE}", "CPU", {{"INFERENCE_PRECISION_HINT": "PRECISION"}})',
        "openvino",
        'run(given)["logits"]',
        ("f32", "bf16"),
    ),
}
"""By the name that ``--to`` takes."""


@dataclass(frozen=True)
class Exported:
    """What :func:`export` wrote."""

    folder: Path
    to: str
    bytes: int
    """Of the graph and its weights."""
    difference: float
    """Largest difference of a logit between the graph, run here, and the model, on random inputs."""


def export(
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    to: str = "onnx",
    precision: str = "f32",
    overwrite: bool = False,
) -> Exported:
    """Write a checkpoint, dense or with a plan, for ONNX Runtime or OpenVINO, and run the result once.

    Tokens are removed inside the graph; products whose plan has number formats are in integers.

    Args:
        source: a folder, or a hub id.
        folder: where to; an export or artefact that stands there is replaced in one step.
        to: a key of :data:`RUNTIMES`.
        precision: what floats are worked in, ``f32`` or for OpenVINO ``bf16``; weights in the file stay float32.
        overwrite: replace a folder that is no artefact, or holds files that are not ours.

    Raises:
        Usage: ``export-to``, ``export-precision``, ``extra-missing``.
        Refused: ``export-head``, ``export-rule``, ``export-failed``, ``export-differs``, ``processor-missing``,
            ``tokenizer-kind``, ``not-an-artifact``, ``extra-files``, and those of loading.
        InputOutput: ``no-space``, ``not-writable``, ``save-failed``; what stood there before is untouched.
    """
    if to not in RUNTIMES:
        raise Usage(f"to is one of {', '.join(RUNTIMES)}; got {to!r}.", code="export-to")
    runtime, target = RUNTIMES[to], real_path(folder)
    if precision not in runtime.precisions:
        raise Usage(
            f"precision is one of {', '.join(runtime.precisions)} for {to}; got {precision!r}. OpenVINO works in bf16, too.",
            code="export-precision",
        )
    check_target(target, overwrite)
    found = load_dense(source)
    if found.plan is not None:
        found = load(source)
    if found.processor is None:
        raise Refused(
            f"{found.folder} has no tokenizer or image processor, which goes with an export. Copy its files from the model it "
            "was made from.",
            code="processor-missing",
        )
    inputs = _inputs(found.model, found.processor)
    facts = {
        "export": {"to": to, "file": runtime.file, "inputs": list(inputs), "precision": precision},
        "source": os.fspath(source),
        "source_sha256": weights_digest(found.model),
        "plan": None if found.plan is None else found.plan.to_json(),
    }
    with failures(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        collect(target)
        staging = beside(target, "tmp")
        try:
            staging.mkdir()
            runtime.write(found.model, staging / runtime.file, inputs)
            size = sum(file.stat().st_size for file in files_of(staging))
            difference = _difference(found.model, inputs, runtime, staging / runtime.file, precision)
            found.processor.save_pretrained(staging)
            _write_config(found.model.config, staging / CONFIG)
            write_text(
                staging / PREDICT,
                _predict(found, runtime, inputs, staging).replace('"PRECISION"', f'"{precision}"'),
            )
            write_text(staging / FACTS, facts_text(facts))
            write_manifest(staging)
            flush(staging)
            put_in_place(staging, target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        flush_folder(target.parent)
    return Exported(target, to, size, difference)


def _inputs(model: Any, processor: Any) -> tuple[str, ...]:
    """What the graph is given: what the processor makes and the model takes."""
    if model.main_input_name == "pixel_values":
        return ("pixel_values",)
    taken = set(inspect.signature(model.forward).parameters)
    kinds = {"token_type_ids"} & taken & set(processor.model_input_names)
    return ("input_ids", "attention_mask", *sorted(kinds))


def _difference(model: Any, inputs: tuple[str, ...], runtime: Runtime, file: Path, precision: str) -> float:
    """Run the graph beside the model, on other lengths than those it was traced with.

    A token on the edge of its threshold may fall on either side, so the median of the rows decides.
    """
    given = sample(model, inputs, (7, 3, 12, 1, 8, 5))
    with torch.no_grad():
        wanted = model(**dict(zip(inputs, given, strict=True))).logits.float().numpy()
    found = runtime.open(file, 1, precision)({name: x.numpy() for name, x in zip(inputs, given, strict=True)})
    apart = np.abs(found - wanted).max(1)
    plan = getattr(model, "sparsam_plan", None)
    rounded = precision != "f32" or (plan is not None and plan.in_integers)
    bound = 0.5 * float(np.abs(wanted).max()) if rounded else 1e-3
    if not np.isfinite(apart).all() or np.median(apart) > bound:
        raise Refused(
            f"the exported graph does not answer like the model: logits differ by {float(np.median(apart)):.3g} in half of the "
            "rows. Please report it, with the versions in constraints.txt that differ from yours; nothing was written.",
            code="export-differs",
        )
    return float(apart.max())


def _write_config(config: Any, file: Path) -> None:
    held = config.to_dict()
    held.pop("quantization_config", None)
    write_text(file, json.dumps(held, indent=2, sort_keys=True, allow_nan=False) + "\n")


def _predict(found: Any, runtime: Runtime, inputs: tuple[str, ...], folder: Path) -> str:
    """The text of predict.py."""
    if inputs == ("pixel_values",):
        return _predict_images(found.processor, runtime)
    if not (folder / "tokenizer.json").is_file():
        raise Refused(
            f"the tokenizer of {found.folder} has no tokenizer.json, which predict.py and other runtimes read. Load it with "
            "AutoTokenizer and save it again; transformers converts most.",
            code="tokenizer-kind",
        )
    from sparsam.models.positions import longest_text

    longest = longest_text(found.model.config, found.processor)
    pad, token = found.processor.pad_token_id or 0, found.processor.pad_token
    given = {
        "input_ids": "row.ids",
        "attention_mask": "row.attention_mask",
        "token_type_ids": "row.type_ids",
    }
    named = ", ".join(f'"{name}": [{given[name]} for row in rows]' for name in inputs)
    return f"""import json, pathlib, sys
import numpy, {runtime.module}, tokenizers
here = pathlib.Path(__file__).parent
{runtime.loads}
labels, texts = json.loads((here / "{CONFIG}").read_text(encoding="utf-8"))["id2label"], sys.argv[1:]
tokenizer = tokenizers.Tokenizer.from_file(str(here / "tokenizer.json"))
tokenizer.enable_padding(pad_id={pad}, pad_token={token!r}), tokenizer.enable_truncation({longest})
rows = tokenizer.encode_batch(texts)
given = {{name: numpy.array(x) for name, x in {{{named}}}.items()}}
for text, row in zip(texts, {runtime.asks}): print(labels[str(row.argmax())], row.tolist(), text, sep="\\t")
"""


def _predict_images(processor: Any, runtime: Runtime) -> str:
    """Pictures are resized, scaled and normalised as the image processor does it."""
    held = processor.to_dict()
    size = held["size"]
    if not held.get("do_resize", True) or not {"height", "width"} <= set(size) or held.get("do_center_crop"):
        raise Refused(
            "the image processor does more than resizing to a height and width, scaling and normalising; predict.py cannot do "
            f"that in ten lines. It says {str(size)[:80]}.",
            code="processor-kind",
        )
    scale = held["rescale_factor"] if held.get("do_rescale", True) else 1.0
    normal = held.get("do_normalize", True)
    mean, std = (held["image_mean"], held["image_std"]) if normal else ([0.0] * 3, [1.0] * 3)
    shape = (size["width"], size["height"])
    return f"""import json, pathlib, sys
import numpy, {runtime.module}, PIL.Image
here = pathlib.Path(__file__).parent
{runtime.loads}
labels, files = json.loads((here / "{CONFIG}").read_text(encoding="utf-8"))["id2label"], sys.argv[1:]
pictures = [PIL.Image.open(file).convert("RGB").resize({shape}, {int(held.get("resample", 2))}) for file in files]
pixels = (numpy.stack(pictures) * {scale!r} - {list(mean)}) / {list(std)}
given = {{"pixel_values": pixels.transpose(0, 3, 1, 2).astype("float32")}}
for file, row in zip(files, {runtime.asks}): print(labels[str(row.argmax())], row.tolist(), file, sep="\\t")
"""


@dataclass(frozen=True)
class Graph:
    """What stands for the model of an exported folder: its configuration, and how to run it."""

    config: Any
    inputs: tuple[str, ...]
    to: str
    file: Path
    precision: str = "f32"

    @property
    def main_input_name(self) -> str:
        """``input_ids`` or ``pixel_values``."""
        return self.inputs[0]

    def open(self, threads: int) -> Callable[[dict[str, NDArray[Any]]], NDArray[np.float32]]:
        """The graph in its runtime: inputs by name to logits."""
        return RUNTIMES[self.to].open(self.file, threads, self.precision)


@dataclass(frozen=True)
class LoadedExport:
    """An exported folder; ``model`` is a :class:`Graph`."""

    model: Any
    processor: Any
    facts: dict[str, Any]
    folder: Path


def exported_to(folder: str | os.PathLike[str]) -> str | None:
    """The runtime that a folder was exported to; None for any other folder. Nothing is checked."""
    file = Path(folder) / FACTS
    if not file.is_file():
        return None
    facts = read_json(file).get("facts")
    said = facts.get("export") if isinstance(facts, dict) else None
    to = said.get("to") if isinstance(said, dict) else None
    return to if isinstance(to, str) and to in RUNTIMES else None


def load_export(folder: str | os.PathLike[str]) -> LoadedExport:
    """Open what :func:`export` wrote, every file checked against its manifest; the graph is not loaded yet.

    Raises:
        Refused: ``not-an-export``, and those of :func:`verify`.
        InputOutput: those of :func:`verify`.
    """
    from transformers import CONFIG_MAPPING

    place = real_path(folder)
    to = exported_to(place)
    if to is None:
        raise Refused(
            f"{place} is no folder that sparsam export wrote. Make one: sparsam export DIR --to onnx --out {place}",
            code="not-an-export",
        )
    verify(place)
    facts = read_json(place / FACTS)["facts"]
    raw = read_json(place / CONFIG)
    check_config(raw, place)
    config = CONFIG_MAPPING[str(raw.get("model_type"))].from_dict(raw)
    inputs = tuple(str(name) for name in facts["export"]["inputs"])
    return LoadedExport(
        Graph(config, inputs, to, place / RUNTIMES[to].file, _precision_of(facts, to)),
        read_processor(place),
        facts,
        place,
    )


def _precision_of(facts: dict[str, Any], to: str) -> str:
    """What an export says that it works in; float32 where it says nothing that its runtime knows."""
    said = facts["export"].get("precision")
    return said if said in RUNTIMES[to].precisions else "f32"
