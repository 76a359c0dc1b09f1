"""The door into transformers: a quantizer called ``sparsam``, so that the stock classes load and save our checkpoints.

``from_pretrained`` on a folder whose ``config.json`` holds ``quantization_config: {"quant_method": "sparsam", "plan": …}``
goes through :class:`SparsamQuantizer`: digests are checked, layers are made as small as the plan says while the model is
still on the meta device, weights are loaded by transformers, and the model is lifted onto the packed encoder.
``save_pretrained``, the Trainer's too, writes the plan and the digests again.

The safetensors header holds, under the key ``sparsam``, one JSON object::

    {"schema": 1, "plan": digest, "id2label": digest, "tensors": {name on disk: digest}, "aliases": {module name: name on disk}}

A tensor's digest is SHA-256 over its dtype, shape and bytes; those of the plan and of ``id2label`` over canonical JSON.
A download from the hub brings no manifest, but always this header.

This module is imported while transformers is still importing: at its head it may import from transformers only what stands
there.
"""

import hashlib
import inspect
import json
import math
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.quantizers.auto import (
    AUTO_QUANTIZATION_CONFIG_MAPPING,
    AUTO_QUANTIZER_MAPPING,
    register_quantization_config,
    register_quantizer,
)
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from sparsam.errors import InputOutput, Refused, Usage
from sparsam.plan import Plan

if TYPE_CHECKING:
    import torch
    from torch import Tensor

METHOD = "sparsam"
SCHEMA = 1
KEY = "sparsam"
"""The metadata key in a safetensors header."""

# Limits on what is read before anything is checked, chosen by us: the largest encoders have headers of 0.2 MB, and these two
# million bytes are read in half a second and 0.05 GB, whatever they are.
MAX_HEADER_BYTES = 2_000_000
MAX_TENSORS = 20_000
MAX_RANK = 64
CHUNK_BYTES = 1 << 20

# A second import (a test that empties sys.modules, a reload) takes the place of the first.
AUTO_QUANTIZATION_CONFIG_MAPPING.pop(METHOD, None)
AUTO_QUANTIZER_MAPPING.pop(METHOD, None)


@register_quantization_config(METHOD)
class SparsamConfig(QuantizationConfigMixin):
    """What stands under ``quantization_config``: the plan, as a JSON object. It is checked when it is used.

    Raises:
        Refused: ``plan-version`` or ``plan-invalid`` for keys that this release does not know.
    """

    def __init__(
        self, plan: Mapping[str, Any] | None = None, quant_method: str = METHOD, **unknown: Any
    ) -> None:
        if unknown:
            if isinstance(plan, Mapping):
                Plan.from_json(plan)  # a newer schema is the likelier reason, and says so
            raise Refused(
                f"quantization_config holds {', '.join(sorted(map(repr, unknown)))}; this sparsam knows 'plan'. "
                "Upgrade sparsam, or restore config.json from the saved folder.",
                code="plan-invalid",
            )
        self.quant_method = METHOD  # type: ignore[assignment]  # transformers' enum lists its own methods alone
        self.plan: Any = (
            dict(plan) if isinstance(plan, Mapping) else plan
        )  # what it is, is said when it is read

    def read(self) -> Plan:
        """The plan.

        Raises:
            Refused: ``plan-version`` for a newer schema, ``plan-invalid`` for anything a plan cannot be.
        """
        if self.plan is None:
            raise Refused(
                "quantization_config has no 'plan'. Restore config.json from the saved folder.",
                code="plan-invalid",
            )
        return Plan.from_json(self.plan)

    def get(self, key: str, default: Any = None) -> Any:
        """As of a dict: transformers asks that way when a loaded model's config is used to load again."""
        return getattr(self, key, default)


@register_quantizer(METHOD)
class SparsamQuantizer(HfQuantizer):
    """Loads and saves models with a plan. Nothing is quantized by it; transformers calls this seam so.

    Weights that the plan has in integers are integers in files (:mod:`sparsam.models.stored`), and floats in memory.
    """

    requires_calibration = True  # only what was compressed before can be loaded
    quantization_config: SparsamConfig

    def _process_model_before_weight_loading(
        self, model: Any, checkpoint_files: Sequence[str] | None = None, **kwargs: Any
    ) -> Any:
        from sparsam.models import resize
        from sparsam.models.stored import expect

        plan, files = self.quantization_config.read(), [Path(file) for file in checkpoint_files or ()]
        check_fit(plan, model)
        check_files(files, plan, model.config)
        if plan.changes_shapes:
            resize(model, plan)
        check_scales(files, expect(model, plan))
        return model

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        from sparsam.models import lift
        from sparsam.models.stored import receive

        plan = self.quantization_config.read()
        receive(model, plan)
        lift(model, plan)
        _hang(self, model)
        return model

    def update_dtype(self, dtype: "torch.dtype") -> "torch.dtype":
        """The precision asked for; with integers it can only be float32, in which they are held times their scales.

        Raises:
            Refused: ``quantized``.
        """
        if str(dtype) != "torch.float32" and self.quantization_config.read().in_integers:
            raise Refused(
                f"the model's weights are integers; they are held in float32, not in {str(dtype).removeprefix('torch.')}. "
                "Leave dtype out.",
                code="quantized",
            )
        return dtype

    def get_new_dtype(self, converter: Any, param: Any, dtype: Any) -> Any:
        """What a tensor on disk is cast to: floating point never to integers.

        Raises:
            Refused: ``plan-mismatch`` for floats where the plan has integers.
        """
        found = super().get_new_dtype(converter, param, dtype)
        if found is not None and not found.is_floating_point:
            raise Refused(
                "the file holds floating-point weights where its plan has integers. Restore the folder from where it was "
                "saved.",
                code="plan-mismatch",
            )
        return found

    def is_serializable(self, *args: Any, **kwargs: Any) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        """Floats are; integers would leave their grid at the first step."""
        return not self.quantization_config.read().in_integers

    @property
    def is_compileable(self) -> bool:
        return True

    def get_state_dict_and_metadata(self, model: Any) -> tuple[dict[str, "Tensor"] | None, dict[str, str]]:
        """Called by ``save_pretrained`` before it writes the config: the header's metadata, and the plan of the day."""
        from sparsam.models.stored import to_store

        given = _given_state(model)
        plan = plan_to_save(model)
        if plan is not None:
            model.config.quantization_config = SparsamConfig(plan.to_json())
        if getattr(model, "_hf_peft_config_loaded", False):
            return given, {}  # only an adapter is written
        state = model.state_dict() if given is None else given
        if plan is not None and plan.in_integers:
            given = state = to_store(model, state, plan)
        return given, header_metadata(model, state, plan)


def _given_state(model: Any) -> dict[str, "Tensor"] | None:
    """The ``state_dict`` that the running ``save_pretrained`` of a model was called with; None if it got none.

    What the quantizer answers takes its place, and the quantizer is not told of it (transformers 5.23). So it is
    read where it lies, in the call's own argument: otherwise averaged weights, or those a distributed Trainer gathered,
    would give way to the model's own without a word.
    """
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == "save_pretrained" and frame.f_locals.get("self") is model:
            given: dict[str, Tensor] | None = frame.f_locals["state_dict"]
            return given
        frame = frame.f_back
    return None


def lift(model: Any, plan: Plan | None = None) -> Any:
    """Make a transformers model run on the packed encoder, in place, and return it.

    Without a token rule the outputs equal the stock model's up to rounding. A model that is lifted already gets the new plan.
    With a plan that leaves something out, ``save_pretrained`` and the Trainer write it along with the weights; without one
    they write an ordinary folder.

    Args:
        model: of a supported family; see ``sparsam inspect``.
        plan: what is left; the model as it stands if absent.

    Raises:
        Refused: ``plan-mismatch``, ``family-refused`` or ``family-unknown``, as the plan or the family has it; ``quantized``
            for a model that another method has quantized, or whose weights are integers that another plan does not name.
    """
    from sparsam.models import dense_plan, plan_of
    from sparsam.models import lift as run_packed

    quantizer = getattr(model, "hf_quantizer", None)
    ours = quantizer is not None and quantizer.quantization_config.quant_method == METHOD
    if quantizer is not None and not ours:
        raise Refused(
            f"the model is quantized ({quantizer.quantization_config.quant_method}); sparsam starts from plain weights. "
            "Load the model it was made from.",
            code="quantized",
        )
    run_packed(model, plan)
    if plan_of(model) != dense_plan(model):
        attach(model)
    elif ours:
        del model.config.quantization_config
        for module in (model, model.base_model):
            vars(module).pop("hf_quantizer", None)
    return model


def attach(model: Any) -> Any:
    """Make ``save_pretrained`` and the Trainer write the plan of a model that was lifted in this process, in place.

    A model that came through ``from_pretrained`` or :func:`lift` needs no such call.

    Raises:
        Usage: ``not-lifted``.
    """
    plan = plan_to_save(model)
    if plan is None:
        raise Usage("this model is not lifted; call sparsam.lift(model, plan) first.", code="not-lifted")
    config = SparsamConfig(plan.to_json())
    model.config.quantization_config = config
    _hang(SparsamQuantizer(config), model)
    return model


def _hang(quantizer: SparsamQuantizer, model: Any) -> None:
    """Let a model's own ``save_pretrained``, and that of the bare model inside it, come past us."""
    for module in (model, model.base_model):
        module.hf_quantizer = quantizer
    _as_plain(model)
    if not quantizer.is_trainable:
        for module in (model, model.base_model):
            module.is_quantized = True  # the Trainer, ``half`` and ``float`` refuse it


def plan_to_save(model: Any) -> Plan | None:
    """The plan a model runs by, or was loaded with; None for an ordinary model."""
    from sparsam.models import plan_of

    plan = plan_of(model)
    if plan is not None:
        return plan
    config = getattr(model.config, "quantization_config", None)
    if config is None or _field(config, "quant_method") != METHOD:
        return None
    return SparsamConfig(_field(config, "plan")).read()


def has_plan(config: Mapping[str, Any]) -> bool:
    """Whether what stands in a config.json says that the weights are ours."""
    found = config.get("quantization_config")
    return isinstance(found, Mapping) and found.get("quant_method") == METHOD


def _field(config: Any, key: str) -> Any:
    return config.get(key) if isinstance(config, Mapping) else getattr(config, key, None)


def _as_plain(model: Any) -> None:
    """Undo the marks that keep the Trainer, ``half`` and ``float`` away from quantized models: ours are mostly floats."""
    model.is_quantized = False
    for module in model.modules():
        config = getattr(module, "config", None)
        if config is not None and hasattr(config, "_is_quantized"):
            del config._is_quantized
    if not any(
        getattr(hook, "hook", hook) is _accept_disk_names
        for hook in model._load_state_dict_pre_hooks.values()
    ):
        model.register_load_state_dict_pre_hook(_accept_disk_names)


def _accept_disk_names(module: Any, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
    """Let ``load_state_dict`` read names as they are on disk (ViT's differ from its modules').

    The Trainer resumes and loads its best model that way; without this it skips those weights with a warning.
    """
    for disk, name in disk_names(module, module.state_dict()).items():
        if prefix + disk in state_dict and prefix + name not in state_dict:
            state_dict[prefix + name] = state_dict.pop(prefix + disk)


def disk_names(model: Any, state: Mapping[str, "Tensor"]) -> dict[str, str]:
    """Names on disk that differ from the module's name, and that name."""
    own = {id(tensor): name for name, tensor in state.items()}
    return {
        disk: own[id(tensor)]
        for disk, tensor in _reverted(model, state).items()
        if own.get(id(tensor), disk) != disk
    }


def _reverted(model: Any, state: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
    """A state dict under the names ``save_pretrained`` writes."""
    from transformers.core_model_loading import revert_weight_conversion

    reverted: dict[str, Tensor] = revert_weight_conversion(model, dict(state))
    return reverted


# ---- What must agree -------------------------------------------------------------------------------------------------


def check_fit(plan: Plan, model: Any) -> None:
    """Whether a plan can belong to a model as it is configured.

    Raises:
        Refused: ``plan-mismatch`` (another family, depth, heads or filters), or the family's own refusal.
    """
    from sparsam.models import dense_plan, inspect_model

    dense = dense_plan(model)
    if plan.family != dense.family or len(plan.layers) != len(dense.layers):
        raise Refused(
            f"the plan is for {plan.family} with {len(plan.layers)} layers; the model is {dense.family} with "
            f"{len(dense.layers)}. Restore config.json from the saved folder.",
            code="plan-mismatch",
        )
    for index, (left, shape) in enumerate(zip(plan.layers, inspect_model(model.config).layers, strict=False)):
        for kind, kept in (("heads", left.heads), ("filters", left.filters)):
            if kept and kept[-1] >= shape[kind]:
                raise Refused(
                    f"the plan keeps {kind[:-1]} {kept[-1]} in layer {index}; the dense model has {shape[kind]} "
                    f"{kind}. Restore config.json from the saved folder.",
                    code="plan-mismatch",
                )


def check_files(files: Sequence[Path], plan: Plan | None, config: Any, *, tensors: bool = True) -> None:
    """Check the digests in the headers of a model's files; files without our header are passed over.

    Without ``tensors`` only those of the plan and of id2label, which takes no time.

    Raises:
        Refused: ``digest``, naming the tensor, the plan or id2label, and the file; ``artifact-version`` for a newer
            schema; ``no-safetensors`` for files of another format.
        InputOutput: ``safetensors-corrupt``.
    """
    seen: dict[Path, dict[str, str]] = {}
    record: Mapping[str, Any] = {}
    for file in files:
        if file.suffix != ".safetensors":
            raise Refused(
                f"{file} is not safetensors; other formats can run code while loading. Save the model again with "
                "model.save_pretrained(folder).",
                code="no-safetensors",
            )
        header = read_header(file)
        found = _record(header, file)
        if found is None:
            continue
        record = found
        if record["plan"] != (None if plan is None else plan.digest()):
            raise _edited("the plan in config.json", file)
        if not _labels_agree(record["id2label"], config, file.parent / "config.json"):
            raise _edited("id2label in config.json", file)
        if tensors and record["tensors"] is not None:
            seen[file] = _check_tensors(file, header, record)
    if seen and record["tensors"] is not None:
        present = {name for names in seen.values() for name in names.values()}
        for name in record["tensors"]:
            if name not in present:
                where = next(iter(seen))
                raise Refused(f"the tensor {name} is missing from {where.parent}. {_MEND}", code="digest")


def check_scales(files: Sequence[Path], count: int) -> None:
    """Whether files hold as many scales as a plan has modules in integers: loading would make up those that are missing.

    Raises:
        Refused: ``plan-mismatch``.
        InputOutput: ``safetensors-corrupt``.
    """
    names = {name for file in files for name in read_header(file).tensors}
    found = sum(name.rpartition(".")[2] == "weight_scale" for name in names)
    if files and found != count:
        raise Refused(
            f"the plan has the weights of {count} modules in integers; {files[0].parent} holds the scales of {found}. {_MEND}",
            code="plan-mismatch",
        )


def check_file(file: Path) -> bool:
    """Check a file's tensors against the digests in its own header; False if there are none.

    Raises:
        Refused: ``digest``, ``artifact-version``.
        InputOutput: ``safetensors-corrupt``, ``file-unreadable``.
    """
    header = read_header(file)
    record = _record(header, file)
    if record is None or record["tensors"] is None:
        return False
    _check_tensors(file, header, record)
    return True


_MEND = (
    "Restore the folder from where it was saved or download it again; to change a model, load it, change it and save "
    "it with sparsam."
)


def _edited(what: str, file: Path) -> Refused:
    return Refused(
        f"{what} is not what was saved: its SHA-256 differs from the one in the header of {file}. {_MEND}",
        code="digest",
    )


def _record(header: "Header", file: Path) -> Mapping[str, Any] | None:
    """Our object in a header, checked for form; None if there is none."""
    text = header.metadata.get(KEY)
    if text is None:
        return None
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        record = None
    version = record.get("schema") if isinstance(record, dict) else None
    if isinstance(version, int) and not isinstance(version, bool) and version > SCHEMA:
        raise Refused(
            f"{file} has schema version {version}; this sparsam reads up to {SCHEMA}. Upgrade sparsam.",
            code="artifact-version",
        )
    wanted = {
        "plan": (str, type(None)),
        "id2label": (str,),
        "tensors": (dict, type(None)),
        "aliases": (dict,),
    }
    if version != SCHEMA or not all(isinstance(record.get(key, 0), kinds) for key, kinds in wanted.items()):
        raise Refused(f"the sparsam entry in the header of {file} cannot be read. {_MEND}", code="digest")
    checked: Mapping[str, Any] = record
    return checked


def _check_tensors(file: Path, header: "Header", record: Mapping[str, Any]) -> dict[str, str]:
    """Hash each tensor of a file; returns the recorded name of each."""
    names: dict[str, str] = {}
    digests = file_digests(file, header)
    for name, digest in digests.items():
        recorded = name if name in record["tensors"] else record["aliases"].get(name)
        if record["tensors"].get(recorded) != digest:
            raise _edited(f"the tensor {name}", file)
        names[name] = str(recorded)
    return names


def _labels_agree(digest: str, config: Any, beside: Path) -> bool:
    """Whether the folder's id2label is the one saved; a caller may still have asked for other labels."""
    if labels_digest(getattr(config, "id2label", None)) == digest:
        return True
    try:
        raw = json.loads(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    labels = raw.get("id2label", {"0": "LABEL_0", "1": "LABEL_1"}) if isinstance(raw, dict) else None
    return labels_digest(labels) == digest


def labels_digest(labels: Any) -> str:
    """SHA-256 of id2label as canonical JSON, keys as strings."""
    made = {str(key): value for key, value in labels.items()} if isinstance(labels, Mapping) else None
    text = json.dumps(made, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


# ---- Digests of tensors ----------------------------------------------------------------------------------------------


def header_metadata(model: Any, state: Mapping[str, "Tensor"], plan: Plan | None) -> dict[str, str]:
    """Metadata for the safetensors header of ``state``, whose names are the modules'."""
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "plan": None if plan is None else plan.digest(),
        "id2label": labels_digest(getattr(model.config, "id2label", None)),
        "tensors": None,
        "aliases": {},
    }
    if all(_is_whole(tensor) for tensor in state.values()):
        digests = {disk: tensor_digest(tensor) for disk, tensor in _written(model, state).items()}
        record["tensors"] = digests
        record["aliases"] = {name: disk for disk, name in disk_names(model, state).items() if disk in digests}
    return {KEY: json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False)}


def _is_whole(tensor: Any) -> bool:
    """Whether a tensor's values are all here: not on the meta device, not a shard of one. Else no digest can be had."""
    import torch

    return type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.device.type != "meta"


def _written(model: Any, state: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
    """The tensors ``save_pretrained`` will write, under the names it will give them."""
    from transformers.modeling_utils import remove_tied_weights_from_state_dict

    ignored = set(getattr(model, "_keys_to_ignore_on_save", None) or ())
    left = {name: tensor for name, tensor in state.items() if name not in ignored}
    return _reverted(model, remove_tied_weights_from_state_dict(left, model))


_TORCH_NAMES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "complex64": "C64",
}
_ITEM_BYTES = {
    "F64": 8,
    "I64": 8,
    "U64": 8,
    "C64": 8,
    "F32": 4,
    "I32": 4,
    "U32": 4,
    "F16": 2,
    "BF16": 2,
    "I16": 2,
    "U16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
}


def _start_digest(dtype: str, shape: Sequence[int]) -> Any:
    return hashlib.sha256(f"{dtype} {','.join(map(str, shape))}\n".encode())


def tensor_digest(tensor: "Tensor") -> str:
    """SHA-256 of a tensor's dtype, shape and bytes, as it will stand in a safetensors file."""
    import torch

    name = str(tensor.dtype).removeprefix("torch.")
    if name not in _TORCH_NAMES:
        raise Refused(
            f"tensors of dtype {name} cannot be saved. Convert the model with model.float().",
            code="tensor-dtype",
        )
    digest = _start_digest(_TORCH_NAMES[name], tuple(tensor.shape))
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    if flat.numel():
        digest.update(flat.view(torch.uint8).numpy())
    made: str = digest.hexdigest()
    return made


@dataclass(frozen=True)
class Place:
    """Where a tensor lies in a file: bytes [start, end) from the file's beginning."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Header:
    """The header of a safetensors file."""

    metadata: dict[str, str]
    tensors: dict[str, Place]


def read_header(file: Path) -> Header:
    """Read and check the header of a safetensors file, before anything is allocated for its tensors.

    Raises:
        InputOutput: ``safetensors-corrupt``, ``file-unreadable``.
    """
    try:
        found = file.stat()
        size = found.st_size
        if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for
            raise _corrupt(file, "it is no ordinary file")
        with open(file, "rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
                raise _corrupt(file, f"it has {size} bytes and a header of {length}")
            text = stream.read(length)
    except InputOutput:
        raise
    except OSError as error:
        raise _unreadable(file, error) from None
    try:
        raw = json.loads(text.decode("utf-8"), object_pairs_hook=_no_repeats)
        metadata = raw.pop("__metadata__", {})
        tensors = {name: _place(entry, 8 + length) for name, entry in raw.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        raise _corrupt(file, f"its header cannot be read ({error or type(error).__name__})") from None
    if len(tensors) > MAX_TENSORS:
        raise _corrupt(file, f"it claims {len(tensors)} tensors")
    at = 8 + length
    for name, place in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if place.start != at or place.end > size:
            raise _corrupt(file, f"the tensor {name} does not lie where it should")
        at = place.end
    if at != size:
        raise _corrupt(file, f"it ends at byte {size}, its tensors at {at}")
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _corrupt(file, "its metadata is not text")
    return Header(metadata, tensors)


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name stands twice")
    return made


_DTYPE = re.compile(r"[A-Z0-9_]{1,16}")


def _place(entry: Mapping[str, Any], offset: int) -> Place:
    dtype, shape, (start, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    numbers = (*shape, start, end)
    if len(shape) > MAX_RANK:  # before they are multiplied
        raise ValueError(f"a shape has {len(shape)} dimensions")
    if not all(type(number) is int and number >= 0 for number in numbers) or end < start:
        raise ValueError("sizes must be whole numbers")
    if not isinstance(dtype, str) or not _DTYPE.fullmatch(dtype):
        raise ValueError("a dtype is not known")
    if dtype in _ITEM_BYTES and math.prod(shape) * _ITEM_BYTES[dtype] != end - start:
        raise ValueError("a shape does not fit its bytes")
    return Place(dtype, shape, offset + start, offset + end)


def _unreadable(file: Path, error: OSError) -> InputOutput:
    return InputOutput(
        f"{file} cannot be read: {error.strerror or error}. Check the file and its permissions.",
        code="file-unreadable",
    )


def _corrupt(file: Path, how: str) -> InputOutput:
    return InputOutput(
        f"{file} is not a whole safetensors file: {how}. Copy or download it again.",
        code="safetensors-corrupt",
    )


def file_digests(file: Path, header: Header) -> dict[str, str]:
    """The digest of each tensor in a safetensors file, read in pieces.

    Raises:
        InputOutput: ``safetensors-corrupt``, ``file-unreadable``.
    """
    try:
        return _hashed(file, header)
    except InputOutput:
        raise
    except OSError as error:
        raise _unreadable(file, error) from None


def _hashed(file: Path, header: Header) -> dict[str, str]:
    made: dict[str, str] = {}
    with open(file, "rb") as stream:
        for name, place in sorted(header.tensors.items(), key=lambda item: item[1].start):
            digest = _start_digest(place.dtype, place.shape)
            stream.seek(place.start)
            left = place.end - place.start
            while left:
                piece = stream.read(min(left, CHUNK_BYTES))
                if not piece:
                    raise _corrupt(file, f"it ends inside {name}")
                digest.update(piece)
                left -= len(piece)
            made[name] = digest.hexdigest()
    return made
