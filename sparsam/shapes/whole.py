"""Layers whose results are plain to see, made as a whole: with sizes and a graph, and none of what lies between.

A recurrent layer in two directions is forty operators of the framework, a linear layer over symbols a dozen. Where all
operands are ordinary tensors of one floating type whose sizes certainly fit, the results have known sizes, and a backward
pass comes by all of the operands.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor

from sparsam.shapes.broadcasting import same_size
from sparsam.shapes.direct import floating, new
from sparsam.shapes.environment import symbolic
from sparsam.shapes.run import Run


class Whole(torch.autograd.Function):
    """Results of given sizes that depend on all operands."""

    @staticmethod
    def forward(ctx: Any, sizes: Sequence[Sequence[Any]], *operands: FakeTensor) -> Any:
        """Results without data.

        Args:
            ctx: Of the backward pass.
            sizes: Of each result.
            operands: The first tells of which type the results are.
        """
        ctx.save_for_backward(*operands)
        return tuple(new(operands[0].fake_mode, size, operands[0]) for size in sizes)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """A gradient for each operand that wants one, which depends on all operands and gradients of the results."""
        operands = ctx.saved_tensors
        made = whole([one.shape for one in operands], *gradients, *operands)
        wanted = zip(made, ctx.needs_input_grad[1:], strict=True)
        return None, *(one if want else None for one, want in wanted)


def whole(sizes: Sequence[Sequence[Any]], *operands: Any) -> tuple[Any, ...]:
    """Tensors of these sizes, of the type of the first operand, that depend on all of them."""
    made: tuple[Any, ...] = Whole.apply(sizes, *operands)  # type: ignore[no-untyped-call]
    return made


def linear(run: Run, inputs: Any, weight: Any, bias: Any) -> Any:
    """(…, in) by (out, in), and a bias of one number for each output; `NotImplemented` for what is not plain to see."""
    given = [inputs, weight] if bias is None else [inputs, weight, bias]
    if not _plain(run, given) or inputs.dim() < 2 or not _fits(weight, None, inputs.shape[-1]):
        return NotImplemented
    if bias is not None and not _fits(bias, weight.shape[0]):
        return NotImplemented
    (made,) = whole([(*inputs.shape[:-1], weight.shape[0])], *given)
    return made


def recurrent(
    run: Run,
    inputs: Any,
    states: Sequence[Any],
    weights: Sequence[Any],
    *,
    biased: bool,
    layers: int,
    directions: int,
    gates: int,
    unpacked: bool,
) -> Any:
    """A recurrent layer over (time, batch, inputs), or (elements, inputs) of packed sequences.

    Args:
        run: In progress.
        inputs: As above.
        states: (layers · directions, batch, hidden); of an LSTM two, of which the second may be of another width.
        weights: For each layer and direction those of the inputs, those of the hidden state, biases, a projection.
        biased: Whether there are biases.
        layers: How many, one above the other.
        directions: One or two.
        gates: Of which the weights are put together.
        unpacked: Whether inputs are (time, batch, inputs).

    Returns:
        The outputs and the last states, `NotImplemented` for what is not plain to see.
    """
    each = 2 + 2 * biased + (len(weights) == layers * directions * (3 + 2 * biased))
    if not _plain(run, [inputs, *states, *weights]) or len(weights) != layers * directions * each:
        return NotImplemented
    if inputs.dim() != 2 + unpacked or any(state.dim() != 3 for state in states):
        return NotImplemented
    hidden, rows = states[0], states[0].shape[1]
    width = weights[0].shape[0] // gates if type(weights[0].shape[0]) is int else None
    if width is None or (unpacked and not same_size(inputs.shape[1], rows)):
        return NotImplemented
    if any(not same_size(state.shape[0], layers * directions) for state in states):
        return NotImplemented
    if any(not same_size(state.shape[1], rows) for state in states):
        return NotImplemented
    if gates == 4 and (len(states) != 2 or not same_size(states[1].shape[2], width)):
        return NotImplemented
    entering = inputs.shape[-1]
    for number in range(layers * directions):
        if number and number % directions == 0:
            entering = directions * hidden.shape[2]
        w_ih, w_hh, *others = weights[number * each : (number + 1) * each]
        projection = others.pop() if each % 2 else None
        if not _fits(w_ih, gates * width, entering) or not _fits(w_hh, gates * width, hidden.shape[2]):
            return NotImplemented
        if not all(_fits(bias, gates * width) for bias in others):
            return NotImplemented
        if projection is not None and not _fits(projection, hidden.shape[2], width):
            return NotImplemented
        if projection is None and not same_size(hidden.shape[2], width):
            return NotImplemented
    if unpacked:
        torch._check(inputs.shape[0] > 0, lambda: "Expected sequence length to be larger than 0 in RNN")
    sizes = [(*inputs.shape[:-1], directions * hidden.shape[2]), *(state.shape for state in states)]
    outputs, *last = whole(sizes, inputs, *states, *weights)
    return outputs, last


def _plain(run: Run, tensors: Sequence[Any]) -> bool:
    """Whether all are tensors without data of one floating type, with symbols, and nothing but that matters."""
    first = tensors[0]
    return (
        not run.elsewhere
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._are_functorch_transforms_active()
        and torch.autograd.forward_ad._current_level < 0
        and all(floating(one) and one.dtype is first.dtype for one in tensors)
        and first.dtype in (torch.float32, torch.float64)
        and any(symbolic(size) for one in tensors for size in one.shape)
    )


def _fits(tensor: FakeTensor, *sizes: Any) -> bool:
    """Whether a tensor certainly has these sizes, None for any."""
    return tensor.dim() == len(sizes) and all(
        wanted is None or same_size(size, wanted) for size, wanted in zip(tensor.shape, sizes, strict=True)
    )
