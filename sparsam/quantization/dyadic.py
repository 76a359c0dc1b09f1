"""Scales without floating point: a factor is m / 2^e with whole m and e, and what it multiplies is rounded exactly, half up.

    q' = clamp(floor((q m + 2^(e-1)) / 2^e), -(2^(b-1) - 1), 2^(b-1) - 1)

The whole product is held (64 bits), so nothing is rounded twice. Widths are symmetric: a type's lowest integer is not used.
HAWQ-V3 (Yao et al. 2021, arXiv:2011.10680) and I-BERT (Kim et al. 2021, arXiv:2101.01321) requantize so; I-BERT's code
multiplies in float64 and rounds halves to even.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int32, Integer
from torch import Tensor

from sparsam.errors import Refused, Usage

MANTISSA = 22
"""Bits of m. A 32-bit sum times m then fits the 53 bits of a double, so that training in floating point gives the same
integers; against 31 bits an output of 16 bits moves by 2^-7 of a step at most. Ours."""

DEEPEST = 62
"""The largest e: 2^62 and half of it fit 64 bits together."""


@dataclass(frozen=True, eq=False)
class Dyadic:
    """m / 2^e: one factor () or one a channel (c,), with a common e."""

    m: Int32[Tensor, "*channels"]
    e: int

    def __post_init__(self) -> None:
        if not 1 <= self.e <= DEEPEST:
            raise Refused(
                f"a factor m / 2^e has e from 1 to {DEEPEST}; got {self.e}. The scales on both sides lie too far apart: "
                "calibrate on rows like those of use.",
                code="dyadic-range",
            )

    def value(self) -> Float64[Tensor, "*channels"]:
        """What the factors stand for."""
        return self.m.double() / 2.0**self.e


def dyadic(factor: float | Float64[Tensor, "*channels"], bits: int = MANTISSA) -> Dyadic:
    """The nearest factors of so many bits, the largest one exact to half a step of them.

    Args:
        factor: 0 or more and finite; one number, or one a channel.
        bits: of m, 2 to 30.
    """
    if bits not in range(2, 31):
        raise Usage(f"a mantissa has 2 to 30 bits; got {bits!r}.", code="dyadic-bits")
    exact = torch.as_tensor(factor, dtype=torch.float64)
    largest = float(exact.max()) if exact.numel() else 0.0
    if not bool((torch.isfinite(exact) & (exact >= 0)).all()):
        raise Refused(
            f"a factor between two scales is finite and not below 0; got {largest}. Look for NaN in weights or ranges.",
            code="dyadic-range",
        )
    e = 1 if largest == 0 else max(1, min(bits - math.frexp(largest)[1], DEEPEST))
    m = torch.floor(exact * 2.0**e + 0.5)
    if float(m.max() if m.numel() else 0.0) > 2.0**bits:
        raise Refused(
            f"a factor of {largest:g} does not fit {bits} bits and e >= 1. The scales on both sides lie too far apart.",
            code="dyadic-range",
        )
    return Dyadic(m.to(torch.int32), e)


def rescale(q: Integer[Tensor, "*shape"], factor: Dyadic) -> Integer[Tensor, "*shape"]:
    """q times a factor, rounded half up, in 64 bits. ``q`` fits 32 bits; channels are its last axis."""
    half = 1 << (factor.e - 1)
    return (q.long() * factor.m.long() + half) >> factor.e


def limit(bits: int) -> int:
    """The largest integer of a symmetric width."""
    return (1 << (bits - 1)) - 1


def narrow(q: Integer[Tensor, "*shape"], bits: int) -> Integer[Tensor, "*shape"]:
    """Cut off at a symmetric width, in the smallest type that holds it."""
    end = limit(bits)
    dtype = torch.int8 if bits <= 8 else torch.int16 if bits <= 16 else torch.int32
    return q.clamp(-end, end).to(dtype)


def requantize(q: Integer[Tensor, "*shape"], factor: Dyadic, bits: int) -> Integer[Tensor, "*shape"]:
    """From one scale to another of so many bits."""
    return narrow(rescale(q, factor), bits)


def added(
    a: Integer[Tensor, "*shape"], by: Dyadic, b: Integer[Tensor, "*shape"], by_b: Dyadic, bits: int
) -> Integer[Tensor, "*shape"]:
    """A sum of two branches of different scales at a third one, which both factors lead to."""
    return narrow(rescale(a, by) + rescale(b, by_b), bits)
