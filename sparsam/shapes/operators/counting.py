"""Operations whose result's size is up to the data, where the framework asserts what holds by itself."""

from typing import Any

import torch

from sparsam.shapes.run import Run


def bincount(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`torch.bincount`: as many counts as the largest value asks for, and `minlength` at least.

    Raises:
        RuntimeError: As the framework, for what is not one-dimensional, or weights of another size.
        IndexError: Never here: negative values are up to the data.
    """
    values, *others = args
    weights = others[0] if others else kwargs.get("weights")
    least = others[1] if len(others) > 1 else kwargs.get("minlength", 0)
    if values.dim() != 1 or values.is_floating_point():
        raise RuntimeError("bincount only supports 1-d non-negative integral inputs.")
    torch._check(least >= 0, lambda: "minlength should be >= 0")
    if weights is not None:
        torch._check(
            weights.dim() == 1 and weights.shape[0] == values.shape[0],
            lambda: "weights should be 1-d and have the same length as input",
        )
    size = torch.sym_max(run.shapes.value("counts that the data ask for", 0), least)
    dtype = (
        torch.int64 if weights is None else weights.dtype if weights.dtype == torch.float32 else torch.float64
    )
    return torch.empty(size, dtype=dtype, device=values.device)


def masked_select(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`masked_select`: the same mask chooses as many of every tensor, as an index does."""
    tensor, mask = args
    if not mask.dim() or mask.dim() < tensor.dim():
        return NotImplemented
    if not all(
        size == chosen or size == 1
        for size, chosen in zip(reversed(tensor.shape), reversed(mask.shape), strict=False)
    ):
        return NotImplemented
    return torch.ops.aten.index.Tensor(tensor.expand(mask.shape), [mask])


RULES = {
    torch.bincount: bincount,
    torch.Tensor.bincount: bincount,
    torch.ops.aten.masked_select.default: masked_select,
}
