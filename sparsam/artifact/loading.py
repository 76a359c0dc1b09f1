"""Loading a model: folders of ours, and ordinary dense ones. Nothing that is read can name code to run."""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from safetensors import SafetensorError

from sparsam import plugin
from sparsam.artifact.configuration import check_config, check_sizes, method_of
from sparsam.artifact.manifest import AGAIN, CONFIG, FACTS, MANIFEST, has_manifest, read_json, verify
from sparsam.artifact.staging import real_path, recover
from sparsam.errors import InputOutput, Refused, SparsamError, Usage
from sparsam.models import plan_of
from sparsam.models.lift import family_of
from sparsam.plan import Plan
from sparsam.runtime import Frozen, freeze

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

    @cached_property
    def frozen(self) -> Frozen:
        """The form in which it serves on this machine, made when it is first asked for; see :func:`sparsam.freeze`."""
        return freeze(self.model, processor=self.processor)

    def predict(self, inputs: Sequence[Any], *, batch: int = 32) -> NDArray[np.float32]:
        """Logits (n, c) of texts, pairs of texts or images; see :meth:`sparsam.runtime.Frozen.predict`."""
        return self.frozen.predict(inputs, batch=batch)


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
    return _steadily(place, lambda: _load(place, device))


def _load(place: Path, device: str | torch.device) -> Loaded:
    if has_manifest(place):
        verify(place)
    config = _config(place)
    files = _weights(place)
    if not has_manifest(place) and not plugin.has_plan(config):
        raise Refused(
            f"{place} was not saved by sparsam. Load an ordinary checkpoint with transformers, or compress it.",
            code="not-an-artifact",
        )
    _check_headers(files, config, place)
    model, notes = _from_pretrained(auto_class(_architecture(config)), place, dtype="auto", fresh=False)
    if notes.get("unused_weights"):
        raise Refused(
            f"{notes['unused_weights'][0]}: in the weights in {place}, but not in a {type(model).__name__}, which its {CONFIG} "
            f"names; a save leaves nothing over. {AGAIN}",
            code="weights-mismatch",
        )
    model.to(device)
    facts = read_json(place / FACTS).get("facts", {}) if (place / FACTS).is_file() else {}
    return Loaded(model, processor_of(place), plan_of(model), facts if isinstance(facts, dict) else {}, place)


ATTEMPTS = 5
"""How often a folder is read that is replaced meanwhile. Chosen by us: a save takes as long as a load, or longer."""


def _steadily(place: Path, read: Callable[[], Loaded]) -> Loaded:
    """Read a folder that another process may be replacing: all of it is the old one, or all of it the new one."""
    for _ in range(ATTEMPTS):
        before = _stands(place)
        try:
            found = read()
        except SparsamError:
            if _stands(place) == before:
                raise
        else:
            if _stands(place) == before:
                return found
    raise InputOutput(
        f"{place} was replaced {ATTEMPTS} times while it was read. Load it again when nothing is saved there.",
        code="replaced",
    )


def _stands(place: Path) -> tuple[int, ...]:
    """What tells a folder from one that takes its place."""
    found: tuple[int, ...] = ()
    for path in (place, place / MANIFEST):
        with suppress(OSError):
            said = path.stat()
            found += (said.st_dev, said.st_ino) + ((said.st_mtime_ns,) if path != place else ())
    return found


def load_dense(
    source: str | os.PathLike[str],
    *,
    kind: str | None = None,
    labels: Sequence[str] | None = None,
    regression: bool = False,
    device: str | torch.device = "cpu",
) -> Loaded:
    """Load an ordinary checkpoint, from a folder or the hub, in float32, to work on.

    A checkpoint that carries a plan is loaded with it, and one that has a manifest is checked against it. What is new in
    the model (a fresh head) is named in ``facts["new_weights"]``, what it has no use for (the head of pretraining) in
    ``facts["unused_weights"]``.

    Args:
        source: folder or hub id.
        kind: ``text`` or ``image``: what a fresh head is for.
        labels: names of the classes for a classification head; empty with ``regression``. The checkpoint's head is kept
            where its shape fits. None leaves the model with the head it has.
        regression: the head gives one number.
        device: where to.

    Raises:
        InputOutput: ``model-missing``, ``file-missing``, ``json-invalid``, ``safetensors-corrupt``, and those of
            :func:`verify`.
        Refused: ``family-unknown``, ``family-refused``, ``weights-missing``, ``weights-mismatch``, ``no-safetensors``,
            ``non-finite``, ``remote-code``, ``quantized``.
    """
    if kind not in (None, "text", "image"):
        raise Usage(f"kind must be text or image; got {kind!r}.", code="kind")
    place = _local(source)
    return _steadily(place, lambda: _load_dense(place, kind, labels, regression, device))


def _load_dense(
    place: Path,
    kind: str | None,
    labels: Sequence[str] | None,
    regression: bool,
    device: str | torch.device,
) -> Loaded:
    if has_manifest(place):
        verify(place)
    config = _config(place)
    family_of(str(config.get("model_type")), SimpleNamespace(**config))
    _check_headers(_weights(place), config, place)
    if labels is None:
        name = _architecture(config)
        model, notes = _from_pretrained(auto_class(name, or_bare=True), place, dtype="float32", fresh=False)
    else:
        names = {index: str(name) for index, name in enumerate(labels)} or {0: "LABEL_0"}
        if regression and len(names) != 1:
            raise Usage(f"a regression has one output; got {len(names)} labels.", code="labels")
        image = kind == "image" or (kind is None and config.get("model_type") in ("vit", "deit"))
        chosen = _AUTO["ForImageClassification" if image else "ForSequenceClassification"]
        model, notes = _from_pretrained(
            chosen,
            place,
            dtype="float32",
            fresh=True,
            id2label=names,
            label2id={name: index for index, name in names.items()},
            problem_type="regression" if regression else "single_label_classification",
        )
    model.to(device)
    return Loaded(model, processor_of(place), plan_of(model), notes, place)


_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")


def _local(source: str | os.PathLike[str]) -> Path:
    """The folder of a checkpoint; fetched if it is a hub id."""
    place = real_path(source)
    with suppress(OSError):
        recover(place)
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
    config = read_json(place / CONFIG)
    check_config(config, place)
    return config


def _architecture(config: Mapping[str, Any]) -> str:
    names = config.get("architectures")
    return names[0] if isinstance(names, list) and names and isinstance(names[0], str) else "Model"


def auto_class(name: str, or_bare: bool = False) -> Any:
    """The class of transformers that loads an architecture, from a closed list."""
    for ending in sorted(_AUTO, key=len, reverse=True):
        if name.endswith(ending):
            return _AUTO[ending]
    if or_bare:
        return transformers.AutoModel
    raise Refused(
        f"models of class {name} are not saved or loaded; classes that end in {', '.join(_AUTO)} are.",
        code="architecture",
    )


def _check_headers(files: Sequence[Path], config: Mapping[str, Any], place: Path) -> None:
    """Check sizes, and the digests of a folder without a plan; where one is they must be there: the plug-in checks them."""
    check_sizes(config, [x for file in files for x in plugin.read_header(file).tensors.values()], place)
    if method_of(config) is None:
        plugin.check_files(files, None, SimpleNamespace(id2label=config.get("id2label")))
        return
    for file in files:
        if plugin.KEY not in plugin.read_header(file).metadata:
            raise Refused(
                f"{file} was not saved by sparsam: {CONFIG} beside it holds a plan, the file none of the digests that go "
                f"with one. {AGAIN}",
                code="not-an-artifact",
            )


_SHARD = re.compile(r"[A-Za-z0-9_][\w.-]{0,200}\.safetensors", re.ASCII)


def _weights(place: Path) -> list[Path]:
    """The safetensors files of a checkpoint, headers checked."""
    index = place / "model.safetensors.index.json"
    if (place / "model.safetensors").is_file():
        files = [place / "model.safetensors"]
    elif index.is_file():
        named = read_json(index).get("weight_map")
        if not isinstance(named, dict) or not all(
            isinstance(v, str) and _SHARD.fullmatch(v) for v in named.values()
        ):
            raise InputOutput(f"{index} cannot be read as an index of weights. {AGAIN}", code="json-invalid")
        files = [place / name for name in sorted(set(named.values()))]
        for file in files:
            if not file.is_file():
                raise InputOutput(f"{file} is missing; {index.name} names it. {AGAIN}", code="file-missing")
    else:
        pickles = (".bin", ".pt", ".pth", ".h5", ".msgpack")
        others = sorted(name for name in _names(place) if Path(name).suffix in pickles)
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
) -> tuple[Any, dict[str, Any]]:
    """A model from a folder; the names of weights that are new in it, and of those it does not use, where there are any."""
    try:
        with without_bars():
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
            f"the weights in {place} cannot be read: {error}. {AGAIN}", code="safetensors-corrupt"
        ) from None
    except RuntimeError as error:
        if re.search("unable to (open|mmap|stat|read)", str(error)):  # torch, where the disk fails
            raise InputOutput(
                f"{place} cannot be loaded: {_last_line(error)}. Check the disk.", code="model-unreadable"
            ) from error
        raise Refused(
            f"the weights in {place} do not fit its config.json: {_last_line(error)}. {AGAIN}",
            code="weights-mismatch",
        ) from error
    except OSError as error:
        raise InputOutput(
            f"{place} cannot be loaded: {_last_line(error)}. {AGAIN}", code="model-unreadable"
        ) from error
    except Exception as error:  # a config can make transformers fail in any way
        raise Refused(
            f"{place} cannot be loaded: {type(error).__name__}: {_last_line(error)}. {AGAIN}",
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
    unused = sorted(said["unexpected_keys"])
    _check_unused(model, unused, place)
    check_finite(model)
    named = {"new_weights": sorted(new), "unused_weights": unused}
    return model, {kind: names for kind, names in named.items() if names}


def _check_unused(model: Any, unused: Sequence[str], place: Path) -> None:
    """Weights without a place in the model may be another head's, but not the layers': then the config is not theirs."""
    config = model.config
    family = family_of(config.model_type, config)
    layers = re.escape(".".join(filter(None, (family.container, family.layers))))
    pattern = re.compile(rf"(?:{re.escape(model.base_model_prefix)}\.)?{layers}\.(\d+)\.")
    found = {name: int(match[1]) for name in unused if (match := pattern.match(name))}
    if not found:
        return
    first = next(iter(found))
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    field, depth = (
        config.attribute_map.get("num_hidden_layers", "num_hidden_layers"),
        config.num_hidden_layers,
    )
    deepest = max(found.values()) + 1
    why = f" {field} is {depth} there; the weights have {deepest} layers." if deepest > depth else ""
    raise Refused(
        f"{first}{more}: in the weights in {place}, but not in the model that its {CONFIG} describes.{why} Restore {CONFIG} "
        "from where the weights came from, or download the checkpoint again.",
        code="weights-mismatch",
    )


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


def _names(place: Path) -> set[str]:
    try:
        return set(os.listdir(place))
    except OSError as error:
        raise InputOutput(
            f"{place} cannot be listed: {error.strerror or error}. Check the disk and its permissions.",
            code="file-unreadable",
        ) from None


def processor_of(place: Path) -> Any:
    """The tokenizer or image processor of a checkpoint; None if it has none."""
    options = {"trust_remote_code": False, "local_files_only": True}
    names = _names(place)
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
            f"the tokenizer or image processor in {place} cannot be loaded: {_last_line(error)}. {AGAIN}",
            code="processor-unreadable",
        ) from error
    return None


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


@contextmanager
def without_bars() -> Iterator[None]:
    """Without transformers' progress bars, which count shards: one, mostly."""
    bars = transformers.utils.logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()
