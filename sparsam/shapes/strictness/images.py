"""Pooling, convolution, interpolation and normalisation."""

from collections.abc import Mapping
from typing import Any

import torch

from sparsam.shapes.strictness.sizes import Check, numel, printed


def adaptive(a: dict[str, Any]) -> None:
    """Adaptive pooling has something to pool."""
    tensor = a["self"]
    first = tensor.dim() - 2 if a["name"].endswith("2d") else 1
    for dim in range(max(first, 1), tensor.dim()):
        torch._check(
            tensor.shape[dim] != 0,
            lambda dim=dim: (
                f"{a['name'].strip('_')}(): Expected input to have non-zero size for non-batch dimensions, but input has "
                f"sizes {printed(tensor)} with dimension {dim} being empty"
            ),
        )


def convolution(a: dict[str, Any]) -> None:
    """A kernel has a size unless it is for no channels at all, and a transposed convolution gives something."""
    tensor, weight = a["self"], a["weight"]
    kernel = weight.shape[2:]
    for size in kernel:
        torch._check(
            size != 0 or (not a["transposed"] and weight.shape[1] == 0),
            lambda: f"kernel size should be greater than zero, but got {' x '.join(str(k) for k in kernel)}",
        )
    if not a["transposed"]:
        return
    torch._check(
        weight.shape[1] != 0, lambda: f"non-empty weight tensor expected, but got {tuple(weight.shape)}"
    )
    if tensor.dim() != weight.dim():
        return
    count = len(kernel)
    stride, padding, dilation, more = (
        list(a[name]) * (count if len(a[name]) == 1 else 1)
        for name in ("stride", "padding", "dilation", "output_padding")
    )
    sizes = [
        (tensor.shape[2 + i] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (kernel[i] - 1) + more[i] + 1
        for i in range(count)
    ]
    for size in sizes:
        torch._check(
            size >= 1,
            lambda: (
                f"Given input size per channel: ({' x '.join(str(s) for s in tensor.shape[2:])}). Calculated output size "
                f"per channel: ({' x '.join(str(s) for s in sizes)}). Output size is too small"
            ),
        )


def grid_sampler(a: dict[str, Any]) -> None:
    """There are points to sample from."""
    tensor = a["self"]
    for dim in range(2, tensor.dim()):
        torch._check(
            tensor.shape[dim] != 0,
            lambda dim=dim: (
                "grid_sampler(): expected input to have non-empty spatial dimensions, but input has sizes "
                f"{printed(tensor)} with dimension {dim} being empty"
            ),
        )


def nearest(a: dict[str, Any]) -> None:
    """There is something to interpolate between, and something comes out."""
    tensor, asked = a["self"], a["output_size"]
    sizes = [*tensor.shape[2:], *(asked or ())]
    for size in sizes:
        torch._check(
            size > 0,
            lambda: (
                f"Input and output sizes should be greater than 0, but got input ({printed(tensor)}) output ({asked})"
            ),
        )


def upsample(a: dict[str, Any]) -> None:
    """As `nearest`, with channels."""
    nearest(a)
    tensor = a["self"]
    if tensor.dim() > 1:
        torch._check(
            tensor.shape[1] != 0,
            lambda: (
                f"Non-empty {tensor.dim()}D data tensor expected but got a tensor with sizes {printed(tensor)}"
            ),
        )


def batch_norm(a: dict[str, Any]) -> None:
    """Statistics are taken of something, and kept in vectors."""
    parameters(a)
    for name in ("running_mean", "running_var"):
        kept = a.get(name)
        if kept is not None:
            torch._check(
                kept.dim() == 1,
                lambda kept=kept: f"TensorAccessor expected 1 dims but tensor has {kept.dim()}",
            )
    if a.get("training", a.get("train", True)):
        torch._check(
            numel(a["self"]) != 0,
            lambda: (
                f"input tensor must have at least one element, but got input_sizes = {printed(a['self'])}"
            ),
        )


def parameters(a: dict[str, Any]) -> None:
    """Weight, bias and statistics have one number for each channel; kernels would read past their end."""
    tensor = a["self"]
    if tensor.dim() < 2:
        return
    for name in ("weight", "bias", "running_mean", "running_var"):
        given = a.get(name)
        if given is not None:
            torch._check(
                numel(given) == tensor.shape[1],
                lambda given=given, name=name: (
                    f"{name} should contain {tensor.shape[1]} elements not {numel(given)}"
                ),
            )


def group_norm(a: dict[str, Any]) -> None:
    """Weight and bias have one number for each channel."""
    for name in ("weight", "bias"):
        given = a[name]
        if given is not None:
            torch._check(
                given.dim() == 1 and given.shape[0] == a["C"],
                lambda given=given, name=name: (
                    f"Expected {name} to be a vector of size equal to the number of channels in input, but got {name} "
                    f"of shape {printed(given)} and input of shape {printed(a['self'])}"
                ),
            )


CHECKS: Mapping[str, Check] = {
    "aten::_adaptive_avg_pool2d": adaptive,
    "aten::_adaptive_avg_pool3d": adaptive,
    "aten::convolution": convolution,
    "aten::grid_sampler_2d": grid_sampler,
    "aten::grid_sampler_3d": grid_sampler,
    "aten::upsample_nearest1d": nearest,
    "aten::upsample_nearest2d": nearest,
    "aten::upsample_nearest3d": nearest,
    "aten::_upsample_nearest_exact1d": nearest,
    "aten::_upsample_nearest_exact2d": nearest,
    "aten::_upsample_nearest_exact3d": nearest,
    "aten::upsample_linear1d": upsample,
    "aten::upsample_bilinear2d": upsample,
    "aten::upsample_bicubic2d": upsample,
    "aten::upsample_trilinear3d": upsample,
    "aten::native_batch_norm": batch_norm,
    "aten::_native_batch_norm_legit": batch_norm,
    "aten::_batch_norm_with_update": batch_norm,
    "aten::native_group_norm": group_norm,
}
