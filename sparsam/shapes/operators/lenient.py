"""What eager torch takes and its rules for tensors without data refuse."""

from typing import Any

import torch

from sparsam.shapes.run import Run


def nll_loss(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Targets may be bytes."""
    if len(args) < 2 or args[1].dtype is not torch.uint8:
        return NotImplemented
    return func(args[0], args[1].long(), *args[2:], **kwargs)


def nearest(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A batch of no pictures stays one: torch's rule compares a number where it should compare a yes or no."""
    picture, size = args[0], args[1]
    if picture.dim() < 3 or len(size) != picture.dim() - 2 or picture.shape[0] != 0:
        return NotImplemented
    return picture.new_empty([*picture.shape[:2], *size])


RULES = {
    torch.ops.aten.nll_loss_forward.default: nll_loss,
    torch.ops.aten.nll_loss2d_forward.default: nll_loss,
    torch.ops.aten.upsample_nearest1d.default: nearest,
    torch.ops.aten.upsample_nearest2d.default: nearest,
    torch.ops.aten.upsample_nearest3d.default: nearest,
    torch.ops.aten._upsample_nearest_exact1d.default: nearest,
    torch.ops.aten._upsample_nearest_exact2d.default: nearest,
    torch.ops.aten._upsample_nearest_exact3d.default: nearest,
}
