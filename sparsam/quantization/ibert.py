"""I-BERT's functions on integers alone: GELU, exp, softmax, square root and LayerNorm without floating point.

S. Kim, A. Gholami, Z. Yao, M. W. Mahoney, K. Keutzer, *I-BERT: Integer-only BERT Quantization*, ICML 2021, arXiv:2101.01321.

An integer q stands for q S. A quadratic a (x + b)^2 + c is, on x = q S, the integer (q + [b/S])^2 + [c/(a S^2)] at the scale
a S^2, so erf and exp need a product and a shift. What depends on S alone is worked out once, from floats, into whole constants
(:class:`Gelu`, :class:`Exp`, :class:`Norm`); the functions behind them see integer tensors only. Where we differ from the
released code:

- signs are turned so that scales are positive; GELU's constant one is that of the polynomial, so that far left is exactly 0;
- softmax leaves masked keys out of maximum and sum, rounds instead of cutting, and stays within its bits (theirs gives 256
  for 8); its row sums are right (``carry``, or 15 bits);
- LayerNorm has its epsilon, a gamma of any sign or 0, and rows that are constant; gamma and beta are integers at the scale of
  what reads it;
- tables of 256 entries stand in for any activation of 8-bit inputs (:func:`table`).

Letters: n keys, d width.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int8, Int32, Int64, Integer
from torch import Tensor

from sparsam.errors import Refused
from sparsam.quantization.dyadic import narrow

ERF = (-0.2888, -1.769)
"""a and b of erf(z) ~ sgn(z) (a (min(|z|, -b) + b)^2 + 1)."""

ROOT = 1.4142
"""The root of 2 as the released code has it."""

EXP = (0.35815147, 0.96963238, 1.0)
"""exp(p) ~ a p^2 + b p + c for -ln 2 < p <= 0: constants of the released code."""

LN2 = 0.6931
OCTAVES = 30
"""exp is 0 below -OCTAVES ln 2."""

SHARE = 50
"""Fractional bits of a softmax row's 1 / sum."""

SPREAD, UNIT = 48, 22
"""Fractional bits of a norm's 1 / deviation, and of y / deviation, which is at most 1."""

WIDEST = 22
"""Bits of a norm's input: squares of 2,048 of them, less their mean, add up to less than 2^53."""


def table(
    function: Callable[[Float[Tensor, " n"]], Float[Tensor, " n"]], scale: float, out: float
) -> Int8[Tensor, "256"]:
    """An activation of 8-bit numbers, exact to half a step: entry q + 128 is the answer to q. From floats, once."""
    answers = function(torch.arange(-128, 128, dtype=torch.float64) * scale)
    return narrow(torch.floor(answers / out + 0.5).long(), 8)


def looked_up(q: Int8[Tensor, "*shape"], entries: Int8[Tensor, "256"]) -> Int8[Tensor, "*shape"]:
    """The answers of a table."""
    return entries[q.long() + 128]


# ---- GELU ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gelu:
    """GELU at one scale of its input: y = C - (min(|q|, B) - B)^2, cut by ``shift`` bits, and q (sgn(q) y + one)."""

    b: int
    c: int
    shift: int
    scale: float
    """Of the output."""

    @property
    def one(self) -> int:
        """What stands for 1 beside y."""
        return self.c >> self.shift


def gelu_constants(scale: float, shift: int | None = None) -> Gelu:
    """Constants for inputs q ``scale``.

    Args:
        scale: of the input.
        shift: bits that y loses; as many as leave it 15 if None, so that q of 16 bits times 1 + erf fits 32. The released code
            always takes 14, which is right for scales up to 2.4e-4 and useless above 1e-2.
    """
    a, b = ERF
    inner = scale / ROOT
    c = math.ceil(-1 / (a * inner * inner))
    shift = max(0, c.bit_length() - 15) if shift is None else shift
    return Gelu(math.ceil(-b / inner), c, shift, -a * inner * inner * 2.0**shift * scale / 2)


def i_gelu(q: Integer[Tensor, "*shape"], constants: Gelu) -> Int64[Tensor, "*shape"]:
    """GELU at :attr:`Gelu.scale`."""
    q = q.long()
    apart = q.abs().clamp(max=constants.b) - constants.b
    y = (constants.c - apart * apart) >> constants.shift
    return q * (torch.sign(q) * y + constants.one)


# ---- exp and softmax ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Exp:
    """exp at one scale of its input: ((r + b) r + c) >> z, with z octaves of ``ln2`` below 0 and r what is left of q."""

    ln2: int
    b: int
    c: int
    scale: float
    """Of the output, without kept bits."""

    @property
    def lowest(self) -> int:
        """Inputs below count as this."""
        return -OCTAVES * self.ln2


def exp_constants(scale: float) -> Exp:
    """Constants for inputs q ``scale``: exp is off by 1.9e-3 at most up to 1/256, by 3.8e-3 up to 1/10.

    ln 2 is rounded to the nearest step; the released code rounds down, and loses 5.4e-2 at 1/10.
    """
    a, b, c = EXP
    if not 0 < scale < LN2 / 4:
        raise Refused(
            f"exp in integers takes inputs at a scale below {LN2 / 4:.2f}, so that ln 2 has some steps; got {scale:g}.",
            code="integer-scale",
        )
    return Exp(
        math.floor(LN2 / scale + 0.5),
        math.floor(b / a / scale),
        math.floor(c / a / scale**2),
        a * scale * scale,
    )


def i_exp(q: Integer[Tensor, "*shape"], constants: Exp, keep: int = 0) -> Int64[Tensor, "*shape"]:
    """exp of numbers not above 0, at ``constants.scale / 2^keep``: so many bits below the point outlast the octaves."""
    q = q.long().clamp(min=constants.lowest)
    z = torch.div(-q, constants.ln2, rounding_mode="floor")
    r = q + z * constants.ln2
    return (((r + constants.b) * r + constants.c) << keep) >> z


def i_softmax(
    q: Integer[Tensor, "*rows n"],
    constants: Exp,
    *,
    bits: int = 15,
    keep: Bool[Tensor, "*rows n"] | None = None,
    carry: bool = False,
    cut: bool = False,
) -> Int32[Tensor, "*rows n"]:
    """Softmax over the last axis at the scale 2^-bits, from 0 to 2^bits - 1.

    A row of masked keys alone, or of none, is all zeros.

    Args:
        q: logits at the constants' scale.
        constants: of exp.
        bits: 15, or the paper's 8. Rounding alone keeps a row's sum within n / 2^(bits+1) of 1: at 15 bits 0.8 % for 512 keys,
            at 8 bits nothing to rely on.
        keep: which keys count.
        carry: what rounding took from one key is handed on to the next, so that a row sums to 1 (less the last step where one
            key has all); each key is off by less than a step.
        cut: towards 0 instead of to the nearest, as the paper does, to compare with.
    """
    q = q.long()
    living = torch.ones_like(q, dtype=torch.bool) if keep is None else keep
    if not q.shape[-1]:
        return q.int()
    far = q.masked_fill(~living, torch.iinfo(torch.int64).min // 2)
    top = far.amax(-1, keepdim=True)
    e = i_exp((far - top).clamp(min=constants.lowest), constants).masked_fill(~living, 0)
    share = torch.div(1 << SHARE, e.sum(-1, keepdim=True).clamp(min=1), rounding_mode="floor")
    exact, down = e * share, SHARE - bits
    half = 0 if cut else 1 << (down - 1)
    if carry:
        until = (exact.cumsum(-1) + half) >> down
        p = until - torch.nn.functional.pad(until, (1, 0))[..., :-1]
    else:
        p = (exact + half) >> down
    return p.clamp(max=(1 << bits) - 1).int()


# ---- Square root and LayerNorm --------------------------------------------------------------------------------------------


def i_sqrt(n: Integer[Tensor, "*shape"]) -> Int64[Tensor, "*shape"]:
    """The largest whole number whose square is not above n (0 <= n < 2^62): Newton's steps down from 2^ceil(bits / 2)."""
    n = n.long()
    bits, rest = torch.zeros_like(n), n.clone()
    for width in (32, 16, 8, 4, 2, 1):
        wide = rest >= (1 << width)
        bits = bits + wide * width
        rest = torch.where(wide, rest >> width, rest)
    bits = bits + (rest > 0)
    x = torch.ones_like(n) << ((bits + 1) >> 1)
    while True:
        y = (x + torch.div(n, x.clamp(min=1), rounding_mode="floor")) >> 1
        falls = y < x
        if not bool(falls.any()):
            return x.masked_fill(n == 0, 0)
        x = torch.where(falls, y, x)


@dataclass(frozen=True, eq=False)
class Norm:
    """A LayerNorm between two scales: out = (t g + b + half) >> e, where t is y / deviation with :data:`UNIT` bits."""

    g: Int32[Tensor, " d"]
    b: Int64[Tensor, " d"]
    e: int
    eps: int
    """epsilon d / S^2: what it adds to a sum of squares."""
    bits: int
    """Of the output."""


def norm_constants(
    gamma: Float[Tensor, " d"], beta: Float[Tensor, " d"], eps: float, scale: float, out: float, bits: int
) -> Norm:
    """Constants of a norm with inputs q ``scale`` and outputs q ``out`` of so many bits.

    gamma sqrt(d) / out becomes an integer of 22 bits at most, with a common exponent; beta / out is cut to twice the output's
    width, beyond which every output is at its end.

    Raises:
        Refused: ``integer-norm`` for what is not finite.
    """
    d = gamma.shape[0]
    by, on = gamma.double() * math.sqrt(d) / out, beta.double() / out
    if not bool(torch.isfinite(by).all() and torch.isfinite(on).all()):
        raise Refused(
            "a norm's weights or their scale are not finite. Look for NaN in the weights.",
            code="integer-norm",
        )
    largest = float(by.abs().max()) if d else 0.0
    down = 22 - math.frexp(largest)[1] if largest else 0
    down = min(down, 51 - bits - UNIT)  # so that beta's integer has 52 bits at most
    if down + UNIT < 1:
        raise Refused(
            f"a norm's weights are {largest:g} of its output's steps; integers of 22 bits do not hold them.",
            code="integer-norm",
        )
    e = UNIT + down
    end = 2.0 ** (bits + e)
    g = torch.floor(by * 2.0**down + 0.5).to(torch.int32)
    b = torch.floor(on * 2.0**e + 0.5).clamp(-end, end).to(torch.int64)
    return Norm(g, b, e, math.floor(eps * d / scale**2 + 0.5), bits)


def i_layernorm(q: Integer[Tensor, "*rows d"], norm: Norm) -> Integer[Tensor, "*rows d"]:
    """LayerNorm of rows whose numbers have :data:`WIDEST` bits at most. A constant row gives beta."""
    q, d = q.long(), q.shape[-1]
    mean = torch.div(2 * q.sum(-1, keepdim=True) + d, 2 * d, rounding_mode="floor")
    y = q - mean
    deviation = i_sqrt((y * y).sum(-1, keepdim=True) + norm.eps).clamp(min=1)
    share = torch.div(1 << SPREAD, deviation, rounding_mode="floor")
    down = SPREAD - UNIT
    t = (y * share + (1 << (down - 1))) >> down
    out = (t * norm.g.long() + norm.b + (1 << (norm.e - 1))) >> norm.e
    return narrow(out, norm.bits)
