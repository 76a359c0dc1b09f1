"""What stands before and behind the encoder, called by its parts: the user's own embeddings, pooler and head.

transformers' forward passes around them look at masks, arguments and outputs for about half a millisecond, a third of what a
sentence takes. The parts are the same modules with the same numbers. A model whose class is not known here goes through its
own forward pass.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from sparsam.models.lift import base_of

Head = Callable[[Any, Float[Tensor, "b p d"]], Float[Tensor, "b c"]]


def _behind_pooler(model: Any, states: Tensor) -> Tensor:
    found: Tensor = model.classifier(base_of(model).pooler(states))
    return found


def _whole(model: Any, states: Tensor) -> Tensor:
    found: Tensor = model.classifier(states)
    return found


def _distilbert(model: Any, states: Tensor) -> Tensor:
    found: Tensor = model.classifier(F.relu(model.pre_classifier(states[:, 0])))
    return found


def _image(model: Any, states: Tensor) -> Tensor:
    found: Tensor = model.classifier(base_of(model).layernorm(states[:, 0]))
    return found


HEADS: dict[str, Head] = {
    "BertForSequenceClassification": _behind_pooler,
    "RobertaForSequenceClassification": _whole,
    "XLMRobertaForSequenceClassification": _whole,
    "ElectraForSequenceClassification": _whole,
    "MPNetForSequenceClassification": _whole,
    "DistilBertForSequenceClassification": _distilbert,
    "ViTForImageClassification": _image,
    "DeiTForImageClassification": _image,
}
"""From the protected tokens' last states to logits, by the class's name."""


def head_of(model: Any) -> Head | None:
    """How a model's head is called; None for a class that is not known here, or one that was derived from it."""
    return HEADS.get(type(model).__name__) if type(model).__module__.startswith("transformers.") else None


def embedded(
    model: Any, ids: Int[Tensor, " t"], positions: Int[Tensor, " t"], kinds: Int[Tensor, " t"] | None
) -> Float[Tensor, "t d"]:
    """The states that enter a text model's encoder.

    Args:
        model: of a class in :data:`HEADS`.
        ids: token ids.
        positions: rows of the position table.
        kinds: token types; all 0 if absent, where the model has them.
    """
    base = base_of(model)
    parts = base.embeddings
    x: Tensor = parts.word_embeddings(ids)
    table = getattr(parts, "token_type_embeddings", None)
    if table is not None:
        x = x + (table.weight[0] if kinds is None else table(kinds))
    x = x + parts.position_embeddings(positions)
    x = parts.LayerNorm(x)
    wider = getattr(
        base, "embeddings_project", None
    )  # ELECTRA's, where its tables are narrower than its layers
    return x if wider is None else wider(x)


def pictured(model: Any, pixels: Float[Tensor, "b c h w"]) -> Float[Tensor, "t d"]:
    """The states that enter an image model's encoder, packed."""
    x: Tensor = base_of(model).embeddings(pixels)
    return x.flatten(0, 1)


def positions_of(lengths: Int[Tensor, " b"], first: int) -> Int[Tensor, " t"]:
    """Rows of the position table for packed tokens."""
    if lengths.shape[0] == 1:
        return torch.arange(first, first + int(lengths[0]))
    starts = torch.cumsum(lengths, 0) - lengths
    return torch.arange(int(lengths.sum())) - torch.repeat_interleave(starts - first, lengths)
