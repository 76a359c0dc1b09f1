"""Sequences of unequal lengths, padded and packed."""

from collections.abc import Callable
from typing import Any

import torch

from sparsam.shapes.devices import CPU, place
from sparsam.shapes.environment import symbolic
from sparsam.shapes.operators import indexing
from sparsam.shapes.run import Run
from sparsam.shapes.series import Repeated


def pad(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`pad_sequence`: as long as the longest, which one of them is.

    Raises:
        RuntimeError: If their other sizes differ, as the framework does.
    """
    sequences = args[0] if args else kwargs["sequences"]
    first = args[1] if len(args) > 1 else kwargs.get("batch_first", False)
    items = [item.item if isinstance(item, Repeated) else item for item in sequences]
    if not items or any(not isinstance(item, torch.Tensor) for item in items):
        return NotImplemented
    if not any(isinstance(item, Repeated) for item in sequences) and not any(
        symbolic(i.shape[0]) for i in items
    ):
        return NotImplemented
    count: Any = 0
    for item in sequences:
        count = count + (item.count if isinstance(item, Repeated) else 1)
    for item in items[1:]:
        torch.cat([items[0][:1], item[:1]])  # refuses other sizes that differ
    longest = items[0].shape[0]
    for item in items[1:]:
        longest = torch.sym_max(longest, item.shape[0])
    if any(isinstance(item, Repeated) for item in sequences):
        whole = run.shapes.value("the longest sequence of a batch", 0)
        longest = torch.sym_max(longest, whole)
    sizes = (count, longest) if first else (longest, count)
    return items[0].new_empty((*sizes, *items[0].shape[1:]))


def pack(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`_pack_padded_sequence`: as many rows as the lengths add up to, in as many steps as the longest has.

    Raises:
        RuntimeError: If there is not one length for each sequence.
    """
    padded, lengths, first = args
    batch, steps = (padded.shape[0], padded.shape[1]) if first else (padded.shape[1], padded.shape[0])
    if lengths.dim() != 1 or lengths.shape[0] != batch:
        raise RuntimeError(
            f"Expected `len(lengths)` to be equal to batch_size, but got {lengths.shape[0]} (batch_size={batch})"
        )
    if (place(lengths) or CPU) != CPU:
        raise RuntimeError(
            f"'lengths' argument should be a 1D CPU int64 tensor, but got 1D {place(lengths)} Long tensor"
        )
    rows = run.shapes.value("rows of packed sequences", 1)
    sizes = torch.empty((steps,), dtype=torch.int64)
    data = padded.new_empty((rows, *padded.shape[2:]))
    if padded.requires_grad:
        data = data.requires_grad_() * 1
    sizes.packed_from = batch, steps  # type: ignore[attr-defined]
    return data, sizes


def unpack(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`_pad_packed_sequence`."""
    data, sizes, first, *others = args
    found = getattr(sizes, "packed_from", None)
    if found is None:
        return NotImplemented
    batch, steps = found
    total = others[1] if len(others) > 1 else None
    if total is not None and total > 0:
        if total < steps:
            raise RuntimeError(
                f"Expected total_length to be at least the length of the longest sequence in input, but got {total}"
            )
        steps = total
    shape = (batch, steps) if first else (steps, batch)
    made = data.new_empty((*shape, *data.shape[1:]))
    return (made.requires_grad_() * 1 if data.requires_grad else made), torch.empty(
        (batch,), dtype=torch.int64
    )


def getitem(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`x[…]`: the first of the sizes of packed batches is that of the whole batch."""
    tensor, index = args
    found = getattr(tensor, "packed_from", None)
    if (
        found is not None
        and isinstance(index, int)
        and index == 0
        and tensor.dtype is torch.int64
        and tensor.dim() == 1
    ):
        return found[0]
    return indexing.getitem(run, func, args, kwargs)


RULES: dict[Any, Callable[..., Any]] = {
    torch._C._nn.pad_sequence: pad,
    torch.Tensor.__getitem__: getitem,
    torch._VF._pack_padded_sequence: pack,
    torch._VF._pad_packed_sequence: unpack,
}
