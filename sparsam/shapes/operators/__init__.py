"""Hand-written rules, where the framework turns symbolic sizes into numbers or has no symbolic rule.

A rule is called with (run, function, args, kwargs) before the framework, and returns `NotImplemented` to leave the call
to it. It is made of calls of the framework that compare the same sizes, so that the framework still does the refusing.
"""

from collections.abc import Callable
from typing import Any

from sparsam.shapes.operators import (
    autograd,
    border,
    copies,
    counting,
    data,
    fourier,
    indexing,
    joining,
    kinds,
    lenient,
    masks,
    normalising,
    padding,
    patches,
    pooling,
    products,
    recurrent,
    resizing,
    sequences,
    signals,
    views,
)

MODULES = (
    autograd,
    border,
    copies,
    counting,
    data,
    fourier,
    indexing,
    joining,
    kinds,
    lenient,
    masks,
    normalising,
    padding,
    patches,
    pooling,
    products,
    recurrent,
    resizing,
    sequences,
    signals,
    views,
)


def rules() -> dict[Any, Callable[..., Any]]:
    """A rule by function of the framework."""
    found: dict[Any, Callable[..., Any]] = {}
    for module in MODULES:
        found.update(module.RULES)
    return found
