"""PWLQ on a convolutional network with BatchNorm that is trained here for a minute: Fashion-MNIST, from the shared folder."""

import os
from pathlib import Path
from typing import Any

import pytest

from sparsam.quantization.pwlq import quantize_pwlq, uniform

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

pytestmark = [
    pytest.mark.data,
    pytest.mark.slow,
    pytest.mark.timeout(1200),  # three epochs on 20,000 images
    pytest.mark.skipif(
        os.environ.get("SPARSAM_LONG") != "1", reason="takes minutes; SPARSAM_LONG=1 asks for it"
    ),
]


def test_four_bits_lose_less_than_a_point(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of 4 bits, inputs of 8, biases corrected: within a point of float32 on 10,000 images, and nearer than uniform."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setenv("SPARSAM_SHARED", str(shared))
    import pwlq_images
    import resnet9

    images, labels = resnet9.read("fashion_mnist", "train")
    model = resnet9.ResNet9(1, 8)
    assert resnet9.train(model, images[:20_000], labels[:20_000], 3)
    network: Any = pwlq_images.Calibrated(model, images)
    images, labels = resnet9.read("fashion_mnist", "test")

    def answers(rounding: Any, correction: str = "bias") -> tuple[int, float]:
        scores = resnet9.scores_of(network.rounded(rounding, correction, "8"), images)
        return int((scores.argmax(1) == labels).sum()), float((scores - exact).abs().mean())

    exact = resnet9.scores_of(model, images)
    right = int((exact.argmax(1) == labels).sum())
    assert right > 8500
    pieces, moved = answers(lambda w: quantize_pwlq(w, 4, form="int8").dequantized())
    coarse, coarsely = answers(lambda w: uniform(w, 4, clip=False))
    _, uncorrected = answers(lambda w: quantize_pwlq(w, 4, form="int8").dequantized(), "none")
    assert pieces >= right - 100
    assert pieces > coarse - 20 and moved < 0.7 * coarsely
    assert moved < uncorrected
