"""sparsam's own inference form: packed, no padding. Of the dense checkpoint it is a baseline, of another one the candidate."""

import numpy as np
import torch
from numpy.typing import NDArray

from sparsam.baselines.eager import Serve
from sparsam.baselines.feed import Feed, Part
from sparsam.runtime import Batch, freeze


def open_frozen(feed: Feed, dtype: str) -> Serve:
    """The frozen model in this precision."""
    frozen = freeze(feed.loaded.model, processor=feed.loaded.processor, dtype=dtype)

    def serve(part: Part) -> NDArray[np.float32]:
        if part.feed.is_image:
            return frozen.of_images(torch.from_numpy(np.ascontiguousarray(part.pixels()))).numpy()
        return frozen.logits(Batch.of(*part.ragged())).numpy()

    return serve
