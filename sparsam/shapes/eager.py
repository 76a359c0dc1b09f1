"""Types that the kernels of eager torch refuse and its tensors without data do not: asked of the kernels themselves.

Torch's rules for tensors without data say which sizes come out, and leave many a check of types to the kernels ("mat1 and
mat2 must have the same dtype", "not implemented for 'Float'"). Each operator is therefore run once for each combination of
types and ranks on small tensors of zeros, and what it raises about types is raised here. What it says about values or
sizes is ignored: zeros are not the program's data, and sizes are the business of the symbolic rules and of `strictness`.
The same goes for tensors that are written to although several of their elements are one, as after `expand`.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

SMALL = (
    200_000  # elements of all tensors together up to which an operator is run with the sizes that there are
)
LARGE = 4_000_000  # … and up to which it is run so if it fails with smaller ones
FEW = 16  # sizes up to this one are kept where sizes are made smaller
ABOUT_TYPES = re.compile(
    r"not implemented for|dtype|data ?type|\btypes?\b|complex|floating|integral|integer|bool"
    r"|\b(half|long|byte) ?,? ?(tensor|float)",
    re.IGNORECASE,
)
HALVES = re.compile(
    r"not implemented for '(Half|BFloat16)'|of type '?(Half|BFloat16)|of type: (Half|BFloat16)"
)
OVERLAP = "more than one element of the written-to tensor refers to a single memory location"
NAMESPACES = ("aten", "prims", "torch_nn")
SKIPPED = frozenset(
    {
        "aten::lu_unpack",
        "aten::_local_scalar_dense",
        "aten::set_",
        "aten::record_stream",
        "aten::resize_",
        "aten::empty_like",
    }
)
TRUSTING = frozenset({"aten::native_group_norm", "aten::mkldnn_rnn_layer"})
"""Operators that take numbers for sizes of their tensors without a look at these: with others they write past the end."""

_answers: dict[Any, Exception | None] = {}


def refuse(
    func: Any, args: Sequence[Any], kwargs: dict[str, Any], answer: Any, elsewhere: bool = False
) -> None:
    """Raises what the operator's kernel says of the types that it is given.

    Args:
        func: The operator.
        args: What it was called with, on tensors without data.
        kwargs: The same.
        answer: What came out, without data.
        elsewhere: The program means another device, whose kernels take half precision where those of the CPU do not.

    Raises:
        Exception: Of the class and with the text of eager torch; its attribute `eager` is True.
    """
    if func in _unasked or not _askable(func):
        return
    plain = _plain_key(func, args) if not kwargs else None
    if plain in _taken:
        return
    leaves, spec = tree_flatten((tuple(args), kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    if not tensors:
        return
    key: tuple[Any, ...] = (func, spec, tuple(map(_kind, leaves)))
    if func._schema.is_mutable:
        key = (*key, tuple(map(_repeated, tensors)))
    if key in _answers:
        error = _answers[key]
    else:
        error = _answers[key] = _asked(func, leaves, spec, answer)
    if error is None and plain is not None and not func._schema.is_mutable:
        _taken.add(plain)
    if error is None or (elsewhere and HALVES.search(str(error))):
        return
    if OVERLAP in str(error) and not any(
        bool(size > 1)
        for tensor in tensors
        for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
        if type(stride) is int and stride == 0
    ):
        return
    # Kernels do not run for nothing, so that some take any type of empty tensors.
    empty = [tensor.numel() == 0 for tensor in tensors]
    if any(bool(one) for one in empty) and _tried(func, leaves, spec, lambda size: size) is None:
        return
    fresh = type(error)(*error.args)
    fresh.eager = True  # type: ignore[attr-defined]
    raise fresh


def _plain_key(func: Any, args: Sequence[Any]) -> tuple[Any, ...] | None:
    """What the answer depends on, where no argument is a list."""
    kinds = [func]
    for arg in args:
        if isinstance(arg, (list, tuple, dict)):
            return None
        kinds.append(_kind(arg))
    return tuple(kinds)


_taken: set[tuple[Any, ...] | None] = set()  # plain keys of calls that no kernel refuses
_unasked: set[Any] = set()


def _askable(func: Any) -> bool:
    """Whether an operator is one of the framework's own that does something to its tensors' data."""
    schema = getattr(func, "_schema", None)
    if (
        schema is not None
        and func.namespace in NAMESPACES
        and schema.name not in SKIPPED
        and not any(r.alias_info is not None and not r.alias_info.is_write for r in schema.returns)
    ):
        return True
    _unasked.add(func)
    return False


def _kind(leaf: Any) -> Any:
    """What the answer depends on."""
    if isinstance(leaf, torch.Tensor):
        return leaf.dtype, leaf.dim(), leaf.device.type, leaf.layout
    if isinstance(leaf, (torch.SymInt, torch.SymFloat)):
        return int if isinstance(leaf, torch.SymInt) else float
    return leaf if isinstance(leaf, (torch.dtype, str, bool, type(None))) else type(leaf)


def _repeated(tensor: torch.Tensor) -> tuple[bool, ...]:
    """For each dimension whether all of it is the same memory, as after `expand`."""
    return tuple(type(stride) is int and stride == 0 for stride in tensor.stride())


def _asked(func: Any, leaves: list[Any], spec: Any, answer: Any) -> Exception | None:
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    if any(t.device.type != "cpu" or t.layout is not torch.strided or t.is_quantized for t in tensors):
        return None
    made = [leaf for leaf in tree_flatten(answer)[0] if isinstance(leaf, torch.Tensor)]
    total = sum(_elements(tensor) for tensor in [*tensors, *made])
    for sizes in _sizes(total, exact=func._schema.name in TRUSTING):
        error = _tried(func, leaves, spec, sizes)
        if error is None:
            return None
        if ABOUT_TYPES.search(str(error)) or OVERLAP in str(error):
            return error
    return None


def _sizes(total: int, exact: bool) -> Iterator[Callable[[int], int]]:
    """Ways to choose small sizes: equal ones stay equal; products do not stay products, so that some want them `exact`."""
    if total > SMALL and not exact:
        smaller: dict[int, int] = {}
        yield lambda size: smaller.setdefault(size, FEW + 1 + len(smaller)) if size > FEW else size or 2
    if total <= LARGE:
        yield lambda size: size or 2


def _tried(func: Any, leaves: list[Any], spec: Any, sizes: Callable[[int], int]) -> Exception | None:
    """What the operator raises on zeros of these sizes."""
    writes = func._schema.is_mutable

    def small(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            shape = [sizes(hint(size)) for size in leaf.shape]
            if writes and any(again := _repeated(leaf)):
                base = [1 if one else size for one, size in zip(again, shape, strict=True)]
                shape = [max(size, 2) if one else size for one, size in zip(again, shape, strict=True)]
                return torch.zeros(base, dtype=leaf.dtype).expand(shape)
            return torch.zeros(shape, dtype=leaf.dtype)
        if isinstance(leaf, (torch.SymInt, torch.SymFloat)):
            leaf = hint(leaf)
        return sizes(leaf) if type(leaf) is int and leaf > FEW else leaf

    with torch._C.DisableTorchFunction(), torch._C._DisableAutocast(), torch.no_grad():
        args, kwargs = tree_unflatten([small(leaf) for leaf in leaves], spec)
        try:
            func(*args, **kwargs)
        except Exception as error:
            return error
    return None


def hint(size: Any) -> Any:
    """The number that a size has in this run, without a decision on record."""
    return size.node.hint if isinstance(size, (torch.SymInt, torch.SymFloat)) else size


def _elements(tensor: torch.Tensor) -> int:
    count = 1
    for size in tensor.shape:
        count *= hint(size)
    return count
