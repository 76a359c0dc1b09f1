"""Checks of what a token method is set to: the setting and its value are named."""

import math
from collections.abc import Sequence
from typing import Any

from sparsam.errors import Usage


def one_of(name: str, value: str, choices: Sequence[str]) -> None:
    """Refuse a setting that is none of its choices. Raises :class:`~sparsam.errors.Usage`."""
    if value not in choices:
        raise Usage(f"{name} is one of {', '.join(choices)}; got {value!r}.", code="method-settings")


def between(
    name: str, value: float, low: float, high: float, *, open_low: bool = False, open_high: bool = False
) -> None:
    """Refuse a setting out of its range; no range holds infinity. Raises :class:`~sparsam.errors.Usage`."""
    above = value > low if open_low else value >= low
    below = value < high if open_high or high == math.inf else value <= high
    if above and below:  # neither holds for NaN
        return
    if high == math.inf:
        wanted = f"must be above {low:g}" if open_low else f"must be at least {low:g}"
    else:
        wanted = f"lies in {'(' if open_low else '['}{low:g}, {high:g}{')' if open_high else ']'}"
    raise Usage(f"{name} {wanted} and finite; got {value!r}.", code="method-settings")


def check_training(method: Any) -> None:
    """Check the settings of the hard stage, which every token method has. Raises :class:`~sparsam.errors.Usage`."""
    between("hard_epochs", method.hard_epochs, 0.0, math.inf)
    between("hard_lr", method.hard_lr, 0.0, math.inf, open_low=True)
    between("distill", method.distill, 0.0, 1.0)
    between("distill_states", method.distill_states, 0.0, math.inf)
    between("distill_temperature", method.distill_temperature, 0.0, math.inf, open_low=True)
    between("steer_every", method.steer_every, 1, math.inf)
    one_of("last_layer", method.last_layer, ("protected", "learned"))
