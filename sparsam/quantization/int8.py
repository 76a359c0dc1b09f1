"""int8: products in integers of eight bits, after training or at its end. Settings alone; tensors are the other files' matter.

Weights: symmetric, one scale an output. Inputs: affine, each token on a grid of its own while the model runs, or all on one
that calibration gave; the latter is worked out in either case, because other runtimes need it. What is done to lose less, and
where it comes from, stands in :mod:`~sparsam.quantization.uniform` and :mod:`~sparsam.quantization.calibrate`.
"""

from dataclasses import dataclass

from sparsam.errors import Usage
from sparsam.quantization.calibrate import ACIQ, KL, MSE, MinMax, MovingAverage, Percentile, RangeMethod

RANGES: dict[str, RangeMethod] = {
    "minmax": MinMax(),
    "ema": MovingAverage(),
    "percentile": Percentile(),
    "mse": MSE(),
    "kl": KL(),
    "aciq": ACIQ(),
}
"""Where the calibrated grid of inputs ends, by name."""

CLIPS: dict[str, MinMax | MSE] = {"minmax": MinMax(), "mse": MSE()}
"""Where an output's weights end, by name."""

SAMPLES = 512
"""Calibration samples: as many as papers take at most. Chosen by us."""

EMBEDDINGS = ("auto", "8", "none")

MIXED = "mixed"
"""Bits that are chosen product by product (:mod:`~sparsam.quantization.mixed`)."""

SENSITIVITIES = ("kl", "hessian", "fisher")
"""How what a product loses is looked at where bits are mixed."""


@dataclass(frozen=True)
class Int8:
    """Settings of the method.

    Args:
        bits: of the products' weights, 2 to 8, or ``mixed``; inputs have eight. This machine's products take the same time at
            all of them: fewer are for size.
        sensitivity: of mixed bits: ``kl`` looks at answers while one product is rounded, ``hessian`` and ``fisher`` at
            derivatives; ``kl`` if None.
        bitops: what mixed bits may take of the bit operations (MACs times the bits of either side) of eight bits.
        inputs: ``token`` rounds each token on a grid of its own, ``tensor`` all on the calibrated one.
        clip: ``minmax`` ends an output's weights at the largest, ``mse`` where their squared error is least. At eight bits the
            former is nearer to the dense model's answers (docs/methods/int8.md) and taken if None, with fewer the latter.
        range: where the calibrated grid of inputs ends: ``minmax``, ``ema``, ``percentile``, ``mse``, ``kl`` or
            ``aciq``.
        samples: of the training rows to calibrate on, drawn with lengths like those of use; 512, or as many as there are, if
            None.
        correct: move what rounded weights change in the mean outputs into the biases; at eight bits it changes nothing that
            could be measured.
        smooth: SmoothQuant's share of the inputs' differences that moves into the weights, 0 to 1; none if None.
        embeddings: ``8`` bits for the words' embeddings, ``none`` leaves them; ``auto`` is 8 where a model reads words.
        qat_epochs: epochs of training with rounded weights and inputs, from the dense model's answers; none by default.
        qat_lr: its peak learning rate.
        distill: share of the loss that comes from the dense model's answers, while training.
    """

    bits: int | str = 8
    sensitivity: str | None = None
    bitops: float | None = None
    inputs: str = "token"
    clip: str | None = None
    range: str = "mse"
    samples: int | None = None
    correct: bool = False
    smooth: float | None = None
    embeddings: str = "auto"
    qat_epochs: float = 0.0
    qat_lr: float = 2e-5
    distill: float = 0.9

    def __post_init__(self) -> None:
        whole = isinstance(self.bits, int) and not isinstance(self.bits, bool)
        if self.bits != MIXED and not (whole and self.bits in range(2, 9)):
            raise Usage(f"bits is 2 to 8, or {MIXED}; got {self.bits!r}.", code="method-settings")
        if self.sensitivity not in (None, *SENSITIVITIES):
            raise Usage(
                f"sensitivity is one of {', '.join(SENSITIVITIES)}; got {self.sensitivity!r}.",
                code="method-settings",
            )
        if self.bits != MIXED and (self.sensitivity, self.bitops) != (None, None):
            raise Usage(
                f"sensitivity and bitops choose between bits; got bits={self.bits!r}. Give bits={MIXED!r}.",
                code="method-settings",
            )
        if self.bitops is not None and not 0 < self.bitops <= 16:
            raise Usage(
                f"bitops is a share of what eight bits take, above 0 and at most 16 (all in floating point); got "
                f"{self.bitops!r}.",
                code="method-settings",
            )
        for name, choices in (
            ("inputs", ("token", "tensor")),
            ("clip", (None, *CLIPS)),
            ("range", tuple(RANGES)),
            ("embeddings", EMBEDDINGS),
        ):
            if getattr(self, name) not in choices:
                raise Usage(
                    f"{name} is one of {', '.join(one for one in choices if one is not None)}; got {getattr(self, name)!r}.",
                    code="method-settings",
                )
        if self.samples is not None and self.samples < 1:
            raise Usage(f"samples must be at least 1; got {self.samples!r}.", code="method-settings")
        for name in ("smooth", "distill"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise Usage(f"{name} lies in [0, 1]; got {value!r}.", code="method-settings")
        if not self.qat_epochs >= 0 or not self.qat_lr > 0:
            raise Usage(
                f"qat_epochs must be 0 or more and qat_lr above 0; got {self.qat_epochs!r} and {self.qat_lr!r}.",
                code="method-settings",
            )

    def ends(self, bits: int) -> MinMax | MSE:
        """Where an output's weights of so many bits end."""
        return CLIPS[self.clip or ("minmax" if bits == 8 else "mse")]

    @property
    def widest(self) -> int:
        """Bits of every product, or with mixed ones those that integers have at most."""
        return self.bits if isinstance(self.bits, int) else 8
