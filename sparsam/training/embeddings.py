"""Gradients of embedding tables without a fresh table of zeros at every step.

A batch touches a few hundred rows of a table of thirty thousand; torch's dense gradient zeroes all of them anew, 47 MB for
MiniLM, which takes as long as a layer. Here the rows' gradients arrive alone and are added into one buffer that stays, and
after the step those rows are zeroed again. The optimizer sees the same dense gradient as ever.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

LARGE = 1 << 20
"""Elements from which a table is treated this way. Chosen by us: zeroing fewer costs next to nothing."""


@contextmanager
def touched_rows(model: nn.Module, enabled: bool = True) -> Iterator[Callable[[], None]]:
    """Inside the block large embedding tables of ``model`` collect their gradients by row.

    Gives a function to call after each optimizer step, in place of nothing: it zeroes the rows that were touched. A table whose
    gradient comes dense as well (tied to an output layer) is left as it is.
    """
    tables = [
        module
        for module in model.modules()
        if isinstance(module, nn.Embedding)
        and module.weight.requires_grad
        and module.weight.numel() >= LARGE
        and not (module.sparse or module.scale_grad_by_freq)
    ]
    if not enabled or not tables:
        yield lambda: None
        return
    touched: list[tuple[Tensor, Tensor]] = []
    handles = []
    for table in tables:
        table.sparse = True
        weight: Any = table.weight
        handles.append(weight.register_post_accumulate_grad_hook(_collect(torch.zeros_like(weight), touched)))

    def clean() -> None:
        for buffer, rows in touched:
            buffer.index_fill_(0, rows, 0.0)
        touched.clear()

    try:
        yield clean
    finally:
        for table, handle in zip(tables, handles, strict=True):
            table.sparse = False
            table.weight.grad = None
            handle.remove()


def _collect(buffer: Tensor, touched: list[tuple[Tensor, Tensor]]) -> Callable[[Tensor], None]:
    def collect(weight: Tensor) -> None:
        found = weight.grad
        if found is None or not found.is_sparse:
            return
        rows = found._indices()[0]
        buffer.index_add_(0, rows, found._values())
        touched.append((buffer, rows))
        weight.grad = buffer

    return collect
