"""Every kind of grid by every range method, static and worked out as it runs: right beside an oracle, or refused by name.

{symmetric, affine} x {tensor, channel, group} x {2 … 8 bits} x {min-max, moving average, percentile, MSE, KL, ACIQ} x {static,
dynamic}. The oracle is NumPy in float64 and shares no code with the package.
"""

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import lambertw

from sparsam.errors import Usage
from sparsam.quantization import (
    ACIQ,
    KL,
    MSE,
    Form,
    MinMax,
    MovingAverage,
    Percentile,
    RangeMethod,
    calibrate,
    dequantize,
    fit,
    quantize,
)

Numbers = NDArray[np.float64]
METHODS: dict[str, RangeMethod] = {
    "min-max": MinMax(),
    "moving average": MovingAverage(0.8),
    "percentile": Percentile(95.0),
    "mse": MSE(),
    "kl": KL(magnitudes=512),
    "aciq": ACIQ(),
}
SAMPLES, CHANNELS, GROUP = 240, 3, 80


def sample() -> torch.Tensor:
    """Samples by channels: heavy tails, other sizes, one channel without negative numbers."""
    draw = np.random.default_rng(7)
    x = draw.standard_t(3.0, (SAMPLES, CHANNELS)) * np.array([1.0, 0.05, 30.0])
    x[:, 1] = np.abs(x[:, 1])
    return torch.from_numpy(x.astype(np.float32))


def refusal(method: str, granularity: str, mode: str) -> tuple[str, str] | None:
    """The code and the words of what cannot be; None for what has to work."""
    if granularity == "group" and mode == "static":
        return "calibration-group", "Use fit for a weight"
    if method == "moving average" and mode == "dynamic":
        return "quantization-method", "samples in their order"
    if method == "kl" and granularity == "group":
        return "quantization-method", "too few"
    return None


def sharing(x: Numbers, granularity: str) -> list[Numbers]:
    """The numbers of each grid, in the order of its scales: channels are columns here."""
    if granularity == "tensor":
        return [x.reshape(-1)]
    columns = list(x.T)
    if granularity == "channel":
        return columns
    return [column[start : start + GROUP] for column in columns for start in range(0, SAMPLES, GROUP)]


class Oracle:
    """What a grid should be for numbers that share it."""

    def __init__(self, bits: int, symmetric: bool, static: bool) -> None:
        self.bits, self.symmetric, self.static = bits, symmetric, static
        self.top = 2 ** (bits - 1) - 1
        self.bottom = -self.top if symmetric else -(2 ** (bits - 1))

    def grid(self, low: float, high: float) -> tuple[float, float]:
        low, high = min(low, 0.0), max(high, 0.0)
        if self.symmetric:
            return max(-low, high) / self.top, 0.0
        scale = (high - low) / (self.top - self.bottom)
        return scale, float(np.clip(np.rint(-low / scale) + self.bottom, self.bottom, self.top))

    def rounded(self, x: Numbers, scale: float, zero: float) -> Numbers:
        return np.clip(np.rint(x / scale) + zero, self.bottom, self.top)

    def error(self, x: Numbers, scale: float, zero: float) -> float:
        return float(((x - (self.rounded(x, scale, zero) - zero) * scale) ** 2).sum())

    def bin_width(self, x: Numbers, bins: int = 2048) -> float:
        """Of the histogram: half the bins reach beyond the largest magnitude."""
        return 2.0 ** (math.floor(math.log2(np.abs(x).max())) + 1) / bins

    def ends(self, method: str, x: Numbers, samples: Numbers) -> tuple[float, float, float]:
        """Low, high, and by how much they may differ."""
        low, high, slack = float(x.min()), float(x.max()), 1e-6 * float(np.abs(x).max())
        if method == "moving average":
            low, high = float(samples[0].min()), float(samples[0].max())
            for one in samples[1:]:
                low, high = 0.8 * low + 0.2 * float(one.min()), 0.8 * high + 0.2 * float(one.max())
        elif method == "percentile":
            slack = self.bin_width(x) if self.static else slack
            if self.symmetric:
                edge = float(np.sort(np.abs(x))[-1 - math.floor(0.05 * len(x) + 1e-9)])
                low, high = max(low, -edge), min(high, edge)
            else:
                out, ordered = math.floor(0.025 * len(x) + 1e-9), np.sort(x)
                low, high = float(ordered[out]), float(ordered[-1 - out])
        elif method == "aciq":
            one_sided = not self.symmetric and low >= 0
            mu = 0.0 if self.symmetric or one_sided else float(x.mean())
            reach = float(lambertw(3 * 4.0 ** (self.bits + one_sided)).real) * float(np.abs(x - mu).mean())
            slack = 2 * self.bin_width(x) if self.static else slack
            low, high = max(low, min(0.0, mu - reach)), min(high, mu + reach)
        return low, high, slack

    def divergence(self, x: Numbers, count: int) -> float:
        """KL of the first bins, with the tail on the last that is not empty, from themselves joined into levels; slowly."""
        width = self.bin_width(x, 512)
        counts, _ = np.histogram(np.abs(x[x != 0]), bins=512, range=(0, 512 * width))
        one_sided = not self.symmetric and x.min() >= 0
        levels = 2**self.bits if one_sided else 2 ** (self.bits - 1)
        p = counts[:count].astype(float).tolist()
        q = [0.0] * count
        for level in range(levels):
            inside = range(level * count // levels, (level + 1) * count // levels)
            live = [i for i in inside if p[i] > 0]
            for i in live:
                q[i] = sum(p[k] for k in inside) / len(live)
        live = [i for i in range(count) if p[i] > 0]
        if not live:
            return math.inf
        p[live[-1]] += float(counts.sum()) - sum(p)
        total, mass = sum(p), sum(q)
        return sum(p[i] / total * math.log(p[i] / total / (q[i] / mass)) for i in live)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("granularity", ["tensor", "channel", "group"])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "affine"])
@pytest.mark.parametrize("mode", ["static", "dynamic"])
@pytest.mark.parametrize("bits", range(2, 9))
def test_it_works_or_is_refused_by_name(
    method: str, granularity: str, symmetric: bool, mode: str, bits: int
) -> None:
    """No combination falls back to another: the grid is the oracle's, and so are the integers."""
    x = sample()
    form = Form(
        bits,
        symmetric,
        axis=None if granularity == "tensor" else 1,
        group=GROUP if granularity == "group" else None,
    )

    def made() -> Any:
        return (
            fit(x, form, METHODS[method])
            if mode == "dynamic"
            else calibrate(METHODS[method], x.split(50), form)
        )

    refused = refusal(method, granularity, mode)
    if refused is not None:
        with pytest.raises(Usage) as caught:
            made()
        assert caught.value.code == refused[0] and refused[1] in str(caught.value)
        return
    grid = made()
    exact = x.numpy().astype(np.float64)
    oracle, parts = Oracle(bits, symmetric, mode == "static"), sharing(exact, granularity)
    scales, zeros = grid.scale.reshape(-1).tolist(), grid.zero.reshape(-1).tolist()
    assert len(scales) == len(parts)
    integers, numbers = (
        quantize(x, grid).numpy().astype(np.float64),
        dequantize(quantize(x, grid), grid).numpy(),
    )
    found = zip(sharing(integers, granularity), sharing(numbers.astype(np.float64), granularity), strict=True)
    for at, (part, (q, y)) in enumerate(zip(parts, found, strict=True)):
        scale, zero = scales[at], zeros[at]
        if method == "mse":
            best = min(
                oracle.error(part, *oracle.grid(down * part.min(), down * part.max()))
                for down in np.linspace(0.05, 1, 96)
            )
            assert oracle.error(part, scale, zero) <= (1.02 if mode == "static" else 1.0001) * best + 1e-12
        elif method == "kl":
            width = oracle.bin_width(part, 512)
            steps = 1 if symmetric else oracle.top - oracle.bottom
            reach = scale * (oracle.top if symmetric else steps)
            if symmetric or part.min() >= 0:  # otherwise either end may be the numbers' own
                count = round(reach / width - 0.5)
                chosen = oracle.divergence(part, count) if reach < np.abs(part).max() * 0.999 else None
                least = 2 ** (bits - symmetric - (0 if symmetric or part.min() >= 0 else 1))
                others = [
                    oracle.divergence(part, n)
                    for n in range(max(least, 2), 512, 37)
                    if n * width < np.abs(part).max()
                ]
                assert chosen is None or chosen <= min([*others, chosen]) + 1e-9
            assert reach <= (1 if symmetric else 2) * np.abs(part).max() * 1.001
        else:
            low, high, slack = oracle.ends(
                method, part, exact if granularity == "tensor" else exact[:, at : at + 1]
            )
            wanted, offset = oracle.grid(low, high)
            assert scale == pytest.approx(
                wanted, rel=1e-5, abs=2 * slack / (oracle.top - (0 if symmetric else oracle.bottom))
            )
            assert abs(zero - offset) <= 1
        nearest = oracle.rounded(part, scale, zero)
        assert np.abs(q - nearest).max() <= 1 and (q != nearest).mean() < 0.01  # halves, in another precision
        np.testing.assert_allclose(y, (q - zero) * scale, rtol=1e-5, atol=1e-9)
