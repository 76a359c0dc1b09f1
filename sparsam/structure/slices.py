"""Masks to index slices: which rows and columns of a layer's linear modules stay."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def of_heads(kept: Sequence[int], width: int) -> NDArray[np.int64]:
    """Rows of the query (columns of the output) projection that belong to some heads, each ``width`` wide."""
    return (np.asarray(kept, np.int64)[:, None] * width + np.arange(width)).ravel()


def of_groups(kept: Sequence[int], queries: int) -> list[int]:
    """The key-value heads that some query heads need, where each serves ``queries`` of them: a whole group leaves, or none.

    With one query a key-value head (ordinary attention) these are the heads themselves.
    """
    return sorted({head // queries for head in kept})


def whole_groups(kept: Sequence[int], queries: int) -> list[int]:
    """The query heads that must stay so that every key-value head left still serves ``queries`` of them."""
    return [group * queries + one for group in of_groups(kept, queries) for one in range(queries)]
