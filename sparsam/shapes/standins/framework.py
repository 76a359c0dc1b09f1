"""Choices that the framework makes by size and that change no size: which kernel convolves; and where a tensor lies.

And calls that want a list, and get what stands for one.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import _meta_registrations
from torch._subclasses import fake_impls
from torch._subclasses.fake_tensor import FakeTensor

from sparsam.shapes.devices import place, shown
from sparsam.shapes.mode import META
from sparsam.shapes.modules import called
from sparsam.shapes.run import current
from sparsam.shapes.series import Series, symbolic


def _chosen(real: Callable[..., Any]) -> Callable[..., Any]:
    """The kernel of a convolution: chosen as for two pictures, for the choice by their number decides nothing else."""

    def select(input: torch.Tensor, weight: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if current() is not None and input.dim() > 2 and symbolic(input.shape[0]):
            input = input.new_empty((2, *input.shape[1:]))
        return real(input, weight, *args, **kwargs)

    return select


def _device(self: FakeTensor) -> torch.device:
    """`x.device`: for the program where it put the tensor, for the framework at work where it is."""
    mode = self.fake_mode
    if mode.in_kernel_invocation:
        return META
    if getattr(mode, "inside", 0):
        return self.fake_device
    run = current()
    if run is not None and run.elsewhere and place(self) is None:
        run.placed = False
    return shown(self)


def _joins(real: Callable[..., Any]) -> Callable[..., Any]:
    """`cat` and `stack` of a series: of the list of its items, whose number may be a symbol."""

    def join(*args: Any, **kwargs: Any) -> Any:
        from sparsam.shapes.hooks import list_

        if args and isinstance(args[0], Series):
            args = (list_(args[0]), *args[1:])
        elif isinstance(kwargs.get("tensors"), Series):
            kwargs = {**kwargs, "tensors": list_(kwargs["tensors"])}
        return real(*args, **kwargs)

    return join


def _keeps_names(real: Callable[..., Any]) -> Callable[..., Any]:
    """The shape of what is broadcast: where all sizes are 1 and one of them has a name, the result has it, too.

    As where it is more than one, so that the states of both can be compared.
    """

    def broadcast(*shapes: Any) -> Any:
        made = real(*shapes)
        if made is None or current() is None or all(type(size) is not int or size != 1 for size in made):
            return made
        given = [shape for shape in shapes if isinstance(shape, (tuple, list))]
        for axis in range(-len(made), 0):
            if type(made[axis]) is int and made[axis] == 1:
                sizes = (shape[axis] for shape in given if len(shape) >= -axis)
                named = next((size for size in sizes if symbolic(size)), None)
                if named is not None:
                    made = type(made)([*made[:axis], named, *made[len(made) + axis + 1 :]])
        return made

    return broadcast


def patches() -> Iterator[tuple[Any, str, Any]]:
    """(owner, attribute, stand-in) for all of this module."""
    yield torch.nn.Module, "__call__", called
    yield FakeTensor, "device", property(_device)
    yield FakeTensor, "tolist", lambda self: torch.Tensor.tolist(self)
    yield torch._C, "_select_conv_backend", _chosen(torch._C._select_conv_backend)
    for owner, name in (
        (torch._refs, "_broadcast_shapes"),
        (_meta_registrations, "_broadcast_shapes"),
        (fake_impls, "infer_size"),
    ):
        yield owner, name, _keeps_names(getattr(owner, name))
    for name in ("cat", "concat", "concatenate", "stack"):
        yield torch, name, _joins(getattr(torch, name))
