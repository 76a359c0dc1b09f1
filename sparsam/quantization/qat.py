"""Training for integers: modules that round on the way forward and let gradients through on the way back.

- :class:`FixedGrid`: a grid that stands still, straight-through (its function is :func:`~sparsam.quantization.fake_quantize`).
- :class:`MovingGrid`: its range follows the inputs' extremes until :meth:`~MovingGrid.freeze`.
- :class:`LearnedGrid`: its scales are parameters. LSQ: S. K. Esser, J. L. McKinstry, D. Bablani, R. Appuswamy, D. S. Modha,
  *Learned step size quantization*, ICLR 2020, arXiv:1902.08153.
- :class:`LearnedClip`: the end of its range is a parameter. PACT: J. Choi, Z. Wang, S. Venkataramani, P. I.-J. Chuang,
  V. Srinivasan, K. Gopalakrishnan, *PACT: parameterized clipping activation for quantized neural networks*, 2018,
  arXiv:1805.06085.
- :class:`TokenGrids`: each token on a grid of its own, as int8 plans run.
- :class:`RoundedLinear`: a linear layer in training between two of these.

A good order: start from the grids of calibration, train with a small learning rate, freeze what moves after the first part of
the training, and write the integers of :meth:`grid` at the end. Batch norms should stand still by then, too.
What teaches, labels or a dense model's answers, is the training's to say (:mod:`sparsam.training`).
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor, nn

from sparsam.errors import Refused, Usage
from sparsam.quantization.affine import (
    Form,
    Grid,
    fake_quantize,
    fake_quantize_tokens,
    gathered,
    grid_between,
    sharing,
    spread,
)

FLOOR = 1e-3
"""A learned scale stays above this share of the one it started from. Ours: at zero it could not come back."""


class FixedGrid(nn.Module):
    """Rounds to a grid that stands still."""

    scale: Tensor
    zero: Tensor

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.form = grid.form
        self.register_buffer("scale", grid.scale.clone())
        self.register_buffer("zero", grid.zero.clone())

    def grid(self) -> Grid:
        """The grid as it stands."""
        return Grid(self.scale.detach(), self.zero, self.form)

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return fake_quantize(x, self.grid())


class MovingGrid(nn.Module):
    """Rounds to a grid over a range that follows the inputs while training, and stands still in evaluation and once frozen.

    The range is the moving average over batches of the least and the largest number, in all; the first batch starts it. All of
    it lies in the state dict, so that a run that resumes goes on as it would have. Training has one batch size, so the average
    moves once a batch here (calibration's moves once a sample).
    """

    low: Tensor
    high: Tensor
    seen: Tensor
    frozen: Tensor

    def __init__(self, form: Form, momentum: float = 0.95) -> None:
        super().__init__()
        if form.axis is not None:
            raise Usage(
                "a moving grid has one range for all numbers. For weights by channel take LearnedGrid or FixedGrid.",
                code="quantization-form",
            )
        if not 0 <= momentum < 1:
            raise Usage(f"momentum lies in [0, 1); got {momentum!r}.", code="quantization-settings")
        self.form = form
        self.momentum = momentum
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))
        self.register_buffer("seen", torch.tensor(False))
        self.register_buffer("frozen", torch.tensor(False))

    def freeze(self, frozen: bool = True) -> None:
        """Let the range stand still from here on, or move again."""
        self.frozen.fill_(frozen)

    def grid(self) -> Grid:
        """The grid over the range as it stands. Raises :class:`~sparsam.errors.Refused` before any input."""
        if not bool(self.seen):
            raise Refused(
                "this grid has seen no input. Train a step, or calibrate and take FixedGrid.",
                code="calibration-empty",
            )
        return grid_between(self.low, self.high, self.form)

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        if self.training and not bool(self.frozen) and x.numel():
            low, high = x.detach().float().aminmax()
            stays = self.momentum if bool(self.seen) else 0.0
            self.low.copy_(stays * self.low + (1 - stays) * low)
            self.high.copy_(stays * self.high + (1 - stays) * high)
            self.seen.fill_(True)
        return fake_quantize(x, self.grid())


class LearnedGrid(nn.Module):
    """Rounds to a grid whose scales are learned beside the weights; the zero point stays.

    Starts from a grid: calibration's, or that of :func:`lsq_start`.
    """

    zero: Tensor
    floor: Tensor

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.form = grid.form
        self.scale = nn.Parameter(grid.scale.clone())
        self.register_buffer("zero", grid.zero.clone())
        self.register_buffer("floor", FLOOR * grid.scale)

    def freeze(self, frozen: bool = True) -> None:
        """Stop learning the scales, or go on."""
        self.scale.requires_grad_(not frozen)

    def grid(self) -> Grid:
        """The grid as it stands."""
        return Grid(torch.maximum(self.scale.detach(), self.floor), self.zero, self.form)

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return lsq(x, self.scale, self.grid())


def lsq(x: Float[Tensor, "*shape"], scale: Float32[Tensor, "*grid"], grid: Grid) -> Float[Tensor, "*shape"]:
    """``x`` rounded to ``grid``, with gradients for ``x`` and for ``scale``, the parameter its scales come from.

    The gradient of a scale is the sum over its numbers of g times rint(x/s) - x/s inside the range and the integer at which x
    was cut off outside (less the zero point; equation 3), over sqrt(N highest), N numbers sharing the scale (section 2.2).
    That of ``x`` is straight through, as ever.
    """
    found: Tensor = _Lsq.apply(x, scale, grid)  # type: ignore[no-untyped-call]
    return found


class _Lsq(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, grid: Grid) -> Tensor:
        form = grid.form
        wide, zero = spread(grid.scale, form, x), spread(grid.zero.float(), form, x)
        exact = x.float() * wide.reciprocal()
        q = torch.round(exact) + zero
        held = q.clamp(form.lowest, form.highest)
        passes = held == q
        ctx.save_for_backward(passes, torch.where(passes, q - zero - exact, held - zero))
        ctx.form, ctx.shape = form, scale.shape
        return ((held - zero) * wide).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (g,) = gradients
        passes, slope = ctx.saved_tensors
        rows = sharing(g.float() * slope, ctx.form)
        sums = [piece.sum(2) / (max(1, piece.shape[2]) * ctx.form.highest) ** 0.5 for piece in rows]
        return g * passes, gathered(sums, ctx.form).view(ctx.shape), None


def lsq_start(x: Float[Tensor, "*shape"], form: Form) -> Grid:
    """The grid that LSQ starts from: s = 2 mean|x| / sqrt(highest) (section 2.1), zero point of the form's own zero."""
    means = gathered([piece.abs().mean(2) for piece in sharing(x.detach().float(), form)], form)
    reach = 2 * means / form.highest**0.5 * form.steps
    return grid_between(-reach if form.symmetric else torch.zeros_like(reach), reach, form)


class LearnedClip(nn.Module):
    """PACT: a ReLU that ends at a learned alpha, rounded to 2^bits levels from 0 to alpha.

        y = clip(x, 0, alpha)        y^ = rint(y (2^bits - 1) / alpha) alpha / (2^bits - 1)

    The gradient of alpha is 1 where x reaches it and 0 elsewhere (rounding counts as the identity), that of x is 1
    between 0 and alpha. The paper holds alpha down with weight decay: give the parameter to the optimiser so. It takes a ReLU's
    place: numbers below 0 are lost.

    Args:
        bits: 2 to 8.
        alpha: where it starts: the largest input that calibration saw, or higher.
    """

    def __init__(self, bits: int, alpha: float) -> None:
        super().__init__()
        self.form = Form(bits, symmetric=False, signed=False)
        if not 0 < alpha < float("inf"):
            raise Usage(f"alpha is above 0 and finite; got {alpha!r}.", code="quantization-settings")
        self.alpha = nn.Parameter(torch.tensor(float(alpha)))
        self.register_buffer("floor", torch.tensor(FLOOR * float(alpha)))

    floor: Tensor

    def grid(self) -> Grid:
        """The grid as it stands."""
        alpha = torch.maximum(self.alpha.detach(), self.floor)
        return grid_between(torch.zeros_like(alpha), alpha, self.form)

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        found: Tensor = _Pact.apply(x, self.alpha, self.grid())  # type: ignore[no-untyped-call]
        return found


class _Pact(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor, grid: Grid) -> Tensor:
        end = grid.scale * grid.form.steps
        ctx.save_for_backward((x > 0) & (x < end), x >= end)
        return fake_quantize(x, grid)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (g,) = gradients
        inside_, beyond = ctx.saved_tensors
        return g * inside_, (g.float() * beyond).sum(), None


class TokenGrids(nn.Module):
    """Rounds each token (t, i) on a grid of eight bits of its own: nothing is learned, nothing has to be frozen."""

    def forward(self, x: Float[Tensor, "t i"]) -> Float[Tensor, "t i"]:
        return fake_quantize_tokens(x)


class RoundedLinear(nn.Module):
    """A linear layer with its weight, and its input if ``inputs`` is given, rounded on the way forward.

    The layer inside is the one that was given: its parameters keep their place with whoever else holds them.
    """

    def __init__(self, linear: nn.Linear, weights: nn.Module, inputs: nn.Module | None = None) -> None:
        super().__init__()
        self.linear = linear
        self.weights = weights
        self.inputs = inputs

    def forward(self, x: Float[Tensor, "t i"]) -> Float[Tensor, "t o"]:
        x = x if self.inputs is None else self.inputs(x)
        return F.linear(x, self.weights(self.linear.weight), self.linear.bias)
