"""Results whose length only the data know, within bounds that are known."""

from typing import Any

import torch

from sparsam.shapes.run import Run


def bincount(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`torch.bincount`: at least `minlength` counts.

    Raises:
        RuntimeError: If the input is no vector of whole numbers, or the weights are of another length.
    """
    values = args[0] if args else kwargs["input"]
    weights = args[1] if len(args) > 1 else kwargs.get("weights")
    least = args[2] if len(args) > 2 else kwargs.get("minlength", 0)
    if values.dim() != 1 or values.is_floating_point():
        raise RuntimeError("bincount only supports 1-d non-negative integral inputs.")
    if weights is not None and (weights.dim() != 1 or weights.shape[0] != values.shape[0]):
        raise RuntimeError("weights should be 1-d and have the same length as input")
    count = least + run.shapes.value("the largest value that bincount counts", 0)
    return values.new_empty((count,), dtype=torch.int64 if weights is None else weights.dtype)


RULES = {torch.bincount: bincount, torch.Tensor.bincount: bincount}
