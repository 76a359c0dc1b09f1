"""Functions on pictures and on tensors that are pictures: (…, channels, rows, columns)."""

import enum
from collections.abc import Sequence
from typing import Any

import torch

from sparsam.shapes.environment import symbolic
from sparsam.shapes.standins.arrays import tensor_of
from sparsam.shapes.standins.pictures import PILLOW, Picture, from_array

if PILLOW:
    from PIL import Image as pil


class InterpolationMode(enum.Enum):
    """How pixels are interpolated."""

    NEAREST = "nearest"
    NEAREST_EXACT = "nearest-exact"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"
    HAMMING = "hamming"
    LANCZOS = "lanczos"


def pictured(image: Any) -> Picture | None:
    """A picture without pixels for a real one or one of ours; None for anything else."""
    if isinstance(image, Picture):
        return image
    if PILLOW and isinstance(image, pil.Image):
        return Picture(image.mode, image.size)
    return None


def checked(image: Any) -> Any:
    """A picture without pixels, or a tensor.

    Raises:
        TypeError: For anything else.
    """
    picture = pictured(image)
    if picture is not None:
        return picture
    if isinstance(image, torch.Tensor) and image.dim() >= 2:
        return image
    raise TypeError(f"Unexpected type {type(image)}")


def get_image_size(image: Any) -> list[Any]:
    """[width, height]."""
    image = checked(image)
    return list(image.size) if isinstance(image, Picture) else [image.shape[-1], image.shape[-2]]


def get_dimensions(image: Any) -> list[Any]:
    """[channels, height, width]."""
    image = checked(image)
    if isinstance(image, Picture):
        return [image.channels, image.height, image.width]
    return [1 if image.dim() == 2 else image.shape[-3], image.shape[-2], image.shape[-1]]


def get_image_num_channels(image: Any) -> Any:
    """Number of channels."""
    return get_dimensions(image)[0]


def sized(image: Any, height: Any, width: Any) -> Any:
    """A picture of the same kind and other sizes."""
    if isinstance(image, Picture):
        return image._like(size=(width, height))
    return image.new_empty((*image.shape[:-2], height, width))


def to_tensor(image: Any) -> torch.Tensor:
    """(channels, height, width), float32 for bytes.

    Raises:
        TypeError: If it is no picture and no array.
        ValueError: If an array has neither two nor three dimensions.
    """
    picture = pictured(image)
    if picture is not None:
        kinds = {"I": torch.int32, "I;16": torch.int16, "F": torch.float32}
        kind = kinds.get(picture.mode, torch.get_default_dtype())
        return torch.empty((picture.channels, picture.height, picture.width), dtype=kind)
    array = None if isinstance(image, torch.Tensor) else tensor_of(image, real=True)
    if array is None:
        raise TypeError(f"pic should be PIL Image or ndarray. Got {type(image)}")
    if array.dim() not in (2, 3):
        raise ValueError(f"pic should be 2/3 dimensional. Got {array.dim()} dimensions.")
    if array.dim() == 2:
        array = array[:, :, None]
    array = array.permute(2, 0, 1).contiguous()
    return array.to(torch.get_default_dtype()) if array.dtype == torch.uint8 else array


def pil_to_tensor(image: Any) -> torch.Tensor:
    """(channels, height, width) of bytes.

    Raises:
        TypeError: If it is no picture.
    """
    picture = pictured(image)
    if picture is None:
        raise TypeError(f"pic should be PIL Image. Got {type(image)}")
    return torch.empty((picture.channels, picture.height, picture.width), dtype=torch.uint8)


def to_image(image: Any) -> torch.Tensor:
    """A picture or an array as a tensor of the same type."""
    if isinstance(image, torch.Tensor):
        return image
    picture = pictured(image)
    if picture is not None:
        return pil_to_tensor(picture)
    array = tensor_of(image, real=True)
    if array is None:
        raise TypeError(
            f"Input can either be a pure Tensor, a numpy array, or a PIL image, but got {type(image)} instead."
        )
    return array.permute(2, 0, 1) if array.dim() == 3 else array[None]


def convert_image_dtype(image: torch.Tensor, dtype: torch.dtype = torch.float) -> torch.Tensor:
    """The same picture in another type."""
    return image.to(dtype)


def to_dtype(image: Any, dtype: torch.dtype = torch.float, scale: bool = False) -> Any:
    """The same picture in another type."""
    return image.to(dtype) if isinstance(image, torch.Tensor) else image


def to_pil_image(image: Any, mode: str | None = None) -> Any:
    """A picture of a tensor (channels, height, width), or an array (height, width, channels).

    Raises:
        TypeError: If it is neither.
        ValueError: If it has another number of dimensions, or more than four channels.
    """
    if isinstance(image, torch.Tensor):
        if image.dim() not in (2, 3):
            raise ValueError(f"pic should be 2/3 dimensional. Got {image.dim()} dimensions.")
        if image.dim() == 2:
            image = image.unsqueeze(0)
        if image.shape[-3] > 4:
            raise ValueError(f"pic should not have > 4 channels. Got {image.shape[-3]} channels.")
        modes = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
        return Picture(mode or modes[int(image.shape[0])], (image.shape[2], image.shape[1]))
    array = tensor_of(image, real=True)
    if array is None:
        raise TypeError(f"pic should be Tensor or ndarray. Got {type(image)}.")
    if array.dim() == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    from sparsam.shapes.standins.arrays import wrapped

    return from_array(wrapped(array), mode)


def normalize(tensor: torch.Tensor, mean: Any, std: Any, inplace: bool = False) -> torch.Tensor:
    """Less the mean and divided by the deviation of each channel, in place of a copy.

    Raises:
        TypeError: If it is no tensor, or not of floats.
        ValueError: If it has fewer than three dimensions, or a deviation is 0.
    """
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"img should be Tensor Image. Got {type(tensor)}")
    if not tensor.is_floating_point():
        raise TypeError(f"Input tensor should be a float tensor. Got {tensor.dtype}.")
    if tensor.dim() < 3:
        raise ValueError(
            f"Expected tensor to be a tensor image of size (..., C, H, W). Got tensor.size() = {tuple(tensor.shape)}"
        )
    plain = std if isinstance(std, (list, tuple)) else [std]
    if any(isinstance(part, (int, float)) and part == 0 for part in plain):
        raise ValueError("std evaluated to zero after conversion, leading to division by zero.")
    if not inplace:
        tensor = tensor.clone()
    for op, values in ((tensor.sub_, mean), (tensor.div_, std)):
        if not isinstance(values, torch.Tensor):
            values = torch.empty((len(values),) if isinstance(values, Sequence) else (), dtype=tensor.dtype)
        op(values.view(-1, 1, 1) if values.dim() == 1 else values)
    return tensor


def resize(
    image: Any, size: Any, interpolation: Any = None, max_size: Any = None, antialias: Any = True
) -> Any:
    """To (height, width), or with the shorter side as long as one number says.

    Raises:
        ValueError: If the size has neither one nor two numbers, or is not positive.
    """
    image = checked(image)
    if isinstance(size, (list, tuple)) and len(size) not in (1, 2):
        raise ValueError("If size is a sequence, it should have 1 or 2 values")
    if isinstance(size, (list, tuple)) and len(size) == 2:
        height, width = size
    else:
        side = size[0] if isinstance(size, (list, tuple)) else size
        width, height = get_image_size(image)
        shorter = torch.sym_min(width, height)
        if max_size is None:
            width, height = _scaled(width, side, shorter), _scaled(height, side, shorter)
        else:
            longer = torch.sym_max(width, height)
            if side * longer > max_size * shorter:
                width, height = _scaled(width, max_size, longer), _scaled(height, max_size, longer)
            else:
                width, height = _scaled(width, side, shorter), _scaled(height, side, shorter)
    if not height > 0 or not width > 0:
        raise ValueError("height and width must be > 0")
    return sized(image, height, width)


def _scaled(length: Any, side: Any, shorter: Any) -> Any:
    same = not symbolic(length) and not symbolic(shorter) and length == shorter
    return side if same else (length * side) // shorter


def pad(image: Any, padding: Any, fill: Any = 0, padding_mode: str = "constant") -> Any:
    """With a border: one number for all sides, (left and right, top and bottom), or (left, top, right, bottom).

    Raises:
        ValueError: If there are three, or more than four.
    """
    image = checked(image)
    sides = tuple(padding) if isinstance(padding, (list, tuple)) else (padding,)
    if len(sides) not in (1, 2, 4):
        raise ValueError(
            f"Padding must be an int or a 1, 2, or 4 element tuple, not a {len(sides)} element tuple"
        )
    left, top, right, bottom = sides if len(sides) == 4 else sides * (4 // len(sides))
    width, height = get_image_size(image)
    if padding_mode == "reflect" and not (
        left < width and right < width and top < height and bottom < height
    ):
        raise RuntimeError("Padding size should be less than the corresponding input dimension")
    return sized(image, height + top + bottom, width + left + right)


def crop(image: Any, top: Any, left: Any, height: Any, width: Any) -> Any:
    """A part of that size; what lies beyond the border is black."""
    return sized(checked(image), height, width)


def center_crop(image: Any, output_size: Any) -> Any:
    """The middle part; black around it where it is larger than the picture."""
    if isinstance(output_size, (list, tuple)):
        height, width = (*output_size, *output_size)[:2] if len(output_size) == 1 else output_size
    else:
        height = width = output_size
    return crop(image, 0, 0, height, width)


def resized_crop(
    image: Any,
    top: Any,
    left: Any,
    height: Any,
    width: Any,
    size: Any,
    interpolation: Any = None,
    antialias: Any = True,
) -> Any:
    """A part, made as large as the size says."""
    return resize(crop(image, top, left, height, width), size)


def hflip(image: Any) -> Any:
    """Left for right."""
    image = checked(image)
    return image.copy() if isinstance(image, Picture) else image.flip(-1)


def vflip(image: Any) -> Any:
    """Top for bottom."""
    image = checked(image)
    return image.copy() if isinstance(image, Picture) else image.flip(-2)


def rotate(
    image: Any, angle: Any, interpolation: Any = None, expand: bool = False, *args: Any, **kwargs: Any
) -> Any:
    """Turned within its frame, unless that is to grow."""
    image = checked(image)
    if not expand:
        return sized(image, *get_image_size(image)[::-1])
    grown = Picture("L", tuple(get_image_size(image))).rotate(angle, expand=True)
    return sized(image, grown.height, grown.width)


def five_crop(image: Any, size: Any) -> tuple[Any, ...]:
    """The four corners and the middle.

    Raises:
        ValueError: If the part is larger than the picture.
    """
    height, width = (size, size) if not isinstance(size, (list, tuple)) else (*size, *size)[:2]
    across, down = get_image_size(image)
    if width > across or height > down:
        raise ValueError(f"Requested crop size {(height, width)} is bigger than input size {(down, across)}")
    return tuple(crop(image, 0, 0, height, width) for _ in range(5))


def ten_crop(image: Any, size: Any, vertical_flip: bool = False) -> tuple[Any, ...]:
    """The same ten times: five of the picture and five of its mirror image."""
    return five_crop(image, size) + five_crop(image, size)


def to_grayscale(image: Any, num_output_channels: int = 1) -> Any:
    """Grey, with one channel or three equal ones.

    Raises:
        ValueError: For another number.
    """
    image = checked(image)
    if num_output_channels not in (1, 3):
        raise ValueError("num_output_channels should be either 1 or 3")
    if isinstance(image, Picture):
        return image.convert("L" if num_output_channels == 1 else "RGB")
    return rgb_to_grayscale(image, num_output_channels)


def rgb_to_grayscale(image: Any, num_output_channels: int = 1) -> Any:
    """Grey, of a picture with one channel or three."""
    image = checked(image)
    if isinstance(image, Picture):
        return to_grayscale(image, num_output_channels)
    if image.dim() < 3:
        raise TypeError(f"Input image tensor should have at least 3 dimensions, but found {image.dim()}")
    if image.shape[-3] not in (1, 3):
        raise TypeError(
            f"Input image tensor permitted channel values are [1, 3], but found {image.shape[-3]}"
        )
    return image.new_empty((*image.shape[:-3], num_output_channels, *image.shape[-2:]))


def erase(image: torch.Tensor, i: Any, j: Any, h: Any, w: Any, v: Any, inplace: bool = False) -> torch.Tensor:
    """A tensor with a part painted over."""
    if not isinstance(image, torch.Tensor):
        raise TypeError(f"img should be Tensor Image. Got {type(image)}")
    return image if inplace else image.clone()


def kept(image: Any, *args: Any, **kwargs: Any) -> Any:
    """Any change of colours or places that leaves a picture's sizes."""
    image = checked(image)
    return image.copy() if isinstance(image, Picture) else image.clone()


adjust_brightness = adjust_contrast = adjust_saturation = adjust_hue = adjust_gamma = adjust_sharpness = kept
autocontrast = equalize = posterize = solarize = invert = affine = perspective = gaussian_blur = (
    elastic_transform
) = kept
_ = Sequence
