"""A small vision transformer from nothing, for image tasks without a pretrained model: ``vit:width=64,layers=4,patch=2``."""

import re
from typing import Any

from sparsam.errors import Usage

PREFIX = "vit:"
_DEFAULTS = {"width": 64, "layers": 4, "heads": 4, "patch": 4, "filters": 0}


def is_scratch(source: object) -> bool:
    """Whether ``source`` describes a model to make rather than one to load."""
    return isinstance(source, str) and source.startswith(PREFIX)


def make_vit(spec: str, *, image_size: tuple[int, int], labels: tuple[str, ...]) -> tuple[Any, Any]:
    """A ViT with random weights for RGB images of ``image_size`` (height, width), and its image processor.

    Raises:
        Usage: ``model-spec`` for a key or size that does not fit.
    """
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    sizes = dict(_DEFAULTS)
    for item in filter(None, spec.removeprefix(PREFIX).split(",")):
        match = re.fullmatch(r"\s*([a-z]+)\s*=\s*(\d{1,5})\s*", item)
        if match is None or match[1] not in sizes or int(match[2]) < 1:
            raise Usage(
                f"cannot read {item!r} in {spec!r}; expected e.g. vit:width=64,layers=4,heads=4,patch=2,filters=256.",
                code="model-spec",
            )
        sizes[match[1]] = int(match[2])
    if sizes["width"] % sizes["heads"]:
        raise Usage(
            f"{sizes['heads']} heads do not divide width {sizes['width']} in {spec!r}.", code="model-spec"
        )
    if any(side % sizes["patch"] for side in image_size):
        raise Usage(
            f"patches of {sizes['patch']} do not tile images of {image_size[0]}x{image_size[1]}; choose a divisor "
            "of both sides.",
            code="model-spec",
        )
    config = ViTConfig(
        hidden_size=sizes["width"],
        num_hidden_layers=sizes["layers"],
        num_attention_heads=sizes["heads"],
        intermediate_size=sizes["filters"] or 4 * sizes["width"],
        image_size=image_size if image_size[0] != image_size[1] else image_size[0],
        patch_size=sizes["patch"],
        num_channels=3,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    processor = ViTImageProcessor(
        size={"height": image_size[0], "width": image_size[1]}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    return ViTForImageClassification(config), processor
