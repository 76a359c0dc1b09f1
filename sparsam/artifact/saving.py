"""Saving a model: configuration, weights with digests in their header, processor, facts; then the manifest."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sparsam import plugin
from sparsam.artifact.loading import auto_class, check_finite, without_bars
from sparsam.artifact.manifest import (
    CONFIG,
    EVALUATION,
    FACTS,
    MANIFEST,
    SCHEMA,
    entries_of,
    files_of,
    json_text,
    read_json,
    read_manifest,
    versions,
    write_manifest,
    write_text,
)
from sparsam.artifact.staging import (
    beside,
    collect,
    failures,
    flush,
    flush_folder,
    put_in_place,
    real_path,
    recover,
)
from sparsam.errors import InputOutput, Refused, SparsamError, Usage
from sparsam.models.stored import to_store
from sparsam.plan import Plan

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def save(
    model: Any,
    folder: str | os.PathLike[str],
    *,
    processor: Any = None,
    facts: Mapping[str, Any] | None = None,
    dtype: str = "float32",
    overwrite: bool = False,
) -> Path:
    """Write a model, its plan and its processor to ``folder``, whole or not at all, and return the folder.

    A model whose plan leaves everything as it is, or that has none, is written as an ordinary folder without a plan.

    Args:
        model: a transformers model, lifted or not.
        folder: where to; an artefact that stands there is replaced in one step.
        processor: tokenizer or image processor.
        facts: anything JSON can say, kept in ``sparsam.json``: sources, data hashes, seed.
        dtype: of the floating-point weights on disk, ``float32`` or ``bfloat16``; never float16.
        overwrite: replace a folder that is no artefact, or holds files that are not ours.

    Raises:
        Usage: ``dtype`` (also for bfloat16 where weights are integers), ``facts``, ``model-type``.
        Refused: ``not-an-artifact``, ``extra-files`` (the folder holds something else), ``non-finite`` (a weight is NaN or
            infinite), ``architecture``, ``adapter``, ``quantized`` (integers that left their grid).
        InputOutput: ``no-space``, ``not-writable``, ``save-failed``; what stood there before is untouched.
    """
    if dtype not in DTYPES:
        raise Usage(f"dtype must be one of {', '.join(DTYPES)}; got {dtype!r}.", code="dtype")
    if not isinstance(model, PreTrainedModel):
        raise Usage(
            f"expected a transformers model; got {type(model).__name__}. Load it with AutoModelFor….",
            code="model-type",
        )
    if getattr(model, "_hf_peft_config_loaded", False):
        raise Refused(
            "the model carries an adapter, so only the adapter would be saved. Merge it into the weights first "
            "(merge_and_unload).",
            code="adapter",
        )
    auto_class(type(model).__name__)
    check_finite(model)
    plan = plugin.plan_to_save(model)
    if dtype != "float32" and plan is not None and plan.in_integers:
        raise Usage(
            f"the model's weights are integers with scales in float32; they are not saved as {dtype}. Leave dtype out.",
            code="dtype",
        )
    text = facts_text(facts or {})
    target = real_path(folder)
    check_target(target, overwrite)
    with failures(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        recover(target)
        collect(target)
        staging = beside(target, "tmp")
        try:
            staging.mkdir()
            _write(model, processor, text, DTYPES[dtype], staging)
            write_manifest(staging)
            flush(staging)
            put_in_place(staging, target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)  # what is left of it, or the folder that was replaced
    try:
        flush_folder(target.parent)
    except OSError as error:
        raise InputOutput(
            f"{target} is saved, but the disk did not confirm it: {error.strerror or error}. Check the disk, then save again.",
            code="save-failed",
        ) from error
    return target


def facts_text(facts: Mapping[str, Any]) -> str:
    """The text of ``sparsam.json``: facts, and what the folder was made with."""
    whole = {"schema": SCHEMA, "versions": versions(), "facts": dict(facts)}
    return json_text(whole, "facts", "facts")


def check_target(target: Path, overwrite: bool = False) -> None:
    """Never replace what is not ours."""
    if not os.path.lexists(target):
        return
    if not target.is_dir():
        raise Refused(
            f"{target} is a file; a folder is written there. Choose another place.", code="not-an-artifact"
        )
    if overwrite:
        return
    with failures(target):
        present = {path.relative_to(target).as_posix() for path in entries_of(target)}
    if not present:
        return
    try:
        known = {*read_manifest(target), MANIFEST, EVALUATION}
    except SparsamError as error:
        if error.code == "file-unreadable":  # the disk's fault, not the folder's
            raise
        why = f"its {MANIFEST} cannot be read" if MANIFEST in present else "was not written by sparsam"
        raise Refused(
            f"{target} holds files and {why}; it is left alone. Choose another folder, or pass overwrite=True.",
            code="not-an-artifact",
        ) from None
    extra = sorted(present - known)
    if extra:
        raise Refused(
            f"{target} holds {len(extra)} files that sparsam did not write ({', '.join(extra[:3])}); they would be "
            "lost. Move them, or pass overwrite=True.",
            code="extra-files",
        )


class _Writer(plugin.SparsamQuantizer):
    """Stands in for the model's quantizer while we save: chooses the precision, adds the digests."""

    def __init__(self, dtype: torch.dtype, plan: Plan | None) -> None:
        super().__init__(plugin.SparsamConfig(None if plan is None else plan.to_json()))
        self.dtype = dtype
        self.plan = plan

    def get_state_dict_and_metadata(self, model: Any) -> tuple[dict[str, Tensor], dict[str, str]]:
        state = {
            name: tensor.to(self.dtype) if tensor.is_floating_point() else tensor
            for name, tensor in to_store(model, model.state_dict(), self.plan).items()
        }
        return state, plugin.header_metadata(model, state, self.plan)


def _write(model: Any, processor: Any, facts: str, dtype: torch.dtype, staging: Path) -> None:
    plan = plugin.plan_to_save(model)
    if plan is not None and plan == Plan.dense(plan.family, len(plan.layers)):
        plan = None  # the ordinary folder says the same
    with _kept(model.config, "quantization_config", "dtype", "architectures"), _kept(model, "hf_quantizer"):
        writer = _Writer(dtype, plan)
        model.hf_quantizer = writer
        if plan is not None:
            model.config.quantization_config = writer.quantization_config
        elif hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        with without_bars():
            model.save_pretrained(staging)
    config = read_json(staging / CONFIG)
    config["dtype"] = str(dtype).removeprefix(
        "torch."
    )  # transformers notes the model's own, not what was written
    write_text(staging / CONFIG, json.dumps(config, indent=2, sort_keys=True, allow_nan=False) + "\n")
    if processor is not None:
        processor.save_pretrained(staging)
    for file in files_of(staging):
        if file.suffix == ".safetensors":
            _order_header(file)
    write_text(staging / FACTS, facts)
    mode = (staging / FACTS).stat().st_mode & 0o777  # as the umask wants it; safetensors makes files private
    for file in files_of(staging):
        file.chmod(mode)


@contextmanager
def _kept(thing: Any, *names: str) -> Iterator[None]:
    """Leave attributes as they were found."""
    found = {name: vars(thing)[name] for name in names if name in vars(thing)}
    try:
        yield
    finally:
        for name in names:
            if name in found:
                setattr(thing, name, found[name])
            elif name in vars(thing):
                delattr(thing, name)


def _order_header(file: Path) -> None:
    """Write a safetensors header's metadata in a fixed order; the library's own differs from run to run."""
    with open(file, "r+b") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
        header = {"__metadata__": dict(sorted(header.pop("__metadata__", {}).items()))} | header
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= length:
            stream.seek(8)
            stream.write(text.ljust(length))
