"""A folder that ``sparsam export`` wrote, in its runtime."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sparsam.baselines.eager import Serve
from sparsam.baselines.feed import Feed, Part


def open_exported(feed: Feed, cache: Path, threads: int, batch: int) -> Serve:
    """The graph on this many threads; batches are padded, as its users give them."""
    run = feed.loaded.model.open(threads)

    def serve(part: Part) -> NDArray[np.float32]:
        found: NDArray[np.float32] = run(part.padded())
        return found

    return serve
