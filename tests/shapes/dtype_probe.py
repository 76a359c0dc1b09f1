"""Calls with one thing wrong: torch's own samples of its operators with one tensor's type or one size changed.

Which of them does eager torch refuse, and which of those does torch take on tensors without data?
"""

import copy
import dataclasses
import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten

DTYPES = (
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool,
    torch.complex64,
)  # fmt: skip
LARGEST = 4096  # elements of a tensor of a sample


class Last(TorchDispatchMode):
    """Remembers the operator that was called last."""

    def __init__(self) -> None:
        super().__init__()
        self.func = ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.func = str(func)
        return func(*args, **(kwargs or {}))


@dataclasses.dataclass
class Trial:
    """One call with one thing changed.

    Args:
        name: Of the operator.
        change: What was changed, such as "1: int32" for the type of the second tensor, "0: 2nd dimension 0".
        call: The operator.
        arguments: All of it: (input, args, kwargs).
    """

    name: str
    change: str
    call: Callable[..., Any]
    arguments: Any

    def eager(self) -> tuple[Exception | None, str]:
        """What torch raises on real tensors, and the operator that did."""
        last = Last()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                with last:
                    value, args, kwargs = copy.deepcopy(self.arguments)
                    self.call(value, *args, **kwargs)
            except Exception as error:
                return error, last.func
        return None, last.func

    def fake(
        self, mode: Callable[[], Any] = lambda: FakeTensorMode(allow_non_fake_inputs=True)
    ) -> Exception | None:
        """What torch raises on tensors without data."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                with mode() as made:
                    leaves, spec = tree_flatten(self.arguments)
                    leaves = [
                        made.from_tensor(leaf) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves
                    ]
                    value, args, kwargs = tree_unflatten(leaves, spec)
                    self.call(value, *args, **kwargs)
            except Exception as error:
                return error
        return None


def changes(name: str, call: Callable[..., Any], arguments: Any) -> Iterator[Trial]:
    """The call as it is, and with one thing changed at a time."""
    leaves, spec = tree_flatten(arguments)
    yield Trial(name, "as it is", call, arguments)
    places = [i for i, leaf in enumerate(leaves) if is_plain(leaf)]

    def trial(change: str, **new: Any) -> Trial:
        made = [new.get(f"_{i}", leaf) for i, leaf in enumerate(leaves)]
        return Trial(name, change, call, tree_unflatten(made, spec))

    for number, i in enumerate(places[:4]):
        for dtype in DTYPES:
            if leaves[i].dtype is not dtype:
                yield trial(
                    f"{number}: {str(dtype).removeprefix('torch.')}", **{f"_{i}": _as(leaves[i], dtype)}
                )
        for dim in range(min(leaves[i].dim(), 4)):
            shape = list(leaves[i].shape)
            for size in {0, 1, shape[dim] + 1} - {shape[dim]}:
                new = [*shape[:dim], size, *shape[dim + 1 :]]
                yield trial(
                    f"{number}: dimension {dim} is {size}",
                    **{f"_{i}": torch.zeros(new, dtype=leaves[i].dtype)},
                )
        yield trial(f"{number}: one dimension more", **{f"_{i}": leaves[i][None]})
        if leaves[i].dim():
            yield trial(f"{number}: one dimension less", **{f"_{i}": leaves[i].sum(0).to(leaves[i].dtype)})
    if len(places) > 1:
        for dtype in DTYPES:
            new = {f"_{i}": _as(leaves[i], dtype) for i in places}
            yield trial(f"all: {str(dtype).removeprefix('torch.')}", **new)
    elif places and leaves[places[0]].dim():
        empty = leaves[places[0]].new_empty([0] * leaves[places[0]].dim())
        yield trial("all dimensions 0", **{f"_{places[0]}": empty})


def is_plain(leaf: Any) -> bool:
    """Whether a leaf is a tensor that is changed: dense, not quantised, not nested."""
    return (
        type(leaf) in (torch.Tensor, torch.nn.Parameter)
        and leaf.layout is torch.strided
        and not leaf.is_quantized
        and not leaf.is_nested
    )


def _as(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return tensor.detach().to(dtype) if dtype.is_complex or not tensor.is_complex() else tensor.real.to(dtype)


def trials(most: int, seed: int = 0) -> Iterator[Trial]:
    """All changes of at most so many samples of every operator."""
    from torch.testing._internal.common_methods_invocations import op_db

    for op in op_db:
        yield from trials_of(op, most, seed)


def trials_of(op: Any, most: int, seed: int = 0) -> Iterator[Trial]:
    """All changes of at most so many samples of one operator."""
    dtypes = op.supported_dtypes("cpu")
    if not dtypes:
        return
    dtype = next((d for d in (torch.float32, torch.int64) if d in dtypes), min(dtypes, key=str))
    torch.manual_seed(seed)
    name = f"{op.name}.{op.variant_test_name}" if op.variant_test_name else str(op.name)
    samples = (
        s
        for s in op.sample_inputs("cpu", dtype, requires_grad=False)
        if all(
            t.numel() <= LARGEST
            for t in tree_flatten((s.input, s.args, s.kwargs))[0]
            if isinstance(t, torch.Tensor)
        )
    )
    for sample in itertools.islice(samples, most):
        yield from changes(name, op.get_op(), (sample.input, tuple(sample.args), dict(sample.kwargs)))
