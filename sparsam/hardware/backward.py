"""The two products of a layer's backward pass, made of its forward operands and the gradient of its output.

A layer of a training step does three products: outputs (``forward``), the gradient of its input (``grad_input``: output
gradients with weights) and that of its weights (``grad_weight``: output gradients with inputs). They are layers like any
other, so every design runs them.

The gradient of a convolution's input is a convolution of the output gradients, spread out by the stride with zeros between
them, with the kernel turned round. The zeros need not be streamed: the kernel falls into stride x stride smaller ones, each
for the input positions of one phase, and each is a plain convolution of stride 1. The gradient of the weights sums over
output positions, so they run along k.
"""

import math

import numpy as np
from numpy.typing import NDArray

from sparsam.errors import Refused
from sparsam.workload import Conv, Gemm, Layer, Tensor


def backward(layer: Gemm | Conv, gradient: Tensor) -> list[Layer]:
    """The products of both gradients, with the roles ``grad_input`` and ``grad_weight``.

    Args:
        layer: of the forward pass.
        gradient: of its output: (m, n) of a product, (b, o, oh, ow) of a convolution; one scale in all.

    Raises:
        Refused: ``workload-shape`` for a gradient of another shape, ``workload-tensor`` for one in another number format.
    """
    outputs = (layer.a.shape[0], layer.b.shape[0]) if isinstance(layer, Gemm) else (
        layer.x.shape[0], layer.weight.shape[0], *layer.out
    )  # fmt: skip
    if gradient.shape != outputs:
        raise Refused(
            f"{layer.name}: its output is {outputs}, the gradient {gradient.shape}.", code="workload-shape"
        )
    inputs = layer.a if isinstance(layer, Gemm) else layer.x
    if gradient.format != inputs.format:
        raise Refused(
            f"{layer.name}: gradients in {gradient.format} beside {inputs.format}; convert one of them.",
            code="workload-tensor",
        )
    if isinstance(layer, Gemm):
        return [
            Gemm(layer.name, gradient, _turned(layer.b), "grad_input"),
            Gemm(layer.name, _turned(gradient), _turned(layer.a), "grad_weight"),
        ]
    found: list[Layer] = [one for one, _ in input_gradients(layer, gradient)]
    return found + weight_gradients(layer, gradient)


def input_gradients(layer: Conv, gradient: Tensor) -> list[tuple[Conv, tuple[int, int]]]:
    """The gradient of a convolution's input, one convolution of stride 1 a phase, with the phase (row, column).

    The result of one is what input positions (row + stride i, column + stride j) get. Phases that no output reads are left out.
    """
    o, _, kh, kw = layer.weight.shape
    c, h, w = layer.x.shape[1:]
    groups, values = layer.groups, layer.weight.values
    of_group = values.reshape(groups, o // groups, c // groups, kh, kw).transpose(
        0, 2, 1, 3, 4
    )  # (g, c, o, kh, kw)
    turned = of_group.reshape(c, o // groups, kh, kw)
    found = []
    for row in range(min(layer.stride[0], h)):
        down = _taps(row, h, kh, layer.out[0], layer.stride[0], layer.padding[0], layer.dilation[0])
        for column in range(min(layer.stride[1], w)):
            across = _taps(column, w, kw, layer.out[1], layer.stride[1], layer.padding[1], layer.dilation[1])
            if down is None or across is None:
                continue
            (places_h, kernel_h, apart_h), (places_w, kernel_w, apart_w) = down, across
            x = _taken(_taken(gradient.values, places_h, 2), places_w, 3)
            kernel = np.ascontiguousarray(turned[:, :, kernel_h][..., kernel_w])
            name = layer.name if math.prod(layer.stride) == 1 else f"{layer.name}[{row},{column}]"
            one = Conv(
                name,
                Tensor(x, gradient.format, gradient.scale),
                Tensor(kernel, layer.weight.format),
                dilation=(apart_h, apart_w),
                groups=groups,
                role="grad_input",
            )
            found.append((one, (row, column)))
    return found


def weight_gradients(layer: Conv, gradient: Tensor) -> list[Layer]:
    """The gradient of a convolution's weights, one product a group: (o, positions) with (kh kw c, positions)."""
    found: list[Layer] = []
    o = gradient.shape[1]
    rows = gradient.values.transpose(1, 0, 2, 3).reshape(o, -1)  # (o, b oh ow)
    for number, product in enumerate(layer.products()):
        mine = slice(number * (o // layer.groups), (number + 1) * (o // layer.groups))
        own = Tensor(
            np.ascontiguousarray(rows[mine]),
            gradient.format,
            gradient.scale if np.ndim(gradient.scale) == 0 else 1.0,
        )
        found.append(Gemm(product.name, own, _turned(product.a), "grad_weight"))
    return found


def _taps(
    phase: int, size: int, kernel: int, out: int, stride: int, padding: int, dilation: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], int] | None:
    """One axis of a phase: outputs read (-1 for none), kernel indices in the order they are applied, and their distance.

    Input position p takes weight u from output (p + padding - u dilation) / stride where that is whole.
    """
    taps = np.array([u for u in range(kernel) if (phase + padding - u * dilation) % stride == 0], np.int64)
    if not len(taps):
        return None
    first = (
        phase + padding - taps * dilation
    ) // stride  # outputs that position ``phase`` reads, falling with u
    many = len(range(phase, size, stride))
    apart = int(first[0] - first[1]) if len(first) > 1 else 1
    places = np.arange(first[-1], first[0] + many, dtype=np.int64)
    return np.where((places >= 0) & (places < out), places, -1), taps[::-1].copy(), apart


def _taken(x: NDArray[np.generic], places: NDArray[np.int64], axis: int) -> NDArray[np.generic]:
    """Slices along an axis, zeros where the place is -1."""
    shape = [1] * x.ndim
    shape[axis] = len(places)
    kept = np.take(x, np.maximum(places, 0), axis=axis)
    return np.where((places >= 0).reshape(shape), kept, np.zeros((), x.dtype))


def _turned(x: Tensor) -> Tensor:
    """Transposed; a scale an index of the first axis has no place there and is dropped."""
    return Tensor(np.ascontiguousarray(x.values.T), x.format, x.scale if np.ndim(x.scale) == 0 else 1.0)
