"""Saving and loading: an ordinary Hugging Face folder with its plan, whole or not at all.

    DIR/
      config.json         of the original architecture; with a plan: quantization_config {"quant_method": "sparsam", …}
      model.safetensors   under the family's own names; digests of tensors, plan and id2label in its header
      tokenizer or image processor
      sparsam.json        facts: where the model and the data came from, seed, versions
      MANIFEST.json       name, size and SHA-256 of every other file; written last

A folder is written beside its place, flushed to disk, and then exchanged with what stands there in one step
(``renameat2`` with ``RENAME_EXCHANGE``). Where the system has no such call the old folder is renamed aside first; a machine
that stops between those two renames leaves the old one aside, and the next save or load puts it back.

Nothing that is read can name code to run: classes are chosen from a closed list, weights are safetensors alone.
"""

import ctypes
import errno
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor
from transformers import PreTrainedModel

from sparsam import plugin
from sparsam.errors import InputOutput, Refused, SparsamError, Usage
from sparsam.models import plan_of
from sparsam.models.lift import family_of
from sparsam.plan import Plan

SCHEMA = 1
MANIFEST = "MANIFEST.json"
FACTS = "sparsam.json"
CONFIG = "config.json"
MAX_JSON_BYTES = 50_000_000
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
STALE_SECONDS = 24 * 3600
"""Age after which a staging folder of another machine counts as left behind. Chosen by us: no save takes a day."""

# Which class loads an architecture, by how its name ends; the longest ending first.
_AUTO = {
    "ForSequenceClassification": transformers.AutoModelForSequenceClassification,
    "ForImageClassification": transformers.AutoModelForImageClassification,
    "ForImageClassificationWithTeacher": transformers.AutoModelForImageClassification,
    "ForTokenClassification": transformers.AutoModelForTokenClassification,
    "ForQuestionAnswering": transformers.AutoModelForQuestionAnswering,
    "ForMultipleChoice": transformers.AutoModelForMultipleChoice,
    "ForMaskedLM": transformers.AutoModelForMaskedLM,
    "Model": transformers.AutoModel,
}

# What a checkpoint consists of; nothing else is fetched from the hub.
_FETCHED = (
    CONFIG,
    MANIFEST,
    FACTS,
    "model.safetensors",
    "model-?????-of-?????.safetensors",
    "model.safetensors.index.json",
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "sentencepiece*",
    "spiece.model",
    "preprocessor_config.json",
    "processor_config.json",
)


@dataclass(frozen=True)
class Loaded:
    """A checkpoint in memory. ``plan`` is None for an ordinary dense one, ``processor`` where none was saved."""

    model: Any
    processor: Any
    plan: Plan | None
    facts: dict[str, Any]
    folder: Path


# ---- Saving ----------------------------------------------------------------------------------------------------------


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
        Usage: ``dtype``, ``facts``, ``model-type``.
        Refused: ``not-an-artifact``, ``extra-files`` (the folder holds something else), ``non-finite`` (a weight is NaN or
            infinite), ``architecture``, ``adapter``.
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
    _auto_class(type(model).__name__)
    check_finite(model)
    text = _facts_text(facts or {})
    target = _real(folder)
    check_target(target, overwrite)
    with _failures(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _recover(target)
        _collect(target)
        staging = _beside(target, "tmp")
        try:
            staging.mkdir()
            _write(model, processor, text, DTYPES[dtype], staging)
            _write_manifest(staging)
            _flush(staging)
            _put_in_place(staging, target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)  # what is left of it, or the folder that was replaced
        _flush_folder(target.parent)
    return target


def _facts_text(facts: Mapping[str, Any]) -> str:
    try:
        whole = {"schema": SCHEMA, "versions": versions(), "facts": dict(facts)}
        return json.dumps(whole, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise Usage(
            f"facts must be JSON (text, finite numbers, lists, objects): {error}.", code="facts"
        ) from None


def versions() -> dict[str, str]:
    """Versions of what a checkpoint depends on."""
    found = {"python": platform.python_version()}
    for name in ("sparsam", "torch", "transformers", "safetensors"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found


def check_finite(model: torch.nn.Module) -> None:
    """Refuse NaN and infinite weights.

    Raises:
        Refused: ``non-finite``, naming the tensor.
    """
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            kind = "NaN" if bool(torch.isnan(tensor).any()) else "infinite values"
            raise Refused(
                f"the tensor {name} holds {kind}. Training may have diverged (lower the learning rate) or the file "
                "is damaged (download it again).",
                code="non-finite",
            )


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
    with _failures(target):
        present = {path.relative_to(target).as_posix() for path in target.rglob("*") if not path.is_dir()}
    if not present:
        return
    if not is_artifact(target):
        raise Refused(
            f"{target} holds files and was not written by sparsam; it is left alone. Choose another folder, or pass "
            "overwrite=True.",
            code="not-an-artifact",
        )
    extra = sorted(present - set(_manifest(target)) - {MANIFEST})
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

    def get_state_dict_and_metadata(self, model: Any) -> tuple[dict[str, Tensor], dict[str, str]]:  # type: ignore[override]
        state = {
            name: tensor.to(self.dtype) if tensor.is_floating_point() else tensor
            for name, tensor in model.state_dict().items()
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
        with _without_bars():
            model.save_pretrained(staging)
    config = _read_json(staging / CONFIG)
    config["dtype"] = str(dtype).removeprefix(
        "torch."
    )  # transformers notes the model's own, not what was written
    _write_text(staging / CONFIG, json.dumps(config, indent=2, sort_keys=True, allow_nan=False) + "\n")
    if processor is not None:
        processor.save_pretrained(staging)
    for file in staging.glob("*.safetensors"):
        _order_header(file)
    _write_text(staging / FACTS, facts)
    mode = (staging / FACTS).stat().st_mode & 0o777  # as the umask wants it; safetensors makes files private
    for file in _files(staging):
        file.chmod(mode)


@contextmanager
def _without_bars() -> Iterator[None]:
    """Without transformers' progress bars, which count shards: one, mostly."""
    bars = transformers.utils.logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()


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


def _write_manifest(folder: Path) -> None:
    entries = {}
    for file in _files(folder):
        entries[file.relative_to(folder).as_posix()] = {"bytes": file.stat().st_size, "sha256": _sha256(file)}
    whole = {"schema": SCHEMA, "versions": versions(), "files": entries}
    _write_text(folder / MANIFEST, json.dumps(whole, indent=2, sort_keys=True, allow_nan=False) + "\n")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _sha256(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _write_text(file: Path, text: str) -> None:
    with open(file, "w", encoding="utf-8", newline="\n") as stream:
        stream.write(text)


# ---- All or nothing --------------------------------------------------------------------------------------------------


def _real(folder: str | os.PathLike[str]) -> Path:
    """Where a folder really is, so that a link to one is kept and its goal replaced."""
    try:
        return Path(folder).expanduser().resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise Usage(f"{folder!r} is no path: {error}.", code="path") from None


def _here() -> str:
    """Six hexadecimal digits for this machine: process ids mean nothing on another that shares the disk."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:6]


def _beside(target: Path, kind: str) -> Path:
    return target.with_name(f"{target.name}.{kind}-{os.getpid()}-{_here()}{secrets.token_hex(3)}")


def _left_behind(target: Path, kind: str) -> list[Path]:
    """Folders beside ``target`` that a save of it left when it was killed; the newest first."""
    pattern = re.compile(re.escape(target.name) + rf"\.{kind}-(\d+)-([0-9a-f]{{6}})[0-9a-f]{{6}}")
    found: list[tuple[float, Path]] = []
    with suppress(OSError):
        for path in target.parent.iterdir():
            match = pattern.fullmatch(path.name)
            if match is None:
                continue
            with suppress(OSError):
                changed = path.stat().st_mtime
                alone = match[2] == _here() and not _alive(int(match[1]))
                if alone or (match[2] != _here() and _now() - changed > STALE_SECONDS):
                    found.append((changed, path))
    return [path for _, path in sorted(found, reverse=True)]


def _now() -> float:
    return time.time()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _recover(target: Path) -> None:
    """Put back a folder that was renamed aside by a save that stopped before its second rename."""
    if os.path.lexists(target):
        return
    for aside in _left_behind(target, "old"):
        if is_artifact(aside):
            os.rename(aside, target)
            return


def _collect(target: Path) -> None:
    """Remove what killed saves left beside ``target``."""
    for kind in ("tmp", "old"):
        for path in _left_behind(target, kind):
            shutil.rmtree(path, ignore_errors=True)


def _flush(folder: Path) -> None:
    for file in _files(folder):
        with open(file, "rb") as stream:
            os.fsync(stream.fileno())
    for inner in [path for path in folder.rglob("*") if path.is_dir()]:
        _flush_folder(inner)
    _flush_folder(folder)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _put_in_place(staging: Path, target: Path) -> None:
    """Rename ``staging`` to ``target``; if a folder stands there, ``staging`` is that folder afterwards, or gone."""
    try:
        os.rename(staging, target)  # nothing there, or an empty folder
        return
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    if _exchange(staging, target):
        return
    aside = _beside(target, "old")
    os.rename(target, aside)
    try:
        os.rename(staging, target)
    except BaseException:
        try:
            os.rename(aside, target)
        except OSError as error:
            raise InputOutput(
                f"{target} could not be replaced, and the old folder not be put back: {error.strerror}. It is whole, and "
                f"stands at {aside}; rename it to {target.name}.",
                code="save-failed",
            ) from error
        raise
    shutil.rmtree(aside, ignore_errors=True)


_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one step; False where the system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):
        return False
    done = rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    if done == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(other))


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_BARRED = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def _failures(target: Path) -> Iterator[None]:
    """Tell a failing disk in our own words."""
    try:
        yield
    except SparsamError:
        raise
    except (OSError, SafetensorError) as error:
        number = error.errno if isinstance(error, OSError) else None
        if number is None and (match := re.search(r"os error (\d+)", str(error))):
            number = int(match[1])
        said = os.strerror(number) if number else str(error)
        if number in _FULL:
            code, mend = "no-space", "Free space or choose another disk, then save again."
        elif number in _BARRED:
            code, mend = "not-writable", "Choose a folder you may write to, then save again."
        else:
            code, mend = "save-failed", "Check the disk, then save again."
        raise InputOutput(
            f"{target} could not be saved: {said}. What stood there before is untouched. {mend}", code=code
        ) from error


# ---- Checking --------------------------------------------------------------------------------------------------------


def is_artifact(folder: Any) -> bool:
    """Whether a folder was written by :func:`save` (its files are not checked; see :func:`verify`)."""
    try:
        return Path(folder).is_dir() and bool(_manifest(Path(folder)))
    except (SparsamError, TypeError, ValueError, OSError):
        return False


def verify(folder: str | os.PathLike[str]) -> None:
    """Check every file of an artefact against its manifest. Files the manifest does not name are passed over.

    Raises:
        InputOutput: ``manifest-missing``, ``manifest-invalid``, ``file-missing``, ``file-size``, ``file-unreadable``.
        Refused: ``digest`` (a file was changed), ``artifact-version`` (a newer schema).
    """
    folder = Path(folder)
    for name, entry in _manifest(folder).items():
        file = folder / name
        try:
            size = file.stat().st_size
        except OSError:
            raise InputOutput(
                f"{file} is missing; {MANIFEST} names it. {_AGAIN}", code="file-missing"
            ) from None
        if size != entry["bytes"]:
            raise InputOutput(
                f"{file} has {size} bytes; {MANIFEST} says {entry['bytes']}. {_AGAIN}", code="file-size"
            )
        try:
            digest = _sha256(file)
        except OSError as error:
            raise InputOutput(
                f"{file} cannot be read: {error.strerror or error}. Check its permissions.",
                code="file-unreadable",
            ) from None
        if digest != entry["sha256"]:
            raise Refused(
                f"{file} is not what was saved: its SHA-256 is {digest[:12]}…, {MANIFEST} says "
                f"{entry['sha256'][:12]}…. {_AGAIN}",
                code="digest",
            )


_AGAIN = "Copy or download the folder again; to change a model, load it, change it and save it with sparsam."
_HEX = re.compile(r"[0-9a-f]{64}")


def _manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """The files a manifest names, checked for form."""
    file = folder / MANIFEST
    if not file.is_file():
        raise InputOutput(
            f"{folder} has no {MANIFEST}, so it is no folder that sparsam wrote, or not all of one. {_AGAIN}",
            code="manifest-missing",
        )
    whole = _read_json(file)
    version = whole.get("schema")
    if isinstance(version, int) and not isinstance(version, bool) and version > SCHEMA:
        raise Refused(
            f"{file} has schema version {version}; this sparsam reads up to {SCHEMA}. Upgrade sparsam.",
            code="artifact-version",
        )
    entries = whole.get("files")
    if (
        version != SCHEMA
        or not isinstance(entries, dict)
        or not entries
        or not all(map(_is_entry, entries.items()))
    ):
        raise InputOutput(f"{file} cannot be read as a manifest. {_AGAIN}", code="manifest-invalid")
    return entries


def _is_entry(item: tuple[str, Any]) -> bool:
    name, entry = item
    path = PurePosixPath(name)
    inside = (
        bool(path.parts)
        and not path.is_absolute()
        and ".." not in path.parts
        and not set(name) & {"\\", "\0", ":"}
    )
    return (
        inside
        and isinstance(entry, dict)
        and type(entry.get("bytes")) is int
        and isinstance(entry.get("sha256"), str)
        and bool(_HEX.fullmatch(entry["sha256"]))
    )


def _read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        InputOutput: ``file-missing``, ``file-unreadable``, ``json-invalid``.
    """
    try:
        if file.stat().st_size > MAX_JSON_BYTES:
            raise InputOutput(
                f"{file} has {file.stat().st_size} bytes; no more than {MAX_JSON_BYTES} are read.",
                code="json-invalid",
            )
        whole = json.loads(file.read_bytes().decode("utf-8"))
    except SparsamError:
        raise
    except FileNotFoundError:
        raise InputOutput(f"{file} is missing. {_AGAIN}", code="file-missing") from None
    except OSError as error:
        raise InputOutput(
            f"{file} cannot be read: {error.strerror or error}. Check its permissions.",
            code="file-unreadable",
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputOutput(f"{file} is not JSON: {str(error)[:120]}. {_AGAIN}", code="json-invalid") from None
    if not isinstance(whole, dict):
        raise InputOutput(f"{file} holds no JSON object. {_AGAIN}", code="json-invalid")
    return whole


# ---- Loading ---------------------------------------------------------------------------------------------------------


def load(folder: str | os.PathLike[str], *, device: str | torch.device = "cpu") -> Loaded:
    """Load what :func:`save` wrote, or a hub id of such a folder, in the precision it was saved in.

    Every file is checked against the manifest, every tensor against its digest. A folder that transformers wrote from such
    a model (``save_pretrained``, the Trainer) has no manifest; its digests are checked.

    Raises:
        InputOutput: ``model-missing``, and those of :func:`verify`.
        Refused: ``not-an-artifact``, ``digest``, ``plan-version``, ``plan-invalid``, ``remote-code``, ``weights-missing``,
            ``no-safetensors``.
    """
    place = _local(folder)
    if (place / MANIFEST).exists():
        verify(place)
    config = _config(place)
    files = _weights(place)
    if not (place / MANIFEST).exists():
        ours = _method(config) == plugin.METHOD and all(
            plugin.KEY in plugin.read_header(f).metadata for f in files
        )
        if not ours:
            raise Refused(
                f"{place} was not saved by sparsam. Load an ordinary checkpoint with transformers, or compress it.",
                code="not-an-artifact",
            )
    _check_headers(files, config)
    model, _ = _from_pretrained(_auto_class(_architecture(config)), place, dtype="auto", fresh=False)
    model.to(device)
    facts = _read_json(place / FACTS).get("facts", {}) if (place / FACTS).is_file() else {}
    return Loaded(model, _processor(place), plan_of(model), facts if isinstance(facts, dict) else {}, place)


def load_dense(
    source: str | os.PathLike[str],
    *,
    kind: str | None = None,
    labels: Sequence[str] | None = None,
    regression: bool = False,
    device: str | torch.device = "cpu",
) -> Loaded:
    """Load an ordinary checkpoint, from a folder or the hub, in float32, to work on.

    A checkpoint that carries a plan is loaded with it. What is new in the model (a fresh head) is named in
    ``facts["new_weights"]``.

    Args:
        source: folder or hub id.
        kind: ``text`` or ``image``: what a fresh head is for.
        labels: names of the classes for a classification head; empty with ``regression``. The checkpoint's head is kept
            where its shape fits. None leaves the model with the head it has.
        regression: the head gives one number.
        device: where to.

    Raises:
        InputOutput: ``model-missing``, ``file-missing``, ``json-invalid``, ``safetensors-corrupt``.
        Refused: ``family-unknown``, ``family-refused``, ``weights-missing``, ``weights-mismatch``, ``no-safetensors``,
            ``non-finite``, ``remote-code``, ``quantized``.
    """
    if kind not in (None, "text", "image"):
        raise Usage(f"kind must be text or image; got {kind!r}.", code="kind")
    place = _local(source)
    if is_artifact(place):
        verify(place)
    config = _config(place)
    family_of(str(config.get("model_type")), SimpleNamespace(**config))
    _check_headers(_weights(place), config)
    if labels is None:
        name = _architecture(config)
        model, new = _from_pretrained(_auto_class(name, or_bare=True), place, dtype="float32", fresh=False)
    else:
        names = {index: str(name) for index, name in enumerate(labels)} or {0: "LABEL_0"}
        if regression and len(names) != 1:
            raise Usage(f"a regression has one output; got {len(names)} labels.", code="labels")
        image = kind == "image" or (kind is None and config.get("model_type") in ("vit", "deit"))
        chosen = _AUTO["ForImageClassification" if image else "ForSequenceClassification"]
        model, new = _from_pretrained(
            chosen,
            place,
            dtype="float32",
            fresh=True,
            id2label=names,
            label2id={name: index for index, name in names.items()},
            problem_type="regression" if regression else "single_label_classification",
        )
    model.to(device)
    return Loaded(
        model, _processor(place), plan_of(model), {"new_weights": sorted(new)} if new else {}, place
    )


_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")


def _local(source: str | os.PathLike[str]) -> Path:
    """The folder of a checkpoint; fetched if it is a hub id."""
    place = _real(source)
    with suppress(OSError):
        _recover(place)
    if place.is_dir():
        return place
    if place.exists():
        raise InputOutput(
            f"{place} is a file; give the folder of a checkpoint, or a hub id.", code="model-missing"
        )
    name = os.fspath(source)
    if not isinstance(name, str) or not _HUB_ID.fullmatch(name) or ".." in name:
        raise InputOutput(
            f"there is no folder {place}. Give the folder of a checkpoint, or a hub id (owner/name).",
            code="model-missing",
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(_FETCHED)))
    except Exception as error:  # whatever the network brings; the hub's own errors have no common base
        raise InputOutput(
            f"{name!r} is no folder here, and the hub did not give it ({type(error).__name__}: "
            f"{str(error).splitlines()[0][:160] if str(error) else ''}). Check the name and the connection, "
            "or give a folder.",
            code="model-missing",
        ) from None


def _config(place: Path) -> dict[str, Any]:
    config = _read_json(place / CONFIG)
    _refuse_code(config, place / CONFIG)
    method = _method(config)
    if method not in (None, plugin.METHOD):
        raise Refused(
            f"the weights in {place} are quantized ({method}); sparsam starts from plain ones. Load the model they "
            "were made from.",
            code="quantized",
        )
    return config


def _method(config: Mapping[str, Any]) -> str | None:
    found = config.get("quantization_config")
    return None if found is None else str(found.get("quant_method") if isinstance(found, dict) else found)


_ATTENTIONS = (None, "eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")


def _refuse_code(config: Mapping[str, Any], file: Path) -> None:
    """A config may not name code: neither modules beside it nor attention kernels from the hub."""
    named = next((key for key in ("auto_map", "custom_pipelines") if config.get(key)), None)
    for key, value in config.items():
        if "attn_implementation" in key and (not isinstance(value, str | None) or value not in _ATTENTIONS):
            named = key
    if named is not None:
        raise Refused(
            f"{file} names code to run ({named}); sparsam runs none from files. Use a checkpoint of an architecture "
            "that transformers itself has.",
            code="remote-code",
        )


def _architecture(config: Mapping[str, Any]) -> str:
    names = config.get("architectures")
    return names[0] if isinstance(names, list) and names and isinstance(names[0], str) else "Model"


def _auto_class(name: str, or_bare: bool = False) -> Any:
    for ending in sorted(_AUTO, key=len, reverse=True):
        if name.endswith(ending):
            return _AUTO[ending]
    if or_bare:
        return transformers.AutoModel
    raise Refused(
        f"models of class {name} are not saved or loaded; classes that end in {', '.join(_AUTO)} are.",
        code="architecture",
    )


def _check_headers(files: Sequence[Path], config: Mapping[str, Any]) -> None:
    """Check the digests of a folder without a plan; where there is one, the plug-in does."""
    if _method(config) is None:
        plugin.check_files(files, None, SimpleNamespace(id2label=config.get("id2label")))


def _weights(place: Path) -> list[Path]:
    """The safetensors files of a checkpoint, headers checked."""
    index = place / "model.safetensors.index.json"
    if (place / "model.safetensors").is_file():
        files = [place / "model.safetensors"]
    elif index.is_file():
        named = _read_json(index).get("weight_map")
        if not isinstance(named, dict) or not all(
            isinstance(v, str) and Path(v).name == v for v in named.values()
        ):
            raise InputOutput(f"{index} cannot be read as an index of weights. {_AGAIN}", code="json-invalid")
        files = [place / name for name in sorted(set(named.values()))]
        for file in files:
            if not file.is_file():
                raise InputOutput(f"{file} is missing; {index.name} names it. {_AGAIN}", code="file-missing")
    else:
        others = sorted(
            path.name for path in place.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".h5", ".msgpack")
        )
        found = f"only {', '.join(others)}; such files can run code while loading" if others else "no weights"
        raise Refused(
            f"{place} holds no safetensors, {found}. Save the model as safetensors where it is trusted: "
            "AutoModel.from_pretrained(…).save_pretrained(folder).",
            code="no-safetensors" if others else "weights-missing",
        )
    for file in files:
        plugin.read_header(file)
    return files


def _from_pretrained(
    auto: Any, place: Path, *, dtype: str, fresh: bool, **config: Any
) -> tuple[Any, set[str]]:
    """A model from a folder, and the names of weights that are new in it."""
    try:
        with _without_bars():
            model, said = auto.from_pretrained(
                str(place),
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=fresh,
                **config,
            )
    except SparsamError:
        raise
    except SafetensorError as error:
        raise InputOutput(
            f"the weights in {place} cannot be read: {error}. {_AGAIN}", code="safetensors-corrupt"
        ) from None
    except RuntimeError as error:
        raise Refused(
            f"the weights in {place} do not fit its config.json: {_last_line(error)}. {_AGAIN}",
            code="weights-mismatch",
        ) from error
    except OSError as error:
        raise InputOutput(
            f"{place} cannot be loaded: {_last_line(error)}. {_AGAIN}", code="model-unreadable"
        ) from error
    except Exception as error:  # a config can make transformers fail in any way
        raise Refused(
            f"{place} cannot be loaded: {type(error).__name__}: {_last_line(error)}. {_AGAIN}",
            code="model-unreadable",
        ) from error
    missing = set(said["missing_keys"])
    mismatched = {item[0] if isinstance(item, tuple) else item for item in said["mismatched_keys"]}
    new = missing | mismatched
    needed = sorted(name for name in new if not _may_be_new(model, name, fresh))
    if needed:
        how, code = (
            ("missing from", "weights-missing")
            if needed[0] in missing
            else ("of another shape in", "weights-mismatch")
        )
        more = f" and {len(needed) - 1} more" if len(needed) > 1 else ""
        raise Refused(
            f"{needed[0]}{more}: {how} the weights in {place}, which are no whole {type(model).__name__}. "
            "Download the checkpoint again, or fine-tune it first if only its head is missing.",
            code=code,
        )
    check_finite(model)
    return model, new


def _may_be_new(model: Any, name: str, fresh: bool) -> bool:
    """Whether a weight need not come from the checkpoint: a fresh head's, or the pooler, which pretraining often lacks."""
    bare = model.base_model is model
    inner = name if bare else name.removeprefix(f"{model.base_model_prefix}.")
    if inner.startswith("pooler."):
        return bare or fresh
    return fresh and not bare and inner == name


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300].rstrip(".")


def _processor(place: Path) -> Any:
    """The tokenizer or image processor of a checkpoint; None if it has none."""
    options = {"trust_remote_code": False, "local_files_only": True}
    names = {path.name for path in place.iterdir()}
    try:
        if "preprocessor_config.json" in names:
            return transformers.AutoImageProcessor.from_pretrained(str(place), **options)
        if names & {
            "tokenizer.json",
            "tokenizer_config.json",
            "vocab.txt",
            "vocab.json",
            "spiece.model",
            "tokenizer.model",
            "sentencepiece.bpe.model",
        }:
            return transformers.AutoTokenizer.from_pretrained(str(place), **options)
    except Exception as error:  # the files can make transformers fail in any way
        raise InputOutput(
            f"the tokenizer or image processor in {place} cannot be loaded: {_last_line(error)}. {_AGAIN}",
            code="processor-unreadable",
        ) from error
    return None


__all__ = ["Loaded", "check_finite", "is_artifact", "load", "load_dense", "save", "verify", "versions"]
