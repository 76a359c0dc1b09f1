"""What a ``config.json`` may say: no code, no other files, and no sizes that its weights cannot have."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsam import plugin
from sparsam.artifact.manifest import AGAIN, CONFIG
from sparsam.errors import InputOutput, Refused


def check_config(config: Mapping[str, Any], place: str | Path) -> None:
    """Refuse a configuration that names code to run, other files of weights, or sizes beyond belief.

    Raises:
        Refused: ``remote-code``, ``quantized``, ``weights-elsewhere``.
        InputOutput: ``config-size``.
    """
    _refuse_code(config, Path(place) / CONFIG)
    for key, most in _CEILINGS.items():
        if isinstance(size := config.get(key), int) and size > most:
            raise InputOutput(
                f"{Path(place) / CONFIG} says {key} {str(size)[:24]}; no more than {most} are believed. {AGAIN}",
                code="config-size",
            )
    if config.get("transformers_weights") is not None:
        raise Refused(
            f"{Path(place) / CONFIG} names a file of weights (transformers_weights); only model.safetensors is read. Take that "
            "entry out if you trust the folder.",
            code="weights-elsewhere",
        )
    method = method_of(config)
    if method not in (None, plugin.METHOD):
        raise Refused(
            f"the weights in {place} are quantized ({method}); sparsam starts from plain ones. Load the model they "
            "were made from.",
            code="quantized",
        )


def method_of(config: Mapping[str, Any]) -> str | None:
    """The quantizer that a configuration names; None where the weights are plain."""
    found = config.get("quantization_config")
    return None if found is None else str(found.get("quant_method") if isinstance(found, dict) else found)


# Transformers makes a name for each label, we a line for each layer, before any weights are looked at. Chosen by us.
_CEILINGS = {"num_labels": 1_000_000, "num_hidden_layers": 10_000, "n_layers": 10_000}

# Sizes of which the weights hold at least one byte each; of the layers, one tensor each.
_SIZES = (
    "vocab_size", "type_vocab_size", "max_position_embeddings", "hidden_size", "dim", "embedding_size",
    "intermediate_size", "hidden_dim", "num_hidden_layers", "n_layers", "num_attention_heads", "n_heads", "image_size",
    "patch_size", "num_channels",
)  # fmt: skip


def check_sizes(config: Mapping[str, Any], tensors: Sequence[plugin.Place], place: Path) -> None:
    """Refuse a configuration that describes more than the weights can hold, before a model is made of it."""
    held = sum(x.end - x.start for x in tensors)
    sizes = {key: config[key] for key in _SIZES if isinstance(config.get(key), int)}
    if sizes.get("patch_size", 0) > 0:
        sizes["patches"] = (sizes.get("image_size", 0) // sizes["patch_size"]) ** 2
    for key, size in sizes.items():
        if size > (len(tensors) if key in ("num_hidden_layers", "n_layers") else held):
            raise Refused(
                f"the weights in {place} do not fit its config.json: {key} is {str(size)[:24]} there, the weights have {held} "
                f"bytes in {len(tensors)} tensors. {AGAIN}",
                code="weights-mismatch",
            )


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
