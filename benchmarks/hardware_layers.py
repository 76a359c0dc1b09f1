"""Layer sets of well-known shapes with drawn numbers, for benchmarks of simulated machines: BERT-base and ResNet-50.

Shapes are those of the models; numbers are drawn, with so many zeros, so that a benchmark needs no model. Zeros fall anywhere
(``cluster=0``) or gather in channels: each channel's share of zeros is drawn from a beta distribution whose mean is ``zeros``
and whose spread grows with ``cluster`` (0 none … 1 channels that are all zero or all dense), as ReLU leaves them.

    for layer in bert_base(zeros=0.5):
        layer_cost(layer, machine, how)

Layers are made one by one as they are asked for; the same seed gives the same numbers.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from sparsam.workload import FORMATS, Attention, Conv, Gemm, Layer, Tensor, bf16_bits


def drawn(
    draw: np.random.Generator,
    shape: tuple[int, ...],
    zeros: float = 0.0,
    *,
    format: str = "int8",
    cluster: float = 0.0,
    channel: int = -1,
) -> Tensor:
    """Numbers of a bell curve, none zero by itself, then so many set to zero.

    Args:
        draw: the random numbers.
        shape: of the tensor.
        zeros: share of zeros, on average.
        format: ``int8``, ``int16`` or ``bf16``.
        cluster: 0 … 1, how much zeros gather in channels.
        channel: axis of the channels.
    """
    share: NDArray[np.float32] | float = zeros
    if cluster > 0 and 0 < zeros < 1:
        weight = max((1 - cluster) / cluster, 1e-3)
        shares = draw.beta(zeros * weight, (1 - zeros) * weight, shape[channel])
        axis = channel % len(shape)
        share = shares.astype(np.float32).reshape([-1 if i == axis else 1 for i in range(len(shape))])
    real = draw.standard_normal(shape, np.float32)
    alive = draw.random(shape, np.float32) >= share if zeros > 0 else np.True_
    if format == "bf16":
        real = np.where(real == 0, np.float32(1), real)
        return Tensor(bf16_bits(np.where(alive, real, np.float32(0))), "bf16")
    most = {"int8": 127, "int16": 32767}[format]
    steps = np.clip(np.rint(np.abs(real) * (most / 4)), 1, most)  # four standard deviations span the grid
    values = np.where(alive, np.copysign(steps, real), 0).astype(FORMATS[format])
    return Tensor(values, format, 4 / most)


def bert_base(
    tokens: int = 384,
    *,
    zeros: float = 0.5,
    weight_zeros: float = 0.0,
    cluster: float = 0.0,
    format: str = "int8",
    layers: int = 12,
    attention: bool = True,
    seed: int = 0,
) -> Iterator[Layer]:
    """The products of BERT-base on one sequence: six linear layers and one attention in each of 12 layers.

    Widths are 768 and 3072, with 12 heads. ``zeros`` are those of inputs of linear layers; queries, keys and values are dense.
    """
    draw, d, f, h = np.random.default_rng(seed), 768, 3072, 12
    for number in range(layers):
        linears = [
            ("query", d, d),
            ("key", d, d),
            ("value", d, d),
            ("output", d, d),
            ("up", d, f),
            ("down", f, d),
        ]
        for name, wide, out in linears:
            if name == "output" and attention:
                q, k, v = (drawn(draw, (tokens, h, d // h), format=format) for _ in range(3))
                length = np.array([tokens], np.int64)
                yield Attention(f"layer.{number}.attention", q, k, v, length, (d // h) ** -0.5)
            a = drawn(draw, (tokens, wide), zeros, format=format, cluster=cluster)
            yield Gemm(f"layer.{number}.{name}", a, drawn(draw, (out, wide), weight_zeros, format=format))


def resnet50(
    image: int = 224,
    *,
    zeros: float = 0.5,
    weight_zeros: float = 0.0,
    cluster: float = 0.0,
    format: str = "int8",
    seed: int = 0,
) -> Iterator[Layer]:
    """The 53 convolutions and the last linear layer of ResNet-50 on one image (stride in the 3 x 3 convolution).

    ``zeros`` are those of inputs behind a ReLU; the image is dense.
    """
    draw = np.random.default_rng(seed)

    def conv(name: str, c: int, size: int, o: int, kernel: int, stride: int, share: float) -> Conv:
        x = drawn(draw, (1, c, size, size), share, format=format, cluster=cluster, channel=1)
        weight = drawn(draw, (o, c, kernel, kernel), weight_zeros, format=format)
        pad = kernel // 2
        return Conv(name, x, weight, (stride, stride), (pad, pad))

    yield conv("stem", 3, image, 64, 7, 2, 0.0)
    size, c = image // 4, 64
    for stage, (blocks, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), 1):
        for block in range(blocks):
            stride = 2 if block == 0 and stage > 1 else 1
            name = f"stage.{stage}.{block}"
            yield conv(f"{name}.reduce", c, size, width, 1, 1, zeros)
            yield conv(f"{name}.middle", width, size, width, 3, stride, zeros)
            if block == 0:
                yield conv(f"{name}.shortcut", c, size, 4 * width, 1, stride, zeros)
            size //= stride
            yield conv(f"{name}.expand", width, size, 4 * width, 1, 1, zeros)
            c = 4 * width
    yield Gemm(
        "classifier", drawn(draw, (1, c), format=format), drawn(draw, (1000, c), weight_zeros, format=format)
    )
