"""Images as data: idx files, image folders, the built-in digits; decoding, and a small preprocessing of our own.

Letters: c channels, h height, w width. An image is a uint8 array (h, w, c) with c = 1 or 3.
"""

import gzip
import io
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsam.errors import InputOutput, Usage
from sparsam.task.tables import Kind, reading

IMAGE_ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})


class ArrayTable:
    """Images and labels held in memory: uint8 (n, h, w, c) and integers (n,)."""

    def __init__(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[Any],
        *,
        files: Sequence[Path] = (),
        label: str = "label",
    ) -> None:
        self.files = tuple(files)
        self.kinds: dict[str, Kind] = {"image": "image", label: "int"}
        self.class_names: dict[str, tuple[str, ...]] = {}
        self.values: dict[str, NDArray[Any]] = {"image": images, label: labels}

    def __len__(self) -> int:
        return len(self.values["image"])

    def stream(self, columns: Sequence[str], size: int) -> Iterator[dict[str, list[Any]]]:
        for start in range(0, len(self), size):
            yield {name: _listed(self.values[name][start : start + size]) for name in columns}

    def take(self, columns: Sequence[str], rows: NDArray[np.int64]) -> dict[str, list[Any]]:
        return {name: _listed(self.values[name][rows]) for name in columns}


def _listed(values: NDArray[Any]) -> list[Any]:
    return list(values) if values.ndim > 1 else values.tolist()


class ImageFolderTable:
    """``class/file.png``: one folder a class. Files are opened when their row is read."""

    def __init__(self, folder: Path) -> None:
        found = [
            (path, group.name)
            for group in sorted(folder.iterdir())
            if group.is_dir() and not group.name.startswith(".")
            for path in sorted(group.iterdir())
            if is_image(path)
        ]
        self.folder = folder
        self.files = tuple(path for path, _ in found)
        self.kinds: dict[str, Kind] = {"image": "image", "label": "text"}
        self.class_names: dict[str, tuple[str, ...]] = {}
        self._labels = [name for _, name in found]

    def __len__(self) -> int:
        return len(self.files)

    def stream(self, columns: Sequence[str], size: int) -> Iterator[dict[str, list[Any]]]:
        for start in range(0, len(self), size):
            yield self.take(columns, np.arange(start, min(start + size, len(self))))

    def take(self, columns: Sequence[str], rows: NDArray[np.int64]) -> dict[str, list[Any]]:
        from_column: dict[str, Sequence[Any]] = {"image": self.files, "label": self._labels}
        return {name: [from_column[name][row] for row in rows.tolist()] for name in columns}


def is_image(path: Path) -> bool:
    """Whether the ending says that ``path`` is an image."""
    return path.suffix.lower() in IMAGE_ENDINGS and path.is_file()


def read_idx(path: Path) -> NDArray[np.uint8]:
    """An idx file of unsigned bytes, as MNIST and Fashion-MNIST use; ``.gz`` or plain.

    Raises InputOutput ``data-corrupt`` where header and length disagree; nothing is allocated from the header.
    """
    with reading(path):
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            start = file.read(4)
            if len(start) < 4 or start[:3] != b"\x00\x00\x08" or not 1 <= start[3] <= 4:
                raise ValueError(f"it starts with {start.hex() or 'nothing'}, not with 000008 and 01 to 04")
            header = file.read(4 * start[3])
            if len(header) < 4 * start[3]:
                raise ValueError("it ends inside its header")
            sizes = struct.unpack(f">{start[3]}I", header)
            body = file.read()
        wanted = int(np.prod([int(size) for size in sizes], dtype=object))
        if len(body) != wanted:
            raise ValueError(
                f"its header promises {wanted:,} bytes ({' x '.join(map(str, sizes))}), it holds {len(body):,}"
            )
        return np.frombuffer(body, np.uint8).reshape(sizes)


def read_idx_pair(images: Path, labels: Path) -> ArrayTable:
    """Images (n, h, w) or (n, h, w, c) and their labels (n,) from two idx files."""
    pixels, classes = read_idx(images), read_idx(labels)
    if pixels.ndim not in (3, 4) or classes.ndim != 1 or len(pixels) != len(classes):
        raise InputOutput(
            f"{images.name} holds {pixels.shape} and {labels.name} holds {classes.shape}; wanted are n images and "
            "n labels. Take both files from the same split.",
            code="data-corrupt",
        )
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    return ArrayTable(pixels, classes, files=(images, labels))


def digits() -> ArrayTable:
    """The 1,797 handwritten digits that scikit-learn carries: 8 x 8 pixels, grey 0 to 16 spread over 0 to 255."""
    from sklearn.datasets import load_digits

    found = load_digits()
    pixels = np.rint(found.images * (255 / 16)).astype(np.uint8)[..., None]  # (1797, 8, 8, 1)
    return ArrayTable(pixels, found.target.astype(np.int64))


def decode_image(value: Any, where: str) -> NDArray[np.uint8]:
    """Any form an image has in a table to uint8 (h, w, c), c = 1 for grey images and 3 for all others.

    ``where`` names the row in the error (InputOutput ``image-corrupt``).
    """
    from PIL import Image, UnidentifiedImageError

    if isinstance(value, np.ndarray):
        return value if value.ndim == 3 else value[..., None]
    if isinstance(value, dict):
        value = value.get("bytes")
    if value is None:
        raise InputOutput(
            f"{where} has no image bytes. Remove the row or write its image into the file.",
            code="image-corrupt",
        )
    try:
        with Image.open(value if isinstance(value, Path) else io.BytesIO(value)) as image:
            grey = image.mode in ("1", "L", "LA")
            pixels = np.array(image.convert("L" if grey else "RGB"))
    except (
        UnidentifiedImageError,
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        Image.DecompressionBombError,
    ) as error:
        name = f" ({value})" if isinstance(value, Path) else ""
        raise InputOutput(
            f"{where}{name} is not an image that Pillow can read: {error}. Remove the row or write its image again.",
            code="image-corrupt",
        ) from error
    return pixels[..., None] if pixels.ndim == 2 else pixels


def in_channels(image: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    """The image (h, w, c) with 1 or 3 channels: grey is repeated, colour is weighed as ITU-R 601 says."""
    if image.shape[-1] == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=-1)
    grey: NDArray[np.float64] = image @ np.array([0.299, 0.587, 0.114])  # (h, w)
    return np.rint(grey).astype(np.uint8)[..., None]


@dataclass(frozen=True)
class ImagePreprocess:
    """Resize (bilinear, where the size differs), scale to [0, 1], subtract ``mean``, divide by ``std``."""

    size: int
    mean: float = 0.5
    std: float = 0.5
    channels: int = 3

    def __post_init__(self) -> None:
        if self.size < 1 or self.channels not in (1, 3) or not self.std > 0:
            raise Usage(
                f"ImagePreprocess wants size >= 1, channels 1 or 3 and std > 0; got size {self.size}, "
                f"channels {self.channels}, std {self.std}.",
                code="image-preprocess",
            )

    def __call__(self, images: Sequence[NDArray[np.uint8]]) -> dict[str, NDArray[np.float32]]:
        """uint8 (h, w, c) each to ``pixel_values`` float32 (n, channels, size, size)."""
        made = np.empty((len(images), self.channels, self.size, self.size), np.float32)
        for at, image in enumerate(images):
            made[at] = self._resized(in_channels(image, self.channels)).transpose(2, 0, 1)
        made /= 255
        made -= np.float32(self.mean)
        made /= np.float32(self.std)
        return {"pixel_values": made}

    def _resized(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if image.shape[:2] == (self.size, self.size):
            return image
        from PIL import Image

        shown = Image.fromarray(image if self.channels == 3 else image[..., 0])
        pixels = np.asarray(shown.resize((self.size, self.size), Image.Resampling.BILINEAR))
        return pixels if self.channels == 3 else pixels[..., None]
