"""Plain transformers: the stock forward pass, each batch padded to its longest row, attention by torch's fused kernel."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sparsam.baselines.feed import Arrays, Feed, Part

Serve = Callable[[Part], NDArray[np.float32]]
"""Rows in, logits out (n, c): what is timed."""


def tensors(arrays: Arrays, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """A model's inputs; pixels in its precision."""
    made = {name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in arrays.items()}
    return {name: x.to(dtype) if x.is_floating_point() else x for name, x in made.items()}


def open_eager(feed: Feed, dtype: torch.dtype) -> Serve:
    """The model as transformers loads it, in this precision."""
    model: Any = feed.loaded.model.eval().to(dtype)
    model.set_attn_implementation("sdpa")

    @torch.inference_mode()
    def serve(part: Part) -> NDArray[np.float32]:
        found: NDArray[np.float32] = model(**tensors(part.padded(), dtype)).logits.float().numpy()
        return found

    return serve
