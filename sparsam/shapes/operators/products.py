"""Products with a sum, and bilinear forms: as their parts, which the framework has rules for."""

import re
from collections.abc import Iterable
from typing import Any

import torch

from sparsam.shapes import whole
from sparsam.shapes.broadcasting import same_size
from sparsam.shapes.layouts import layout_of
from sparsam.shapes.mode import has_symbols
from sparsam.shapes.run import Run

aten = torch.ops.aten


def baddbmm(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`baddbmm`: (b, n, m) by (b, m, p), and what broadcasts to the product."""
    added, one, other = args[:3]
    if not has_symbols(args[:3]):
        return NotImplemented
    _alike(added, one, other)
    product = torch.bmm(one, other)
    added.expand(product.shape)
    return product


def addbmm(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`addbmm`: the products of a batch, summed."""
    added, one, other = args[:3]
    if not has_symbols(args[:3]):
        return NotImplemented
    _alike(added, one, other)
    total = torch.bmm(one, other).sum(0)
    added.expand(total.shape)
    return total


def _same(one: Any, other: Any, text: str) -> None:
    torch._check(one == other, lambda: f"{text}: got {one} and {other}")


def _alike(*tensors: torch.Tensor) -> None:
    first = tensors[0].dtype
    torch._check(
        all(tensor.dtype == first for tensor in tensors),
        lambda: f"expected tensors of one dtype, but got {[tensor.dtype for tensor in tensors]}",
    )


def addcmul(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`addcmul`: all three broadcast."""
    added, one, other = args[:3]
    return added + one * other if has_symbols(args[:3]) else NotImplemented


def addcdiv(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`addcdiv`: all three broadcast."""
    added, one, other = args[:3]
    whole = not any(t.is_floating_point() or t.is_complex() for t in (one, other))
    return added + one / other if has_symbols(args[:3]) and not whole else NotImplemented


def bilinear(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`F.bilinear`: (…, m) and (…, n) through weights (out, m, n)."""
    names = ("input1", "input2", "weight", "bias")
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    one, other, weight, bias = (given.get(name) for name in names)
    if one is None or other is None or weight is None or not has_symbols((one, other, weight, bias)):
        return NotImplemented
    torch._check(
        one.dim() == other.dim(),
        lambda: f"bilinear(): input dimensions do not match: got {one.dim()} and {other.dim()}",
    )
    torch._check(weight.dim() == 3, lambda: f"bilinear(): weight has {weight.dim()} dimensions, not 3")
    for i in range(one.dim() - 1):
        _same(one.shape[i], other.shape[i], f"bilinear(): input batch dimensions do not match at dim {i}")
    for i, tensor in enumerate((one, other)):
        _same(
            tensor.shape[-1],
            weight.shape[1 + i],
            f"bilinear(): size of input{i + 1} does not match weight size",
        )
        torch._check(tensor.shape[-1] > 0, lambda: "cannot reshape tensor of 0 elements into shape [-1, 0]")
    if bias is not None:
        torch._check(
            bias.dim() == 1 and bias.shape[0] == weight.shape[0],
            lambda: f"bilinear(): bias of {tuple(bias.shape)} for {weight.shape[0]} outputs",
        )
        torch._check(tensor.shape[-1] > 0, lambda: "cannot reshape tensor of 0 elements into shape [-1, 0]")
    _alike(one, other, weight)
    made = torch.nn.functional.linear(one, weight.sum(2)) + torch.nn.functional.linear(other, weight.sum(1))
    return made if bias is None else made + bias


def matmul(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Products of as many matrices on both sides, which are put one behind the other as torch does, without a question."""
    one, other = args if len(args) == 2 and not kwargs else (None, None)
    if not isinstance(one, torch.Tensor) or not isinstance(other, torch.Tensor):
        return NotImplemented
    if one.dim() < 3 or other.dim() not in (2, one.dim()) or not has_symbols((one, other)):
        return NotImplemented
    batch = one.shape[:-2]
    if one.layout is not torch.strided or other.layout is not torch.strided:
        return NotImplemented
    if other.dim() == 2:
        if not layout_of(one):
            return NotImplemented
        with run.shapes.unrecorded():
            one = one.clone(memory_format=torch.contiguous_format)
        return func(one, other)
    if not all(map(same_size, batch, other.shape[:-2])):
        return NotImplemented
    made = torch.bmm(_in_one_batch(run, one), _in_one_batch(run, other))
    with run.shapes.unrecorded():
        return made.view(*batch, one.shape[-2], other.shape[-1])


def linear(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`F.linear`, made as a whole where it is plain to see.

    Of what does not lie in order the framework would ask whether its matrices can be put together.
    """
    names = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
    tensor = names.get("input")
    if isinstance(tensor, torch.Tensor) and len(args) > 1 and names.keys() <= {"input", "weight", "bias"}:
        made = whole.linear(run, tensor, names.get("weight"), names.get("bias"))
        if made is not NotImplemented:
            return made
    if not isinstance(tensor, torch.Tensor) or tensor.dim() < 3 or tensor.layout is not torch.strided:
        return NotImplemented
    if not has_symbols(tensor) or not layout_of(tensor) or not args:
        return NotImplemented
    with run.shapes.unrecorded():
        copy = tensor.clone(memory_format=torch.contiguous_format)
    return func(copy, *args[1:], **kwargs)


def einsum(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`einsum` of two operands as one product of matrices for each of a batch, as torch does it, without its questions.

    Letters in both operands and the result are the batch, letters in both alone are summed over, and each operand has its own.
    """
    if kwargs or len(args) != 3 or not isinstance(args[0], str) or not has_symbols(args[1:]):
        return NotImplemented
    found = re.fullmatch(r"([a-zA-Z]+),([a-zA-Z]+)->([a-zA-Z]*)", args[0].replace(" ", ""))
    pair = args[1:]
    if found is None or not all(
        isinstance(tensor, torch.Tensor) and tensor.layout is torch.strided for tensor in pair
    ):
        return NotImplemented
    *names, out = found.groups()
    if any(len(set(name)) < len(name) for name in (*names, out)):
        return NotImplemented
    if any(tensor.dim() != len(name) for tensor, name in zip(pair, names, strict=True)):
        return NotImplemented
    sizes = dict(zip(names[1], pair[1].shape, strict=True)) | dict(zip(names[0], pair[0].shape, strict=True))
    shared = [letter for letter in names[0] if letter in names[1]]
    if any(not same_size(sizes[letter], pair[1].shape[names[1].index(letter)]) for letter in shared):
        return NotImplemented
    if set(out) | set(shared) != set(names[0]) | set(names[1]) or not set(out) <= set(sizes):
        return NotImplemented
    batch = [letter for letter in out if letter in shared]
    summed = [letter for letter in names[0] if letter in shared and letter not in out]
    own = [[letter for letter in out if letter in name and letter not in shared] for name in names]

    def put(tensor: torch.Tensor, name: str, *groups: list[str]) -> torch.Tensor:
        ordered = tensor.permute([name.index(letter) for group in groups for letter in group])
        return _together(run, ordered, [_product(sizes[letter] for letter in group) for group in groups])

    made = torch.bmm(
        put(pair[0], names[0], batch, own[0], summed), put(pair[1], names[1], batch, summed, own[1])
    )
    order = [*batch, *own[0], *own[1]]
    with run.shapes.unrecorded():
        made = made.view([sizes[letter] for letter in order])
    return made.permute([order.index(letter) for letter in out])


def _product(sizes: Iterable[Any]) -> Any:
    count: Any = 1
    for size in sizes:
        count = count * size
    return count


def _in_one_batch(run: Run, tensor: torch.Tensor) -> torch.Tensor:
    if tensor.dim() == 3:
        return tensor
    return _together(run, tensor, [_product(tensor.shape[:-2]), *tensor.shape[-2:]])


def _together(run: Run, tensor: torch.Tensor, sizes: list[Any]) -> torch.Tensor:
    """A tensor with dimensions put together, for a product that gives the same whether this is a view or a copy."""
    with run.shapes.unrecorded():
        if layout_of(tensor):
            tensor = tensor.clone(memory_format=torch.contiguous_format)
        return tensor.view(sizes)


RULES = {
    torch.einsum: einsum,
    torch.functional.einsum: einsum,
    torch.nn.functional.linear: linear,
    torch.matmul: matmul,
    torch.Tensor.matmul: matmul,
    torch.Tensor.__matmul__: matmul,
    aten.baddbmm.default: baddbmm,
    aten.addbmm.default: addbmm,
    aten.addcmul.default: addcmul,
    aten.addcdiv.default: addcdiv,
    torch.nn.functional.bilinear: bilinear,
    torch.bilinear: bilinear,
}
