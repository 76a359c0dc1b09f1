"""The route of most users: ``from_pretrained`` and ``pipeline``. A folder with a plan goes it too, through the plug-in.

A pipeline reads texts and images itself, so there is no figure without that.
"""

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from transformers import pipeline

from sparsam.baselines.eager import Serve
from sparsam.baselines.feed import Feed, Part


def open_stock(feed: Feed, batch: int) -> Serve:
    """The pipeline, asked for the scores of all classes."""
    kind = "image-classification" if feed.is_image else "text-classification"
    reader = {"image_processor" if feed.is_image else "tokenizer": feed.loaded.processor}
    asked: dict[str, Any] = (
        {"top_k": None} if not feed.is_image else {"top_k": feed.loaded.model.config.num_labels}
    )
    asked |= {} if feed.is_image else {"truncation": True, "max_length": feed.longest}
    made: Any = cast(Any, pipeline)(kind, model=feed.loaded.model.eval(), device="cpu", **reader)
    place = {str(name): at for at, name in feed.loaded.model.config.id2label.items()}

    def serve(part: Part) -> NDArray[np.float32]:
        said = made(part.originals(), batch_size=batch, function_to_apply="none", **asked)
        logits = np.full((len(said), len(place)), np.nan, np.float32)
        for row, classes in enumerate(said):
            for one in classes:
                logits[row, place[one["label"]]] = one["score"]
        return logits

    return serve
