"""Operations whose result's size is up to the data, where the framework asserts what holds by itself."""

from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor

from sparsam.shapes.environment import symbolic
from sparsam.shapes.run import Run
from sparsam.shapes.spans import span_of


def bincount(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`torch.bincount`: as many counts as the largest value asks for, and `minlength` at least.

    Classes that come with the data are taken to be in range, here as elsewhere: below `minlength`, where one is given.

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
    size = _counts(run, values, least)
    dtype = (
        torch.int64 if weights is None else weights.dtype if weights.dtype == torch.float32 else torch.float64
    )
    return torch.empty(size, dtype=dtype, device=values.device)


def _counts(run: Run, values: torch.Tensor, least: Any) -> Any:
    span = span_of(values)
    if span is None:
        known = type(least) is int and least > 0
        return least if known else torch.sym_max(run.shapes.value("counts that the data ask for", 0), least)
    if type(span.high) is type(least) is int and span.high <= least:
        return least
    if values.numel() == 0:
        return least
    if span.reached:
        return torch.sym_max(span.high, least)
    return torch.sym_max(run.shapes.index("counts that the data ask for", span.high + 1), least)


def nonzero(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`nonzero`: no more than there are, however many that is."""
    tensor = args[0]
    if isinstance(tensor, FakeTensor) and tensor.nonzero_memo is None and symbolic(tensor.numel()):
        tensor.nonzero_memo = run.shapes.index("a number read from data", tensor.numel() + 1)
    return NotImplemented


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


def combinations(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`torch.combinations` of n: n over r rows, or with repetition n + r - 1 over r.

    The framework picks them by a mask, and would not know that it picks as many each time.
    """
    values, *others = args
    each = others[0] if others else kwargs.get("r", 2)
    repeated = others[1] if len(others) > 1 else kwargs.get("with_replacement", False)
    if values.dim() != 1 or not isinstance(each, int) or each < 0:
        return NotImplemented
    if each == 0:
        return values.new_empty(0)
    rows = values.shape[0] + (each - 1 if repeated else 0)
    count: Any = 1
    for i in range(each):
        if not repeated and rows <= i:
            return values.new_empty((0, each))
        count = count * (rows - i) // (i + 1)
    made = values.new_empty((count, each))
    return made.requires_grad_() * 1 if values.requires_grad else made


def one_hot(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`F.one_hot` with a number of classes that is a symbol, or none: then as many as the largest value asks for."""
    values, *others = args
    classes = others[0] if others else kwargs.get("num_classes", -1)
    if not symbolic(classes) and classes != -1:
        return NotImplemented
    func(values.new_empty([1] * values.dim()), 1)  # refuses other types
    if symbolic(classes):
        torch._check(
            classes > 0, lambda: f"Class values must be smaller than num_classes, which is {classes}"
        )
    else:
        torch._check(values.numel() > 0, lambda: "Can not infer total number of classes from empty tensor.")
        classes = run.shapes.value("classes that the data ask for", 1)
    return values.new_empty((*values.shape, classes))


RULES = {
    torch.bincount: bincount,
    torch.Tensor.bincount: bincount,
    torch.ops.aten.nonzero.default: nonzero,
    torch.ops.aten.masked_select.default: masked_select,
    torch.combinations: combinations,
    torch._C._nn.one_hot: one_hot,
}
