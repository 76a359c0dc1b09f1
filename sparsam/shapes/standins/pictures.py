"""Pillow: pictures without pixels, whose width and height may be symbols. A picture that is a real one stays real."""

import importlib.util
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch

from sparsam.shapes.environment import symbolic
from sparsam.shapes.run import Stop, current
from sparsam.shapes.series import Segment, Series
from sparsam.shapes.standins.lengths import chosen, value
from sparsam.shapes.verdict import Unknown

CHANNELS = {
    "1": 1, "L": 1, "P": 1, "I": 1, "F": 1, "I;16": 1, "LA": 2, "La": 2, "PA": 2, "RGB": 3, "YCbCr": 3, "HSV": 3,
    "LAB": 3, "RGBA": 4, "RGBa": 4, "RGBX": 4, "CMYK": 4,
}  # fmt: skip
MODES = ("RGB", "L", "RGBA")  # of a file that is not there
BANDS = {"YCbCr": ("Y", "Cb", "Cr"), "1": ("1",), "P": ("P",), "I": ("I",), "F": ("F",), "I;16": ("I",)}

PILLOW = importlib.util.find_spec("PIL") is not None
if PILLOW:
    from PIL import Image as pil

    _Base: Any = pil.Image
    _open, _new, _fromarray, _merge = pil.open, pil.new, pil.fromarray, pil.merge
else:
    _Base = object


class Picture(_Base):  # type: ignore[misc]
    """A picture without pixels.

    Args:
        mode: As Pillow's: "L", "RGB", …; None for that of an unknown file, any of `MODES` once it matters.
        size: (width, height), numbers or symbols.
    """

    format = None
    format_description = None
    palette = None
    readonly = 0

    filename = ""

    def __init__(self, mode: str | None, size: tuple[Any, Any]) -> None:
        self.__dict__.update(_mode=mode, _size=tuple(size), info={})

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)

    @property
    def mode(self) -> str:
        """Pillow's name for the kind of its pixels."""
        if self.__dict__["_mode"] is None:
            self.__dict__["_mode"] = chosen("mode of an image file", MODES)
        mode: str = self.__dict__["_mode"]
        return mode

    @property
    def size(self) -> tuple[Any, Any]:
        """(width, height)."""
        size: tuple[Any, Any] = self.__dict__["_size"]
        return size

    @property
    def width(self) -> Any:
        """Columns."""
        return self.size[0]

    @property
    def height(self) -> Any:
        """Rows."""
        return self.size[1]

    @property
    def channels(self) -> int:
        """Numbers of one pixel."""
        return CHANNELS.get(self.mode, 3)

    def _like(self, *, mode: str | None = None, size: tuple[Any, Any] | None = None) -> "Picture":
        return Picture(mode or self.__dict__["_mode"], size or self.size)

    def load(self) -> Any:
        """What Pillow calls before it touches pixels: there are none."""
        run = current()
        raise Stop(
            Unknown(
                "unmodelled-call",
                "Pillow needs the pixels of a picture that has none",
                run._here() if run is not None else None,
            )
        )

    def convert(self, mode: str | None = None, *args: Any, **kwargs: Any) -> "Picture":
        """The same picture in another mode.

        Raises:
            ValueError: If there is no such mode.
        """
        if mode is not None and mode not in CHANNELS:
            raise ValueError(
                "illegal image mode" if not mode else f"conversion from {self.mode} to {mode} not supported"
            )
        return Picture(mode or ("RGB" if self.mode == "P" else self.mode), self.size)

    def resize(self, size: Any, *args: Any, **kwargs: Any) -> "Picture":
        """With other width and height.

        Raises:
            ValueError: If one of them is not positive.
        """
        width, height = size
        if not width > 0 or not height > 0:
            raise ValueError("height and width must be > 0")
        return self._like(size=(width, height))

    def crop(self, box: Any = None) -> "Picture":
        """A part, which may reach beyond the border.

        Raises:
            ValueError: If its right or lower side comes before the other.
        """
        if box is None:
            return self.copy()
        left, upper, right, lower = (_whole(side) for side in box)
        if right < left:
            raise ValueError("Coordinate 'right' is less than 'left'")
        if lower < upper:
            raise ValueError("Coordinate 'lower' is less than 'upper'")
        return self._like(size=(right - left, lower - upper))

    def copy(self) -> "Picture":
        """Another of the same."""
        return self._like()

    __copy__ = copy

    def split(self) -> tuple["Picture", ...]:
        """One grey picture for each channel."""
        return tuple(self._like(mode="L") for _ in range(self.channels))

    def getbands(self) -> tuple[str, ...]:
        """Names of the channels."""
        return BANDS.get(self.mode, tuple(self.mode))

    def getchannel(self, channel: Any) -> "Picture":
        """One channel.

        Raises:
            ValueError: If there is none of that name or number.
        """
        if isinstance(channel, str):
            if channel not in self.getbands():
                raise ValueError(f'The image has no channel "{channel}"')
        elif not 0 <= channel < self.channels:
            raise ValueError("band index out of range")
        return self._like(mode="L")

    def transpose(self, method: Any) -> "Picture":
        """Mirrored or turned: turns by 90 and 270 degrees change width for height."""
        return self._like(size=self.size[::-1] if int(method) in (2, 4, 5, 6) else self.size)

    def rotate(self, angle: Any, resample: Any = 0, expand: Any = 0, *args: Any, **kwargs: Any) -> "Picture":
        """Turned: in the same frame, unless it is to grow."""
        if not expand:
            return self._like()
        if not symbolic(angle) and angle % 180 == 0:
            return self._like()
        if not symbolic(angle) and angle % 90 == 0:
            return self._like(size=self.size[::-1])
        return self._like(
            size=(value("width of a turned picture", 1), value("height of a turned picture", 1))
        )

    def thumbnail(self, size: Any, *args: Any, **kwargs: Any) -> None:
        """Makes it no larger than that, in place, keeping its proportions."""
        width, height = self.size
        most, high = size
        if width <= most and height <= high:
            return
        if width * high >= height * most:
            size = (most, torch.sym_max(1, (height * most) // width))
        else:
            size = (torch.sym_max(1, (width * high) // height), high)
        self.__dict__["_size"] = size

    def transform(self, size: Any, *args: Any, **kwargs: Any) -> "Picture":
        """A distorted picture of that size."""
        return self._like(size=tuple(size))

    def _same(self, *args: Any, **kwargs: Any) -> "Picture":
        return self._like()

    filter = effect_spread = quantize = remap_palette = _same

    def point(self, table: Any, mode: str | None = None) -> "Picture":
        """Each pixel through a function."""
        return self._like(mode=mode)

    def reduce(self, factor: Any, box: Any = None) -> "Picture":
        """Smaller by a whole factor, rounded up."""
        across, down = factor if isinstance(factor, tuple) else (factor, factor)
        return self._like(size=((self.width + across - 1) // across, (self.height + down - 1) // down))

    def _nothing(self, *args: Any, **kwargs: Any) -> None:
        """Changes or shows pixels."""

    paste = putpixel = putdata = putalpha = putpalette = alpha_composite = show = save = seek = close = (
        verify
    ) = draft = _nothing
    __del__ = _nothing

    def tell(self) -> int:
        """The first frame."""
        return 0

    def getexif(self) -> dict[int, Any]:
        """Nothing is known of how it was taken."""
        return {}

    _getexif = getexif

    def getpixel(self, place: Any) -> Any:
        """One pixel."""
        numbers = tuple(value("a pixel", 0, 255) for _ in range(self.channels))
        return numbers[0] if len(numbers) == 1 else numbers

    def getbbox(self, **kwargs: Any) -> Any:
        """The part that is not black: all of it."""
        return 0, 0, *self.size

    def getdata(self, band: Any = None) -> Any:
        """All pixels in a row."""
        count = self.width * self.height
        return Series(lambda: [Segment(count, lambda index: self.getpixel(None))], "pixels")

    get_flattened_data = getdata

    def getextrema(self) -> Any:
        """Least and greatest values."""
        pairs = tuple((value("a pixel", 0, 255), value("a pixel", 0, 255)) for _ in range(self.channels))
        return pairs[0] if len(pairs) == 1 else pairs

    def getcolors(self, maxcolors: int = 256) -> None:
        """Too many to be counted."""

    def histogram(self, *args: Any, **kwargs: Any) -> list[Any]:
        """How often each value occurs."""
        return [0] * (256 * self.channels)

    def tobytes(self, *args: Any, **kwargs: Any) -> Any:
        """Bytes of an unknown content."""
        return self.load()

    def __enter__(self) -> "Picture":
        return self

    def __exit__(self, *args: object) -> None:
        """Nothing is open."""

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"<picture {self.mode}>"

    def tensor(self) -> torch.Tensor:
        """(height, width) for one channel, (height, width, channels) for several."""
        sizes = [self.height, self.width] + [self.channels] * (self.channels > 1)
        kinds = {"I": torch.int32, "F": torch.float32, "1": torch.bool, "I;16": torch.int32}
        return torch.empty(sizes, dtype=kinds.get(self.mode, torch.uint8))


def _whole(side: Any) -> Any:
    if isinstance(side, torch.SymFloat):
        return torch.sym_int(side)
    return side if isinstance(side, torch.SymInt) else round(side)


def described(path: Any) -> tuple[str, tuple[int, int]] | None:
    """(mode, (width, height)) of a file that is a picture; None if it is none."""
    if not PILLOW:
        return None
    key = str(path)
    try:
        stamp = os.stat(key).st_mtime_ns
        known = _described.get(key)
        if known is None or known[0] != stamp:
            with _open(key) as image:
                known = _described[key] = (stamp, (str(image.mode), (int(image.size[0]), int(image.size[1]))))
    except (OSError, ValueError, TypeError, SyntaxError):
        return None
    return known[1]


_described: dict[str, tuple[int, tuple[str, tuple[int, int]]]] = {}


def opened(path: Any, *args: Any, **kwargs: Any) -> Any:
    """`Image.open`: mode and size of a file that is there; else any, for it may be there on the day."""
    known = described(path) if isinstance(path, (str, os.PathLike)) else None
    if known is not None:
        return Picture(*known)
    if current() is None:
        return _open(path, *args, **kwargs)
    return Picture(None, (value("width of an image file", 1), value("height of an image file", 1)))


def created(mode: str, size: Any, *args: Any, **kwargs: Any) -> Any:
    """`Image.new`."""
    if current() is None or not any(symbolic(side) for side in size):
        return _new(mode, size, *args, **kwargs)
    return Picture(mode, size)


def from_array(array: Any, mode: str | None = None) -> Any:
    """`Image.fromarray` of an array without data.

    Raises:
        TypeError: If its sizes or type are no picture's, as the original does.
    """
    from sparsam.shapes.standins.arrays import tensor_of

    tensor = tensor_of(array)
    if tensor is None:
        return _fromarray(array) if mode is None else _fromarray(array, mode)
    sizes = tuple(tensor.shape)
    kind = str(tensor.dtype).removeprefix("torch.")
    modes = {
        (2, "bool"): "1", (2, "uint8"): "L", (2, "int32"): "I", (2, "float32"): "F", (2, "float64"): "F",
        (2, "uint16"): "I;16", (2, "int16"): "I;16",
    }  # fmt: skip
    if len(sizes) == 2 and (2, kind) in modes:
        return Picture(mode or modes[2, kind], (sizes[1], sizes[0]))
    if len(sizes) == 3 and kind == "uint8":
        for channels, name in ((3, "RGB"), (4, "RGBA"), (2, "LA"), (1, "L")):
            if sizes[2] == channels and channels != 1:
                return Picture(mode or name, (sizes[1], sizes[0]))
    shape = (1,) * max(len(sizes) - 2, 0) if len(sizes) < 3 else (1, 1, *sizes[2:])
    raise TypeError(f"Cannot handle this data type: {shape}, {kind}")


def merged(mode: str, bands: Any) -> Any:
    """`Image.merge`.

    Raises:
        ValueError: If the number of pictures, their modes or their sizes do not fit.
    """
    if not any(isinstance(band, Picture) for band in bands):
        return _merge(mode, bands)
    if CHANNELS.get(mode) != len(bands) or any(CHANNELS[band.mode] != 1 for band in bands):
        raise ValueError("wrong number of bands")
    for band in bands:
        if band.size[0] != bands[0].size[0] or band.size[1] != bands[0].size[1]:
            raise ValueError("size mismatch")
    return Picture(mode, bands[0].size)


def _blended(real: Callable[..., Any]) -> Callable[..., Any]:
    """`blend`, `alpha_composite`, `composite`: of two pictures of one size."""

    def function(first: Any, second: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(first, Picture) and not isinstance(second, Picture):
            return real(first, second, *args, **kwargs)
        if first.size[0] != second.size[0] or first.size[1] != second.size[1] or first.mode != second.mode:
            raise ValueError("images do not match")
        return Picture(first.mode, first.size)

    return function


def _kept(real: Callable[..., Any], mode: str | None = None) -> Callable[..., Any]:
    """A function of Pillow that keeps a picture's sizes."""

    def function(image: Any, *args: Any, **kwargs: Any) -> Any:
        return image._like(mode=mode) if isinstance(image, Picture) else real(image, *args, **kwargs)

    return function


class _Enhanced:
    """`ImageEnhance`: gives a picture of the same sizes."""

    def __init__(self, image: Any) -> None:
        self.image = image

    def enhance(self, factor: Any) -> Any:
        """A picture of the same sizes."""
        return self.image.copy()


class _Drawing:
    """Draws on nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


def _expand(real: Callable[..., Any]) -> Callable[..., Any]:
    def function(image: Any, border: Any = 0, fill: Any = 0) -> Any:
        if not isinstance(image, Picture):
            return real(image, border, fill)
        sides = border if isinstance(border, tuple) else (border,)
        left, top, right, bottom = (
            sides if len(sides) == 4 else (*sides, *sides) if len(sides) == 2 else sides * 4
        )
        return image._like(size=(image.width + left + right, image.height + top + bottom))

    return function


def _fitted(real: Callable[..., Any]) -> Callable[..., Any]:
    def function(image: Any, size: Any, *args: Any, **kwargs: Any) -> Any:
        return image.resize(size) if isinstance(image, Picture) else real(image, size, *args, **kwargs)

    return function


def patches() -> Iterator[tuple[Any, str, Any]]:
    """(owner, attribute, stand-in) for all of this module."""
    if not PILLOW:
        return
    from PIL import ImageDraw, ImageEnhance, ImageOps

    yield pil, "open", opened
    yield pil, "new", created
    yield pil, "fromarray", from_array
    yield pil, "merge", merged
    for name in ("blend", "alpha_composite", "composite"):
        yield pil, name, _blended(getattr(pil, name))
    for name in (
        "autocontrast",
        "equalize",
        "invert",
        "posterize",
        "solarize",
        "mirror",
        "flip",
        "exif_transpose",
    ):
        yield ImageOps, name, _kept(getattr(ImageOps, name))
    yield ImageOps, "grayscale", _kept(ImageOps.grayscale, "L")
    yield ImageOps, "colorize", _kept(ImageOps.colorize, "RGB")
    yield ImageOps, "expand", _expand(ImageOps.expand)
    for name in ("fit", "pad"):
        yield ImageOps, name, _fitted(getattr(ImageOps, name))
    for name in ("Color", "Contrast", "Brightness", "Sharpness"):
        yield ImageEnhance, name, _enhancer(getattr(ImageEnhance, name))
    draw = ImageDraw.Draw
    yield (
        ImageDraw,
        "Draw",
        lambda image, mode=None: _Drawing() if isinstance(image, Picture) else draw(image, mode),
    )


def _enhancer(real: Any) -> Any:
    return lambda image: _Enhanced(image) if isinstance(image, Picture) else real(image)
