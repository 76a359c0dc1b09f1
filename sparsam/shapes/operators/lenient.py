"""What eager torch takes and its rules for tensors without data refuse."""

from typing import Any

import torch

from sparsam.shapes.run import Run


def nll_loss(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Targets may be bytes; the target of one row of scores may be a list of one."""
    if len(args) > 1 and args[0].dim() == args[1].dim() == 1:
        scores, target = args[:2]
        torch._check(
            target.shape[0] == 1,
            lambda: f"For 1D input, 1D target must have size 1, but got target size: {target.shape[0]}",
        )
        return func(scores, target.select(0, 0), *args[2:], **kwargs)
    if len(args) < 2 or args[1].dtype is not torch.uint8:
        return NotImplemented
    return func(args[0], args[1].long(), *args[2:], **kwargs)


def nearest(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A batch of no pictures stays one: torch's rule compares a number where it should compare a yes or no."""
    picture, size = args[0], args[1]
    if picture.dim() < 3 or len(size) != picture.dim() - 2 or picture.shape[0] != 0:
        return NotImplemented
    return picture.new_empty([*picture.shape[:2], *size])


def where(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A condition may be bytes, as it was before there were truth values."""
    if args[0].dtype is not torch.uint8:
        return NotImplemented
    return func(args[0].bool(), *args[1:], **kwargs)


def embedding_bag(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Rows and offsets of two types are both turned into the wider of the two, whatever it is."""
    weight, rows, offsets, *others = args
    if rows.dtype == offsets.dtype:
        return NotImplemented
    both = torch.promote_types(rows.dtype, offsets.dtype)
    return func(weight, rows.to(both), offsets.to(both), *others, **kwargs)


RULES = {
    torch.ops.aten.where.self: where,
    torch.ops.aten._embedding_bag.default: embedding_bag,
    torch.ops.aten._embedding_bag_forward_only.default: embedding_bag,
    torch.ops.aten.nll_loss_forward.default: nll_loss,
    torch.ops.aten.nll_loss2d_forward.default: nll_loss,
    torch.ops.aten.upsample_nearest1d.default: nearest,
    torch.ops.aten.upsample_nearest2d.default: nearest,
    torch.ops.aten.upsample_nearest3d.default: nearest,
    torch.ops.aten._upsample_nearest_exact1d.default: nearest,
    torch.ops.aten._upsample_nearest_exact2d.default: nearest,
    torch.ops.aten._upsample_nearest_exact3d.default: nearest,
}
