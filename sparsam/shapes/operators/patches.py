"""Sliding blocks of pictures, which the framework makes for a plain number of pictures only."""

from typing import Any

import torch
import torch.nn.functional as F

from sparsam.shapes.environment import symbolic
from sparsam.shapes.run import Run


def per_picture(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`F.unfold`, `F.fold`, `F.pixel_unshuffle` …: as for two pictures, and then for as many as there are."""
    picture = args[0] if args else kwargs.get("input")
    least = 4 if func is F.unfold else 3
    if not isinstance(picture, torch.Tensor) or picture.dim() < least or not symbolic(picture.shape[0]):
        return NotImplemented
    few = picture.new_empty((2, *picture.shape[1:]))
    if args:
        args = (few, *args[1:])
    else:
        kwargs = {**kwargs, "input": few}
    with torch._C.DisableTorchFunction():
        made = func(*args, **kwargs)
    made = made.new_empty((picture.shape[0], *made.shape[1:]))
    return made.requires_grad_() * 1 if picture.requires_grad else made


RULES = {F.unfold: per_picture, F.fold: per_picture}
