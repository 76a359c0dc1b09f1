"""Weights in integers, and what is done to weights so that integers lose less: pure functions of tensors.

- :func:`fit`, :func:`quantize_weight`: the grid of a tensor that is at hand, by any of the range methods; the integers on it.
- Bias correction (Nagel et al. 2019, *Data-free quantization through weight equalization and bias correction*,
  arXiv:1906.04721): the mean error of an output goes into its bias.
- Equalisation across two products (the same paper): what one channel has more of than the others moves into the next weights.
- SmoothQuant (Xiao et al. 2022, arXiv:2211.10438): what a few inputs have more of than the others moves into the weights.

The last two change no function: factors are chosen here, and the tensors they are folded into are worked out here; which module
holds them is the caller's to know. Letters: i inputs, o outputs, m the channels between two products.
"""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Float32, Int8
from torch import Tensor

from sparsam.errors import Refused, Usage
from sparsam.quantization.affine import (
    Form,
    Grid,
    gathered,
    grid_between,
    quantize,
    sharing,
    steps_of,
    weight_form,
)
from sparsam.quantization.calibrate import (
    ACIQ,
    KL,
    MSE,
    Bounds,
    Histogram,
    MinMax,
    MovingAverage,
    Percentile,
    RangeMethod,
)

IN_CACHE = 2**15
"""Weights that are searched at a time: a hundred passes over them should not go to memory."""

HOMOGENEOUS = (None, "identity", "relu", "leaky_relu")
"""Activations with f(s x) = s f(x) for s > 0; None is no activation."""


def fit(x: Float[Tensor, "*shape"], form: Form, method: RangeMethod = MinMax()) -> Grid:  # noqa: B008  frozen
    """The grid of a form for a tensor that is at hand whole: a weight, or an input as it goes by.

    The extremes, percentiles and squared errors are those of the numbers themselves, not of a histogram.

    Raises:
        Refused: ``non-finite``.
        Usage: ``quantization-method`` for a moving average, which needs samples in an order, and for KL by group, which needs
            more numbers than a group has.
    """
    if isinstance(method, MovingAverage):
        raise Usage(
            "a moving average is over samples in their order; a tensor at hand has none. Take MinMax, Percentile or MSE.",
            code="quantization-method",
        )
    if isinstance(method, KL) and form.group is not None:
        raise Usage(
            f"KL compares histograms, and a group of {form.group} numbers is too few for one. Take MSE.",
            code="quantization-method",
        )
    if not bool(torch.isfinite(x).all()):
        raise Refused(
            "a tensor to quantize holds NaN or infinity. Look for NaN in the weights or the inputs.",
            code="non-finite",
        )
    lows, highs = [], []
    for piece in sharing(x.detach().float(), form):  # (c, g, n)
        rows = piece.flatten(0, 1)
        low, high = _bounds(rows, form, method) if rows.numel() else (rows.new_zeros(len(rows)),) * 2
        lows.append(low.view(piece.shape[:2]))
        highs.append(high.view(piece.shape[:2]))
    return grid_between(gathered(lows, form), gathered(highs, form), form)


def _bounds(rows: Float32[Tensor, "r n"], form: Form, method: RangeMethod) -> Bounds:
    low, high = rows.amin(1), rows.amax(1)
    if isinstance(method, Percentile):
        out = method.left_out(rows.shape[1], form)
        if method.by_magnitude(form):
            edge = rows.abs().sort(1).values[:, -1 - out]
            return torch.maximum(low, -edge), torch.minimum(high, edge)
        ordered = rows.sort(1).values
        return ordered[:, out], ordered[:, -1 - out]
    if isinstance(method, MSE):
        parts = torch.split(rows, IN_CACHE // rows.shape[1] + 1)
        ends = [
            method.search(_error(part, form, method.power), part.amin(1), part.amax(1), form)
            for part in parts
        ]
        return torch.cat([low for low, _ in ends]), torch.cat([high for _, high in ends])
    if isinstance(method, KL):
        found = []
        for row in rows:
            seen = Histogram()
            seen.add(row)
            found.append(method.bounds(seen, form))
        return torch.stack([low for low, _ in found]), torch.stack([high for _, high in found])
    if isinstance(method, ACIQ):
        return method.ends(rows, form)
    if isinstance(method, MinMax):
        return low, high
    raise Usage(
        f"fit knows MinMax, Percentile, MSE, KL and ACIQ; got {method!r}. "
        "For a method of your own, work out its range and take grid_between.",
        code="quantization-method",
    )


def _error(rows: Tensor, form: Form, power: float) -> Callable[[Tensor, Tensor], Tensor]:
    """What :meth:`MSE.search` asks: the error of rows on the grids between these ends, as the pure functions round."""

    def one(scale: Tensor, zero: Tensor) -> Tensor:
        q = torch.round(rows * scale.reciprocal()).add_(zero).clamp_(form.lowest, form.highest)
        distance = q.sub_(zero).mul_(scale).sub_(rows)
        raised = distance.square_() if power == 2 else distance.abs_().pow_(power)
        return raised.sum(1, dtype=torch.float64)

    def error(lows: Tensor, highs: Tensor) -> Tensor:
        scales, zeros = steps_of(lows, highs, form)  # (k, r)
        pairs = zip(scales[..., None], zeros.float()[..., None], strict=True)
        return torch.stack([one(scale, zero) for scale, zero in pairs])

    return error


def quantize_weight(
    weight: Float[Tensor, "o i"],
    bits: int = 8,
    *,
    group: int | None = None,
    method: RangeMethod = MSE(),  # noqa: B008  frozen
) -> tuple[Int8[Tensor, "o i"], Grid]:
    """A weight in integers: symmetric, a scale an output (or ``group`` inputs of one), from -(2^(bits-1)-1) to 2^(bits-1)-1.

    By default each scale is the one with the least squared error.
    """
    grid = fit(weight, weight_form(bits, group), method)
    return quantize(weight, grid), grid


def corrected_bias(
    weight: Float[Tensor, "o i"],
    quantized: Float[Tensor, "o i"],
    bias: Float[Tensor, " o"] | None,
    mean: Float[Tensor, " i"],
) -> Float32[Tensor, " o"]:
    """The bias with which the quantized weight gives the mean outputs of the weight: b - (W^ - W) E[x].

    ``mean`` is E[x]: from calibration (:class:`~sparsam.quantization.calibrate.Means`) or, without any data, from the norm in
    front (:func:`expected_input`).
    """
    moved = (quantized.double() - weight.double()) @ mean.double()
    return (-moved if bias is None else bias.double() - moved).float()


def bias_corrected_by_outputs(
    bias: Float[Tensor, " o"] | None, wanted: Float[Tensor, " o"], got: Float[Tensor, " o"]
) -> Float32[Tensor, " o"]:
    """The bias that makes up for all that moves the mean outputs, rounded inputs included: b + E[y] - E[y^], as measured."""
    moved = wanted.double() - got.double()
    return (moved if bias is None else bias.double() + moved).float()


def expected_input(
    weight: Float[Tensor, " i"],
    bias: Float[Tensor, " i"],
    activation: str | None = None,
) -> Float32[Tensor, " i"]:
    """E[x] behind a norm with this weight and bias, no data needed: each channel is taken for normal, N(bias, weight^2).

    Through ReLU that is mu Phi(r) + sigma phi(r) with r = mu / sigma; through the exact GELU, x Phi(x), by Stein's lemma
    mu Phi(r) + sigma^2 phi(r) / v with r = mu / v and v = sqrt(1 + sigma^2). Phi and phi are the normal distribution and its
    density.
    """
    mu, sigma = bias.double(), weight.double().abs()
    if activation is None:
        return mu.float()
    if activation == "relu":
        r = mu / sigma.clamp(min=1e-30)
        return (mu * _normal(r) + sigma * _density(r)).float()
    if activation == "gelu":
        v = torch.sqrt(1 + sigma.square())
        return (mu * _normal(mu / v) + sigma.square() / v * _density(mu / v)).float()
    raise Usage(
        f"the mean behind an activation is known for relu, gelu or None; got {activation!r}.",
        code="quantization-activation",
    )


def _normal(x: Tensor) -> Tensor:
    found: Tensor = torch.special.ndtr(x)
    return found


def _density(x: Tensor) -> Tensor:
    return torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi)


def smoothing(
    largest: Float[Tensor, " i"], weights: Sequence[Float[Tensor, "_ i"]], alpha: float = 0.5
) -> Float32[Tensor, " i"]:
    """SmoothQuant's factor for each input: s_j = max|X_j|^alpha / max|W_j|^(1 - alpha) (its equation 4).

    ``largest`` is max|X_j|, as calibration saw it by channel (:meth:`~sparsam.quantization.calibrate.Extremes.largest`);
    ``weights`` are all that read this input, (o, i) each, such as those of queries, keys and values. Inputs are divided by the
    factors and weights multiplied: alpha 0 leaves the inputs' differences where they are and evens out the weights' columns,
    1 evens out the inputs. An input that is always zero, or that no weight reads, has the factor 1.
    """
    if not 0 <= alpha <= 1:
        raise Usage(
            f"alpha lies in [0, 1]; got {alpha!r}.",
            code="quantization-settings",
        )
    if not weights:
        raise Usage(
            "smoothing needs the weights that read the input; got none.",
            code="quantization-settings",
        )
    columns = torch.stack([_largest(weight.abs(), 0) for weight in weights]).amax(0).double()
    _check_finite(largest, columns)
    factors = largest.double() ** alpha / columns.clamp(min=1e-30) ** (1 - alpha)
    return torch.where((largest > 0) & (columns > 0), factors, 1.0).float()


def smoothed(weight: Float[Tensor, "o i"], factors: Float[Tensor, " i"]) -> Float[Tensor, "o i"]:
    """A weight that reads the divided inputs."""
    return weight * factors.to(weight.dtype)


def divided(
    weight: Float[Tensor, "i *inputs"], bias: Float[Tensor, " i"] | None, factors: Float[Tensor, " i"]
) -> tuple[Float[Tensor, "i *inputs"], Float[Tensor, " i"] | None]:
    """Weight and bias of what gives the inputs, so that they come divided: a norm's (i,) or a product's (i, k).

    A product may stand in front only where nothing, or a positively homogeneous activation (:data:`HOMOGENEOUS`), lies between.
    """
    factors = factors.to(weight.dtype)
    tall = factors.view(-1, *[1] * (weight.ndim - 1))
    return weight / tall, None if bias is None else bias / factors


def equalised(
    first: Float[Tensor, "m i"],
    bias: Float[Tensor, " m"] | None,
    second: Float[Tensor, "o m"],
    activation: str | None = None,
) -> tuple[Float[Tensor, "m i"], Float[Tensor, " m"] | None, Float[Tensor, "o m"]]:
    """Two products in a row with their channels' ranges evened out: W1 / s, b1 / s and W2 s, whose composition is the same.

    s = sqrt(r1 r2) / r2, with r1 and r2 the largest absolute weight that writes and that reads a channel, after which both are
    sqrt(r1 r2). A channel that is not written or not read stays.

    Raises:
        Refused: ``quantization-activation`` where the activation between is not positively homogeneous: the function would
            change.
    """
    if activation not in HOMOGENEOUS:
        known = ", ".join(str(name) for name in HOMOGENEOUS)
        raise Refused(
            f"scaling a channel commutes with none of {activation!r}; equalisation is for {known}. "
            "SmoothQuant behind a norm does not need it.",
            code="quantization-activation",
        )
    writes, reads = _largest(first.abs(), 1).double(), _largest(second.abs(), 0).double()
    _check_finite(writes, reads)
    alive = (writes > 0) & (reads > 0)
    factors = torch.where(alive, torch.sqrt(writes / reads.clamp(min=1e-30)), 1.0).float()
    return (*divided(first, bias, factors), smoothed(second, factors))


def _largest(x: Tensor, axis: int) -> Tensor:
    return x.amax(axis) if x.shape[axis] else x.sum(axis)


def _check_finite(*values: Tensor) -> None:
    if not all(bool(torch.isfinite(x).all()) for x in values):
        raise Refused(
            "weights or maxima of inputs hold NaN or infinity. Look for NaN in the weights or the inputs.",
            code="non-finite",
        )
