"""The backward pass: every gradient has the sizes of its tensor, so the pass itself needs not run."""

from typing import Any

import torch

from sparsam.shapes.graphs import behind, is_own, leaf
from sparsam.shapes.run import HOOKED, Run


def backward(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`loss.backward()`: refused as the framework does, then each leaf has a gradient.

    The program's own functions with a backward pass of their own are run for real.

    Raises:
        RuntimeError: If there is nothing to differentiate, or no gradient is given for more than one value.
    """
    tensor, *others = args
    gradient = others[0] if others else kwargs.get("gradient")
    if gradient is not None or kwargs.get("inputs") is not None or len(others) > 1:
        return NotImplemented
    if not tensor.requires_grad:
        raise RuntimeError("element 0 of tensors does not require grad and does not have a grad_fn")
    if tensor.numel() != 1:
        raise RuntimeError("grad can be implicitly created only for scalar outputs")
    if run.notes.get(HOOKED):
        return NotImplemented
    leaves = _leaves(tensor)
    if leaves is None:
        return NotImplemented
    with torch.no_grad():
        for leaf in leaves:
            if leaf.grad is None:
                leaf.grad = torch.empty_like(leaf)
    return None


def hooked(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A hook on a tensor is the program's own code in the backward pass: from then on the pass runs for real."""
    run.notes[HOOKED] = True
    return NotImplemented


def _leaves(tensor: torch.Tensor) -> list[torch.Tensor] | None:
    """Leaves that a tensor depends on; None if a function of the program's own is on the way."""
    if tensor.grad_fn is None:
        return [tensor]
    nodes = list(behind(tensor))
    if any(map(is_own, nodes)):
        return None
    return [held for node in nodes if (held := leaf(node)) is not None]


RULES = {
    torch.Tensor.backward: backward,
    torch.Tensor.register_hook: hooked,
    torch.Tensor.register_post_accumulate_grad_hook: hooked,
}
