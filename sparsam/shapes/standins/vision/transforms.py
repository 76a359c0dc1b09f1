"""Transforms of pictures. What chance decides is decided both ways where it changes a size, and not at all elsewhere."""

import numbers
from collections.abc import Callable
from typing import Any

import torch

from sparsam.shapes.run import current
from sparsam.shapes.standins.lengths import chosen, value
from sparsam.shapes.standins.vision import functional as F
from sparsam.shapes.standins.vision.functional import InterpolationMode

__all__ = ["F", "InterpolationMode", "functional"]
functional = F


class Transform(torch.nn.Module):
    """Base of the transforms."""

    def forward(self, *inputs: Any) -> Any:
        """The picture transformed; of several inputs (a picture and its target) the pictures."""
        if len(inputs) == 1:
            return self._of(inputs[0])
        return tuple(self._of(item) if _picture(item) else item for item in inputs)

    def _of(self, image: Any) -> Any:
        raise NotImplementedError


def _picture(item: Any) -> bool:
    return F.pictured(item) is not None or (isinstance(item, torch.Tensor) and item.dim() >= 2)


def _pair(size: Any, message: str = "Please provide only two dimensions (h, w) for size.") -> tuple[Any, Any]:
    if isinstance(size, (list, tuple)):
        if len(size) == 1:
            return size[0], size[0]
        if len(size) != 2:
            raise ValueError(message)
        return size[0], size[1]
    return size, size


class Compose:
    """One after the other."""

    def __init__(self, transforms: Any) -> None:
        self.transforms = transforms

    def __call__(self, *inputs: Any) -> Any:
        for transform in self.transforms:
            made = transform(*inputs)
            inputs = made if len(inputs) > 1 and isinstance(made, tuple) else (made,)
        return inputs if len(inputs) > 1 else inputs[0]


class Sequential(Compose):
    """Another name of the same."""


class ToTensor:
    """A picture or array as a tensor (channels, height, width)."""

    def __call__(self, image: Any) -> torch.Tensor:
        return F.to_tensor(image)


class PILToTensor(Transform):
    """A picture as a tensor of bytes."""

    def _of(self, image: Any) -> torch.Tensor:
        return F.pil_to_tensor(image)


class ToImage(Transform):
    """A picture or array as a tensor of the same type."""

    def _of(self, image: Any) -> torch.Tensor:
        return F.to_image(image)


class ToPILImage:
    """A tensor or array as a picture."""

    def __init__(self, mode: str | None = None) -> None:
        self.mode = mode

    def __call__(self, image: Any) -> Any:
        return F.to_pil_image(image, self.mode)


class ConvertImageDtype(Transform):
    """The same picture in another type."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.dtype = dtype

    def _of(self, image: Any) -> Any:
        return F.convert_image_dtype(image, self.dtype)


class ToDtype(Transform):
    """The same picture in another type."""

    def __init__(self, dtype: Any, scale: bool = False) -> None:
        super().__init__()
        self.dtype = dtype if isinstance(dtype, torch.dtype) else next(iter(dtype.values()))

    def _of(self, image: Any) -> Any:
        return F.to_dtype(image, self.dtype)


class Normalize(Transform):
    """Less the mean and divided by the deviation of each channel."""

    def __init__(self, mean: Any, std: Any, inplace: bool = False) -> None:
        super().__init__()
        self.mean, self.std, self.inplace = mean, std, inplace

    def _of(self, image: Any) -> torch.Tensor:
        return F.normalize(image, self.mean, self.std, self.inplace)


class Resize(Transform):
    """To (height, width), or with the shorter side as long as one number says."""

    def __init__(
        self, size: Any, interpolation: Any = None, max_size: Any = None, antialias: Any = True
    ) -> None:
        super().__init__()
        if isinstance(size, (list, tuple)) and len(size) not in (1, 2):
            raise ValueError("If size is a sequence, it should have 1 or 2 values")
        self.size, self.max_size = size, max_size

    def _of(self, image: Any) -> Any:
        return F.resize(image, self.size, max_size=self.max_size)


Scale = Resize


class CenterCrop(Transform):
    """The middle part."""

    def __init__(self, size: Any) -> None:
        super().__init__()
        self.size = _pair(size)

    def _of(self, image: Any) -> Any:
        return F.center_crop(image, self.size)


class Pad(Transform):
    """With a border."""

    def __init__(self, padding: Any, fill: Any = 0, padding_mode: str = "constant") -> None:
        super().__init__()
        if isinstance(padding, (list, tuple)) and len(padding) not in (1, 2, 4):
            raise ValueError(
                f"Padding must be an int or a 1, 2, or 4 element tuple, not a {len(padding)} element tuple"
            )
        self.padding, self.padding_mode = padding, padding_mode

    def _of(self, image: Any) -> Any:
        return F.pad(image, self.padding, padding_mode=self.padding_mode)


class RandomCrop(Transform):
    """A part at a random place.

    Raises:
        ValueError: On a picture that is smaller.
    """

    def __init__(
        self,
        size: Any,
        padding: Any = None,
        pad_if_needed: bool = False,
        fill: Any = 0,
        padding_mode: str = "constant",
    ) -> None:
        super().__init__()
        self.size, self.padding, self.pad_if_needed, self.padding_mode = (
            _pair(size),
            padding,
            pad_if_needed,
            padding_mode,
        )

    def _of(self, image: Any) -> Any:
        if self.padding is not None:
            image = F.pad(image, self.padding, padding_mode=self.padding_mode)
        width, height = F.get_image_size(image)
        rows, columns = self.size
        if not self.pad_if_needed and (height < rows or width < columns):
            raise ValueError(
                f"Required crop size {self.size} is larger than input image size {(height, width)}"
            )
        return F.crop(image, 0, 0, rows, columns)


class RandomResizedCrop(Transform):
    """A random part, made as large as the size says."""

    def __init__(
        self,
        size: Any,
        scale: Any = (0.08, 1.0),
        ratio: Any = (0.75, 4 / 3),
        interpolation: Any = None,
        antialias: Any = True,
    ) -> None:
        super().__init__()
        self.size = _pair(size)

    def _of(self, image: Any) -> Any:
        return F.resize(image, self.size)


RandomSizedCrop = RandomResizedCrop


class FiveCrop(Transform):
    """The four corners and the middle."""

    def __init__(self, size: Any) -> None:
        super().__init__()
        self.size = _pair(size)

    def _of(self, image: Any) -> Any:
        return F.five_crop(image, self.size)


class TenCrop(FiveCrop):
    """The same ten times."""

    def __init__(self, size: Any, vertical_flip: bool = False) -> None:
        super().__init__(size)

    def _of(self, image: Any) -> Any:
        return F.ten_crop(image, self.size)


class Grayscale(Transform):
    """Grey, with one channel or three equal ones."""

    def __init__(self, num_output_channels: int = 1) -> None:
        super().__init__()
        self.num_output_channels = num_output_channels

    def _of(self, image: Any) -> Any:
        return F.to_grayscale(image, self.num_output_channels)


class RandomGrayscale(Transform):
    """Grey by chance, with as many channels as before."""

    def __init__(self, p: float = 0.1) -> None:
        super().__init__()
        self.p = p

    def _of(self, image: Any) -> Any:
        return F.kept(image)


class RandomRotation(Transform):
    """Turned by a random angle."""

    def __init__(
        self, degrees: Any, interpolation: Any = None, expand: bool = False, center: Any = None, fill: Any = 0
    ) -> None:
        super().__init__()
        if isinstance(degrees, numbers.Number) and degrees < 0:  # type: ignore[operator]
            raise ValueError("If degrees is a single number, it must be positive.")
        self.expand = expand

    def _of(self, image: Any) -> Any:
        if not self.expand:
            return F.kept(image)
        grown = value("width of a turned picture", 1), value("height of a turned picture", 1)
        return F.sized(F.checked(image), grown[1], grown[0])


class RandomErasing(Transform):
    """A tensor with a random part painted over."""

    def __init__(
        self,
        p: float = 0.5,
        scale: Any = (0.02, 0.33),
        ratio: Any = (0.3, 3.3),
        value: Any = 0,
        inplace: bool = False,
    ) -> None:
        super().__init__()

    def _of(self, image: Any) -> Any:
        return F.erase(image, 0, 0, 1, 1, 0)


class Lambda(Transform):
    """A function of the program.

    Raises:
        TypeError: If it cannot be called.
    """

    def __init__(self, lambd: Callable[[Any], Any], *types: Any) -> None:
        super().__init__()
        if not callable(lambd):
            raise TypeError(f"Argument lambd should be callable, got {type(lambd)!r}")
        self.lambd = lambd

    def forward(self, *inputs: Any) -> Any:
        """The function's value."""
        return self.lambd(*inputs)


class Identity(Transform):
    """The picture as it is."""

    def _of(self, image: Any) -> Any:
        return image


def _happens(p: Any) -> bool:
    if isinstance(p, (int, float)) and (p <= 0 or p >= 1):
        return p >= 1
    run = current()
    return True if run is None else bool(run.shapes.truth("whether a transform is applied"))


class RandomApply(Transform):
    """All of them, by chance."""

    def __init__(self, transforms: Any, p: float = 0.5) -> None:
        super().__init__()
        self.transforms, self.p = transforms, p

    def _of(self, image: Any) -> Any:
        if all(isinstance(transform, _Kept) for transform in self.transforms):
            return F.kept(image)
        if _happens(self.p):
            for transform in self.transforms:
                image = transform(image)
        return image


class RandomChoice(Transform):
    """One of them, by chance."""

    def __init__(self, transforms: Any, p: Any = None) -> None:
        super().__init__()
        self.transforms = transforms

    def _of(self, image: Any) -> Any:
        if all(isinstance(transform, _Kept) for transform in self.transforms):
            return F.kept(image)
        return chosen("which transform is applied", list(self.transforms))(image)


class RandomOrder(Transform):
    """All of them, in any order; here as they stand."""

    def __init__(self, transforms: Any) -> None:
        super().__init__()
        self.transforms = transforms

    def _of(self, image: Any) -> Any:
        run = current()
        if run is not None and not all(isinstance(transform, _Kept) for transform in self.transforms):
            run.unknown("unmodelled-call", "RandomOrder is tried in one order only")
        for transform in self.transforms:
            image = transform(image)
        return image


class LinearTransformation(Transform):
    """A tensor as a vector times a matrix.

    Raises:
        ValueError: If the matrix is not square, or does not fit the picture.
    """

    def __init__(self, transformation_matrix: torch.Tensor, mean_vector: torch.Tensor) -> None:
        super().__init__()
        if transformation_matrix.size(0) != transformation_matrix.size(1):
            raise ValueError("transformation_matrix should be square.")
        self.transformation_matrix = transformation_matrix

    def _of(self, image: Any) -> Any:
        count = image.shape[-3] * image.shape[-2] * image.shape[-1]
        if count != self.transformation_matrix.shape[0]:
            raise ValueError("Input tensor and transformation matrix have incompatible shape.")
        return F.kept(image)


class _Kept(Transform):
    """Changes colours or places and leaves a picture's sizes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def _of(self, image: Any) -> Any:
        return F.kept(image)


class ColorJitter(_Kept):
    """Random colours."""


class RandomHorizontalFlip(_Kept):
    """Left for right by chance."""


class RandomVerticalFlip(_Kept):
    """Top for bottom by chance."""


class RandomAffine(_Kept):
    """A random affine map."""


class RandomPerspective(_Kept):
    """A random perspective."""


class GaussianBlur(_Kept):
    """Blurred."""


class RandomInvert(_Kept):
    """Inverted by chance."""


class RandomPosterize(_Kept):
    """With fewer bits by chance."""


class RandomSolarize(_Kept):
    """Solarized by chance."""


class RandomAdjustSharpness(_Kept):
    """Sharper by chance."""


class RandomAutocontrast(_Kept):
    """With more contrast by chance."""


class RandomEqualize(_Kept):
    """Equalized by chance."""


class ElasticTransform(_Kept):
    """Distorted."""


class AutoAugment(_Kept):
    """A policy of changes."""


class RandAugment(_Kept):
    """Random changes."""


class TrivialAugmentWide(_Kept):
    """A random change."""


class AugMix(_Kept):
    """Mixed changes."""


class AutoAugmentPolicy:
    """Names of policies."""

    IMAGENET, CIFAR10, SVHN = "imagenet", "cifar10", "svhn"
