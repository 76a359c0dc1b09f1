"""The schemes of ``sparsam quantize``: one table, a row each, of what makes few bits of a weight.

A scheme turns a weight (o, i) into numbers that few bits can say (:class:`Made`). Where these are integers times one scale an
output, an int8 runtime multiplies them as they are; otherwise they are held in floating point, and the scheme is simulated:
accuracy is real, size is counted, nothing is faster.

A new scheme is a function and a row of :data:`SCHEMES`; the command, its list, its report and the tests of all schemes read the
table. The law, which one test checks for every row: what a scheme gives has the weight's shape, takes ``packed_bytes`` of about
``bits`` (and ``extra_bits``) bits a weight, and is within integers exactly where :meth:`Scheme.in_integers` says so.
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Float32, Float64, Int8, Integer
from torch import Tensor

from sparsam.errors import Usage
from sparsam.quantization.adaround import adaround
from sparsam.quantization.affine import Form, Grid, dequantize, quantize, weight_form
from sparsam.quantization.calibrate import MSE, MinMax
from sparsam.quantization.codebook import (
    ADDITIVE,
    CLIPS,
    Codes,
    additive_powers,
    as_integers,
    normal_float,
    powers_of_two,
    to_levels,
    to_own_levels,
)
from sparsam.quantization.gptq import gptq
from sparsam.quantization.pwlq import Pwlq, bytes_in_pieces, quantize_pwlq
from sparsam.quantization.uniform import fit

SCALE_BYTES = 4
"""Scales and levels are counted in float32, as they lie in files."""

Integers = tuple[Int8[Tensor, "o i"], Float32[Tensor, " o"], int]
"""Integers, their scales by output, and the bits that hold them."""


@dataclass(frozen=True, eq=False)
class Made:
    """What a scheme makes of a weight."""

    values: Float32[Tensor, "o i"]
    """The numbers, as they are multiplied."""
    packed_bytes: int
    """What they take with nothing to spare: codes of so many bits, scales and levels besides."""
    integers: Integers | None = None
    """The same numbers for an int8 runtime; None where they are none."""
    pieces: int | None = None
    """b of weights in pieces, which lie in files in b + 1 bits; None for others."""
    rival: tuple[float, float] | None = None
    """Summed squared errors of these numbers, and of a clipped uniform grid that takes as many bits; None where the scheme is
    uniform itself, or nobody asks."""


Make = Callable[[Tensor, int, int | None, Tensor | None], Made]
"""Weight (o, i), bits, inputs that share a scale (None for all), Hessian of the inputs (None where no data is read)."""


@dataclass(frozen=True)
class Scheme:
    """A row of the table.

    Args:
        name: as it is typed.
        title: what it is.
        paper: where it comes from.
        good_for: when to take it.
        bits: that it takes.
        make: the function.
        integer_bits: those at which an output's weights are integers of at most 8 bits times one scale.
        calibrated: whether it reads the Hessian of the inputs, so calibration rows.
        group: inputs that share a scale if nothing is said; None for all of an output.
        groups: whether ``group`` may be given.
        extra_bits: of a code beyond those that are named, such as one that says which piece of a grid a number lies in.
        encoder: whether it makes a whole encoder of integers, and not one weight after the other; ``make`` is then not asked.
    """

    name: str
    title: str
    paper: str
    good_for: str
    bits: tuple[int, ...]
    make: Make
    integer_bits: tuple[int, ...] = ()
    calibrated: bool = False
    group: int | None = None
    groups: bool = False
    extra_bits: int = 0
    encoder: bool = False

    def in_integers(self, bits: int, group: int | None) -> bool:
        """Whether an int8 runtime multiplies what comes out."""
        return bits in self.integer_bits and group is None

    @property
    def runs(self) -> str:
        """In words: where it runs in integers and where it is simulated."""
        if self.encoder:
            return "integers alone"
        if not self.integer_bits:
            return "simulated"
        if self.integer_bits == self.bits:
            return "int8" + (", simulated by groups" if self.groups else "")
        return f"int8 at {spans(self.integer_bits)} bits, simulated beyond"

    def to_json(self) -> dict[str, Any]:
        """The row without its function."""
        return {
            "name": self.name, "title": self.title, "paper": self.paper, "good_for": self.good_for,
            "bits": list(self.bits), "integer_bits": list(self.integer_bits), "runs": self.runs,
            "calibrated": self.calibrated, "group": self.group, "groups": self.groups,
        }  # fmt: skip

    def check(self, bits: int, group: int | None) -> int | None:
        """The group to take.

        Raises:
            Usage: ``scheme-bits``, ``scheme-group``.
        """
        if bits not in self.bits:
            raise Usage(f"{self.name} takes {spans(self.bits)} bits; got {bits}.", code="scheme-bits")
        if group is None:
            return self.group
        if not self.groups:
            raise Usage(
                f"{self.name} has one scale an output, not one for {group} inputs. Leave --group out, or take one of "
                f"{', '.join(one.name for one in SCHEMES.values() if one.groups)}.",
                code="scheme-group",
            )
        if group < 2:
            raise Usage(f"a group has at least 2 inputs; got {group}.", code="scheme-group")
        return group


def spans(bits: tuple[int, ...]) -> str:
    """Numbers in words: 2 to 8; 3, 4, 5 or 7."""
    if len(bits) > 2 and list(bits) == list(range(bits[0], bits[-1] + 1)):
        return f"{bits[0]} to {bits[-1]}"
    return " or ".join([", ".join(map(str, bits[:-1])), str(bits[-1])] if len(bits) > 1 else map(str, bits))


def scheme_named(name: str) -> Scheme:
    """A scheme by its name.

    Raises:
        Usage: ``scheme-unknown``, with the nearest name.
    """
    found = SCHEMES.get(name)
    if found is not None:
        return found
    near = difflib.get_close_matches(name.lower(), SCHEMES, n=1, cutoff=0.4)
    meant = f" Did you mean {near[0]}?" if near else ""
    raise Usage(
        f"there is no scheme {name!r}.{meant} There are {', '.join(SCHEMES)}; sparsam quantize --list says what each is.",
        code="scheme-unknown",
    )


# ---- What they do ----------------------------------------------------------------------------------------------------


def ends(bits: int) -> MinMax | MSE:
    """Where an output's weights end: at the largest with eight bits, else where their squared error is least."""
    return MinMax() if bits == 8 else MSE()


def on_grid(q: Integer[Tensor, "o i"], grid: Grid) -> Made:
    """Integers on a grid, symmetric by output or not."""
    form = grid.form
    packed = -(-q.numel() * form.bits // 8) + SCALE_BYTES * grid.scale.numel()
    if not form.symmetric:
        packed += grid.zero.numel()
    whole = form.symmetric and form.axis == 0 and form.group is None
    return Made(dequantize(q, grid), packed, (q.to(torch.int8), grid.scale, form.bits) if whole else None)


def on_levels(codes: Codes) -> Made:
    """Codes of levels, integers or not."""
    return Made(codes.values(), codes.packed_bytes, as_integers(codes))


def _rounded(weight: Float[Tensor, "o i"], bits: int, group: int | None, hessian: Tensor | None) -> Made:
    grid = fit(weight, weight_form(bits, group), ends(bits))
    return on_grid(quantize(weight, grid), grid)


def _affine(weight: Float[Tensor, "o i"], bits: int, group: int | None, hessian: Tensor | None) -> Made:
    grid = fit(weight, Form(bits, symmetric=False, axis=0, group=group), ends(bits))
    return on_grid(quantize(weight, grid), grid)


def _gptq(
    weight: Float[Tensor, "o i"], bits: int, group: int | None, hessian: Float64[Tensor, "i i"] | None
) -> Made:
    assert hessian is not None
    return on_grid(*gptq(weight, hessian, weight_form(bits, group), method=ends(bits), order=True))


def _adaround(
    weight: Float[Tensor, "o i"], bits: int, group: int | None, hessian: Float64[Tensor, "i i"] | None
) -> Made:
    assert hessian is not None
    return on_grid(*adaround(weight, hessian, weight_form(bits, group), method=ends(bits)))


def _power_of_two(weight: Float[Tensor, "o i"], bits: int, group: int | None, hessian: Tensor | None) -> Made:
    return on_levels(to_levels(weight, powers_of_two(bits), Form(bits, axis=0, group=group), CLIPS))


def _additive(weight: Float[Tensor, "o i"], bits: int, group: int | None, hessian: Tensor | None) -> Made:
    return on_levels(to_levels(weight, additive_powers(bits), Form(bits, axis=0, group=group), CLIPS))


def _normal_float(weight: Float[Tensor, "o i"], bits: int, group: int | None, hessian: Tensor | None) -> Made:
    return on_levels(to_levels(weight, normal_float(bits), Form(bits, axis=0, group=group)))


def _lloyd_max(weight: Float[Tensor, "o i"], bits: int, group: int | None, hessian: Tensor | None) -> Made:
    return on_levels(to_own_levels(weight, bits))


def _pieces(weight: Float[Tensor, "o i"], bits: int, group: int | None, hessian: Tensor | None) -> Made:
    found = quantize_pwlq(weight, bits, form="int8")
    packed = len(weight) * (bytes_in_pieces(weight.shape[1], bits) + SCALE_BYTES)
    whole = (found.integers(), found.scales, 8)
    return Made(found.dequantized(), packed, whole, bits, _rival(found, weight))


def _free_pieces(weight: Float[Tensor, "o i"], bits: int, group: int | None, hessian: Tensor | None) -> Made:
    found = quantize_pwlq(weight, bits)
    return Made(found.dequantized(), -(-found.stored_bits // 8), rival=_rival(found, weight))


def _rival(found: Pwlq, weight: Tensor) -> tuple[float, float]:
    inputs = weight.shape[1]
    return float(found.errors.sum()) * inputs, float(found.uniform_errors.sum()) * inputs


def _encoder(weight: Float[Tensor, "o i"], bits: int, group: int | None, hessian: Tensor | None) -> Made:
    raise AssertionError("a whole encoder is not made weight by weight")


ALL = tuple(range(2, 9))
SURVEY = "Gholami et al. 2021, arXiv:2103.13630"

SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Scheme(
            "uniform", "rounding to nearest, symmetric, one scale an output", SURVEY,
            "8 bits, where nothing is lost; the yardstick below", ALL, _rounded, ALL,
        ),
        Scheme(
            "groups", "rounding to nearest, one scale for 32, 64 or 128 inputs", SURVEY,
            "weight-only 4 and 3 bits without data", ALL, _rounded, group=64, groups=True,
        ),
        Scheme(
            "affine", "rounding to nearest with a zero point", SURVEY,
            "weights off centre; to compare with: integer products want symmetric ones", ALL, _affine, groups=True,
        ),
        Scheme(
            "gptq", "later inputs make up for earlier ones' rounding", "Frantar et al. 2023, arXiv:2210.17323",
            "4 and 3 bits in seconds, with calibration rows", ALL, _gptq, ALL, calibrated=True, groups=True,
        ),
        Scheme(
            "adaround", "learned rounding up or down", "Nagel et al. 2020, arXiv:2004.10568",
            "4 and 3 bits in minutes; every integer stays one of the two nearest", ALL, _adaround, ALL,
            calibrated=True, groups=True,
        ),
        Scheme(
            "power-of-two", "levels 0 and ±2^e, one scale an output", SURVEY,
            "hardware that shifts; 4 bits and fewer run as int8", (2, 3, 4, 5), _power_of_two, (2, 3, 4), groups=True,
        ),
        Scheme(
            "additive-powers", "levels that are sums of powers of two", "Li, Dong and Wang 2020, arXiv:1909.13144",
            "hardware that shifts and adds", ADDITIVE, _additive, (3, 4, 5), groups=True,
        ),
        Scheme(
            "normal-float", "quantiles of the normal distribution, by groups (NF4)",
            "Dettmers et al. 2023, arXiv:2305.14314", "weight-only 4 bits without data, normal weights", ALL,
            _normal_float, group=64, groups=True,
        ),
        Scheme(
            "lloyd-max", "each output's own levels, by Lloyd's algorithm", "Max 1960; Lloyd 1982",
            "the least squared error of a weight; large outputs, whose levels cost little", (2, 3, 4, 5, 6), _lloyd_max,
        ),
        Scheme(
            "pwlq", "a centre and two tails with steps of their own, one bit more a weight",
            "Fang et al. 2020, arXiv:2002.00104",
            "4 and 5 bits without data, as int8, files in bits + 1",
            (3, 4, 5, 6, 7), _pieces, (3, 4, 5, 6, 7), extra_bits=1,
        ),
        Scheme(
            "pwlq-free", "the same with steps that need be no multiples of each other",
            "Fang et al. 2020, arXiv:2002.00104", "to compare with the paper", ALL, _free_pieces, extra_bits=1,
        ),
        Scheme(
            "ibert", "the encoder in integers alone: GELU, softmax, norms and embeddings, too",
            "Kim et al. 2021, arXiv:2101.01321", "hardware without floating point; the same bits on any machine", (8,),
            _encoder, (8,), calibrated=True, encoder=True,
        ),
    )
}  # fmt: skip
"""All schemes, by name, in the order of the list."""
