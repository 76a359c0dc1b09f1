"""The products of a backward pass against gradients worked out from the forward pass alone."""

import numpy as np
import pytest

from sparsam.errors import Refused
from sparsam.hardware.backward import backward, input_gradients, weight_gradients
from sparsam.workload import Conv, Gemm, Tensor

DRAW = np.random.default_rng(0)
SHAPES = [
    ((1, 1), (1, 1), (3, 3)),
    ((0, 2), (2, 1), (3, 2)),
    ((2, 0), (2, 3), (2, 2)),
    ((0, 0), (1, 1), (1, 1)),
]
"""Padding, dilation, kernel."""


def some(*shape: int) -> Tensor:
    """Small integers."""
    return Tensor(DRAW.integers(-9, 10, shape).astype(np.int8), "int8")


def convolved(layer: Conv) -> np.ndarray:
    """(b, o, oh, ow) of a convolution, from its products."""
    found = [one.result().reshape(layer.x.shape[0], *layer.out, -1) for one in layer.products()]
    return np.concatenate(found, axis=-1).transpose(0, 3, 1, 2)


def test_gradients_of_a_product_are_those_of_calculus() -> None:
    """dA = dC B and dB = dCᵀ A."""
    layer, gradient = Gemm("g", some(5, 7), some(4, 7)), some(5, 4)
    into, weight = backward(layer, gradient)
    assert isinstance(into, Gemm) and isinstance(weight, Gemm)
    grad, a, b = (one.values.astype(int) for one in (gradient, layer.a, layer.b))
    assert (into.result() == grad @ b).all() and into.role == "grad_input"
    assert (weight.result() == grad.T @ a).all() and weight.role == "grad_weight"


@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (2, 3), (3, 1)])
@pytest.mark.parametrize("groups", [1, 2])
def test_gradients_of_a_convolution_are_its_transpose(stride: tuple[int, int], groups: int) -> None:
    """<gradient, conv(e)> for each unit input e is the input's gradient; likewise for each unit weight."""
    for padding, dilation, kernel in SHAPES:
        layer = Conv("c", some(2, 4, 8, 9), some(6, 4 // groups, *kernel), stride, padding, dilation, groups)
        gradient = some(2, 6, *layer.out)
        grad = gradient.values.astype(int)
        into = np.zeros(layer.x.shape, int)
        for one, (row, column) in input_gradients(layer, gradient):
            assert one.role == "grad_input" and one.stride == (1, 1)
            into[:, :, row :: stride[0], column :: stride[1]] = convolved(one)
        probe = some(*layer.x.shape)  # the transpose of a linear map, for any input
        seen = Conv("p", probe, layer.weight, stride, padding, dilation, groups)
        assert (into * probe.values.astype(int)).sum() == (convolved(seen) * grad).sum()
        weights = np.concatenate(
            [one.result() for one in weight_gradients(layer, gradient) if isinstance(one, Gemm)]
        )
        turned = weights.reshape(6, *kernel, 4 // groups).transpose(0, 3, 1, 2)
        other = some(*layer.weight.shape)
        seen = Conv("p", layer.x, other, stride, padding, dilation, groups)
        assert (turned * other.values.astype(int)).sum() == (convolved(seen) * grad).sum()


def test_every_unit_input_is_read_where_it_should() -> None:
    """Input gradients entry by entry, for a stride that leaves phases out."""
    layer = Conv("c", some(1, 2, 7, 5), some(3, 2, 1, 2), (2, 2), (0, 1))
    gradient = some(1, 3, *layer.out)
    into = np.zeros(layer.x.shape, int)
    phases = []
    for one, (row, column) in input_gradients(layer, gradient):
        into[:, :, row::2, column::2] = convolved(one)
        phases.append((row, column))
    assert {row for row, _ in phases} == {0}  # a kernel one high with stride 2 never reads odd rows
    for at in np.ndindex(layer.x.shape):
        unit = np.zeros(layer.x.shape, np.int8)
        unit[at] = 1
        seen = convolved(Conv("u", Tensor(unit, "int8"), layer.weight, (2, 2), (0, 1)))
        assert into[at] == (seen * gradient.values.astype(int)).sum()


def test_inserted_zeros_are_not_streamed() -> None:
    """The phases together multiply what the forward pass does, not stride² times as much."""
    layer = Conv("c", some(1, 16, 16, 16), some(16, 16, 4, 4), (2, 2), (1, 1))
    work = sum(one.macs for one, _ in input_gradients(layer, some(1, 16, *layer.out)))
    assert work == layer.macs


def test_gradients_that_do_not_fit_are_refused() -> None:
    """Another shape or number format is named with the layer."""
    layer = Gemm("linear", some(5, 7), some(4, 7))
    with pytest.raises(Refused, match=r"linear: its output is \(5, 4\), the gradient \(4, 5\)"):
        backward(layer, some(4, 5))
    with pytest.raises(Refused, match="gradients in bf16 beside int8"):
        backward(layer, some(5, 4).bf16())
