"""Comparisons whose answer is up to the data, and what the framework asks of data for its own sake."""

from typing import Any

import torch

from sparsam.shapes.run import Run


def equal(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`torch.equal`: no for unlike sizes, else up to the data."""
    one, other = args[0], args[1] if len(args) > 1 else kwargs["other"]
    if one.dim() != other.dim() or any(a != b for a, b in zip(one.shape, other.shape, strict=True)):
        return False
    if one.numel() == 0:
        return True
    return run.shapes.truth("whether two tensors are equal")


def allclose(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`torch.allclose`: both must have one shape by broadcasting."""
    one, other = args[0], args[1] if len(args) > 1 else kwargs["other"]
    if one.dtype != other.dtype:
        raise RuntimeError(f"{one.dtype} did not match {other.dtype}")
    if (one == other).numel() == 0:
        return True
    return run.shapes.truth("whether two tensors are close")


def _settled(rule: Any) -> Any:
    """For the framework's own use, which knows no symbols for a yes or no."""

    def settled(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        return bool(rule(run, func, args, kwargs))

    return settled


def ctc_loss(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The losses of a batch and the sums that the backward pass needs: (batch,) and (batch, time, labels).

    The sums are as wide as the longest target, which is up to the data.
    """
    probabilities, targets, input_lengths, target_lengths, *_ = args
    time, batch = probabilities.shape[0], probabilities.shape[1]
    torch._check(probabilities.dim() == 3, lambda: "log_probs must be of three dimensions")
    for lengths in (input_lengths, target_lengths):
        count = lengths.shape[0] if isinstance(lengths, torch.Tensor) else len(lengths)
        torch._check(count == batch, lambda: "lengths must be of size batch_size")
    if targets.dim() == 2:
        torch._check(targets.shape[0] == batch, lambda: "Expected tensor to have size batch at dimension 0")
    widest = run.shapes.value("the longest target", 1)
    return probabilities.new_empty(batch), probabilities.new_empty(batch, time, 2 * widest + 1)


def all_or_any(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`_is_all_true` and `_is_any_true`, with which `torch.distributions` looks at what it is given."""
    torch._check(args[0].dtype is torch.bool, lambda: f"expected bool, got {args[0].dtype}")
    if getattr(args[0], "constant", None) is not None:
        return NotImplemented  # the framework knows the numbers
    return args[0].new_empty(())


RULES = {
    torch.ops.aten._is_all_true.default: all_or_any,
    torch.ops.aten._is_any_true.default: all_or_any,
    torch.equal: equal,
    torch.Tensor.equal: equal,
    torch.allclose: allclose,
    torch.Tensor.allclose: allclose,
    torch.ops.aten.equal.default: _settled(equal),
    torch.ops.aten.allclose.default: _settled(allclose),
    torch.ops.aten._ctc_loss.default: ctc_loss,
    torch.ops.aten._ctc_loss.Tensor: ctc_loss,
}
