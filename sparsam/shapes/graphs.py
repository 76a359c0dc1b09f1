"""What the backward pass of a tensor would come by: the leaves that get a gradient, and functions of the program's own.

`operators/autograd` gives the leaves their gradients; `state` tells apart states by what a pass would do, in programs that
name gradients (decision 16).
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from sparsam.shapes.whole import Whole


def behind(tensor: torch.Tensor, known: Mapping[Any, Any] | None = None) -> Iterator[Any]:
    """Nodes of the graph behind a tensor; nothing beyond those that are known."""
    if tensor.grad_fn is None:
        return
    seen: set[Any] = {tensor.grad_fn}
    todo: list[Any] = [tensor.grad_fn]
    while todo:
        node = todo.pop()
        yield node
        if known is not None and node in known:
            continue
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                todo.append(following)


def leaf(node: Any) -> torch.Tensor | None:
    """The tensor whose gradient a node adds to, if it is one of these."""
    return getattr(node, "variable", None)


def is_own(node: Any) -> bool:
    """Whether the pass runs code of the program's there."""
    function = isinstance(node, torch.autograd.function.BackwardCFunction)
    return (function and getattr(node, "_forward_cls", None) is not Whole) or bool(node.metadata)


class Graphs:
    """The graphs behind the tensors of one state.

    Args:
        names: Of leaves, by identity: the same in states that are alike.
        described: A value as text.
    """

    def __init__(self, names: Mapping[int, int], described: Callable[[Any], str]) -> None:
        self._names, self._described = names, described
        self._known: dict[Any, frozenset[str]] = {}

    def text(self, tensor: torch.Tensor) -> str:
        """Which leaves a pass from this tensor gives a gradient, and which functions of the program's it runs."""
        found: set[str] = set()
        for node in behind(tensor, self._known):
            found |= self._known.get(node, frozenset())
            held = leaf(node)
            if held is not None:
                found.add(str(self._names.get(id(held), "other")))
            if is_own(node):
                behind_it = [type(one).__name__ for one, _ in node.next_functions]
                found.add(
                    f"{type(node).__name__} {self._described(vars(node))}{self._saved(node)} of {behind_it}"
                )
        if tensor.grad_fn is not None:
            self._known[tensor.grad_fn] = frozenset(found)
        return " ".join(sorted(found))

    def _saved(self, node: Any) -> str:
        """What a function of the program's has kept for its pass."""
        try:
            return self._described(list(getattr(node, "saved_tensors", ())))
        except RuntimeError:  # a pass has freed it
            return "freed"
