"""Views of tensors that are contiguous as they are written: the framework would ask whether they are."""

from typing import Any

import torch

from sparsam.shapes.run import Run
from sparsam.shapes.structure import viewed


def reshape(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`x.reshape(…)`: a view where that is plain."""
    tensor, *sizes = args
    if kwargs or type(tensor).__name__ != "FakeTensor":
        return NotImplemented
    wanted = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else sizes
    if not wanted or viewed(tensor, wanted) is None:
        return NotImplemented
    return tensor.view(wanted)


def flatten(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`torch.flatten(x, first, last)`."""
    tensor, *ends = args
    first = ends[0] if ends else kwargs.get("start_dim", 0)
    last = ends[1] if len(ends) > 1 else kwargs.get("end_dim", -1)
    if type(tensor).__name__ != "FakeTensor" or type(first) is not int or type(last) is not int:
        return NotImplemented
    count = tensor.dim()
    first, last = first + count * (first < 0), last + count * (last < 0)
    if not 0 <= first < last < count:
        return NotImplemented
    middle = 1
    for size in tensor.shape[first : last + 1]:
        middle = middle * size
    sizes = (*tensor.shape[:first], middle, *tensor.shape[last + 1 :])
    return NotImplemented if viewed(tensor, sizes) is None else tensor.view(sizes)


RULES = {
    torch.reshape: reshape,
    torch.Tensor.reshape: reshape,
    torch.flatten: flatten,
    torch.Tensor.flatten: flatten,
}
