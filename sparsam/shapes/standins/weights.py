"""`torch.nn.init`: first values of weights are arbitrary, so none are drawn; what refuses a tensor's rank still does."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn import init

from sparsam.shapes.run import current

ANY = ("uniform_", "normal_", "trunc_normal_", "constant_", "ones_", "zeros_")
TWO_OR_MORE = ("xavier_uniform_", "xavier_normal_", "kaiming_uniform_", "kaiming_normal_", "orthogonal_")
TWO = ("eye_", "sparse_")
INNER = (
    "_no_grad_uniform_",
    "_no_grad_normal_",
    "_no_grad_trunc_normal_",
    "_no_grad_fill_",
    "_no_grad_zero_",
)


def _kept(real: Callable[..., Any], fits: Callable[[int], bool]) -> Callable[..., Any]:
    """The tensor as it is, where its rank is one that the original takes."""

    def function(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if current() is None or not isinstance(tensor, torch.Tensor) or not fits(tensor.dim()):
            return real(tensor, *args, **kwargs)
        return tensor

    function.__name__ = getattr(real, "__name__", "init")
    return function


def patches() -> Iterator[tuple[Any, str, Any]]:
    """(owner, attribute, stand-in) for all of this module."""
    groups: tuple[tuple[tuple[str, ...], Callable[[int], bool]], ...] = (
        (ANY, lambda rank: True),
        (TWO_OR_MORE, lambda rank: rank >= 2),
        (TWO, lambda rank: rank == 2),
        (INNER, lambda rank: True),
    )
    for names, fits in groups:
        for name in names:
            real = getattr(init, name, None)
            if real is not None:
                yield init, name, _kept(real, fits)
