"""Data sets of torchvision: as long as a symbol says, of arbitrary pictures that the program's transforms then see."""

import os
from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.utils.data as data

from sparsam.shapes.environment import symbolic
from sparsam.shapes.run import current
from sparsam.shapes.series import Segment, Series
from sparsam.shapes.standins.lengths import chosen, label, length_of, value
from sparsam.shapes.standins.pictures import Picture, described, opened

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
IMG_EXTENSIONS = SUFFIXES


class VisionDataset(data.Dataset):  # type: ignore[type-arg]
    """Base of the data sets; programs derive their own from it."""

    def __init__(
        self,
        root: Any = None,
        transforms: Callable[..., Any] | None = None,
        transform: Callable[..., Any] | None = None,
        target_transform: Callable[..., Any] | None = None,
    ) -> None:
        if transforms is not None and (transform is not None or target_transform is not None):
            raise ValueError("Only transforms or transform/target_transform can be passed as argument")
        self.root = root
        self.transform, self.target_transform = transform, target_transform
        self.transforms = transforms

    def _through(self, image: Any, target: Any) -> tuple[Any, Any]:
        if self.transforms is not None:
            image, target = self.transforms(image, target)
            return image, target
        if self.transform is not None:
            image = self.transform(image)
        if self.target_transform is not None:
            target = self.target_transform(target)
        return image, target

    def __len__(self) -> int:
        return int(self.__length__())

    def __length__(self) -> Any:
        """Number of samples, which may be a symbol; what a program's own class says of itself goes first."""
        own = type(self).__len__
        return own(self) if own is not VisionDataset.__len__ else self._count()

    def _count(self) -> Any:
        raise NotImplementedError


class _Pictures(VisionDataset):
    """Pictures of one mode and size, with one label each.

    A class says: mode, size (width, height; None where pictures differ), classes, parts (values of `split`).
    """

    mode = "RGB"
    size: tuple[int, int] | None = (32, 32)
    count_of_classes = 10
    names: tuple[str, ...] = ()
    parts: tuple[str, ...] = ("train", "test")
    array = False  # whether `data` is an array of numpy

    def __init__(
        self,
        root: Any = None,
        train: bool = True,
        transform: Callable[..., Any] | None = None,
        target_transform: Callable[..., Any] | None = None,
        download: bool = False,
        **others: Any,
    ) -> None:
        super().__init__(root, others.pop("transforms", None), transform, target_transform)
        self.train = train
        self.part = "train" if train else "test"
        self.length = self._declared()

    def _declared(self) -> Any:
        kind = next(base for base in type(self).__mro__ if base.__module__ == __name__).__name__
        return length_of((kind, self.part), f"length of torchvision.datasets.{kind} ({self.part})")

    def _count(self) -> Any:
        return self.length

    @property
    def classes(self) -> list[str]:
        """Names of the classes."""
        return [self.names[i] if i < len(self.names) else str(i) for i in range(self.count_of_classes)]

    @property
    def class_to_idx(self) -> dict[str, int]:
        """Classes by name."""
        return {name: i for i, name in enumerate(self.classes)}

    def _picture(self) -> Any:
        if self.size is None:
            size = value("width of a picture", 1), value("height of a picture", 1)
        else:
            size = self.size
        return Picture(self.mode, size)

    def _label(self) -> Any:
        return label("a label", self.count_of_classes)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, torch.Tensor):
            index = index.item()
        if not index < self.length or not index >= -self.length:
            raise IndexError(f"index {index} is out of bounds for dimension 0 with size {self.length}")
        return self._through(self._picture(), self._label())

    @property
    def data(self) -> Any:
        """All pixels."""
        width, height = self.size or (value("width of a picture", 1), value("height of a picture", 1))
        sizes = [self.length, height, width] + [3] * (self.mode == "RGB")
        pixels = torch.empty(sizes, dtype=torch.uint8)
        if not self.array:
            return pixels
        from sparsam.shapes.standins.arrays import wrapped

        return wrapped(pixels)

    @property
    def targets(self) -> Any:
        """All labels."""
        if not self.array:
            return torch.empty(self.length, dtype=torch.int64)
        return Series(lambda: [Segment(self.length, lambda index: self._label())], "labels")

    train_data = test_data = property(lambda self: self.data)
    train_labels = test_labels = labels = property(lambda self: self.targets)


class MNIST(_Pictures):
    """Digits: grey, 28 by 28."""

    mode, size = "L", (28, 28)


class FashionMNIST(MNIST):
    """Clothes: grey, 28 by 28."""


class KMNIST(MNIST):
    """Characters: grey, 28 by 28."""


class QMNIST(MNIST):
    """Digits: grey, 28 by 28."""

    def __init__(
        self,
        root: Any = None,
        what: str | None = None,
        compat: bool = True,
        train: bool = True,
        **others: Any,
    ):
        super().__init__(root, train, **others)


class EMNIST(MNIST):
    """Letters and digits: grey, 28 by 28; as many classes as the split has.

    Raises:
        ValueError: For an unknown split.
    """

    splits: ClassVar[dict[str, int]] = {
        "byclass": 62,
        "bymerge": 47,
        "balanced": 47,
        "letters": 37,
        "digits": 10,
        "mnist": 10,
    }

    def __init__(self, root: Any = None, split: str = "balanced", **others: Any) -> None:
        if split not in self.splits:
            raise ValueError(
                f"Unknown value '{split}' for argument split. Valid values are {tuple(self.splits)}."
            )
        self.count_of_classes = self.splits[split]
        super().__init__(root, **others)


class CIFAR10(_Pictures):
    """Colour, 32 by 32, 10 classes."""

    array = True
    names: tuple[str, ...] = (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    )


class CIFAR100(CIFAR10):
    """Colour, 32 by 32, 100 classes."""

    count_of_classes = 100
    names = ()


class _Split(_Pictures):
    """Data sets whose part is named by `split`."""

    first = "train"

    def __init__(
        self,
        root: Any = None,
        split: str | None = None,
        transform: Callable[..., Any] | None = None,
        target_transform: Callable[..., Any] | None = None,
        download: bool = False,
        **others: Any,
    ) -> None:
        if split is not None and split not in self.parts:
            raise ValueError(f"Unknown value '{split}' for argument split. Valid values are {self.parts}.")
        super().__init__(root, True, transform, target_transform, download, **others)
        self.split = self.part = split or self.first
        self.length = self._declared()

    def _declared(self) -> Any:
        return super()._declared() if hasattr(self, "split") else None


class SVHN(_Split):
    """House numbers: colour, 32 by 32, 10 classes."""

    parts = ("train", "test", "extra")
    array = True


class STL10(_Split):
    """Colour, 96 by 96, 10 classes."""

    size = (96, 96)
    parts = ("train", "test", "unlabeled", "train+unlabeled")
    array = True


class USPS(MNIST):
    """Digits: grey, 16 by 16."""

    size = (16, 16)


class ImageNet(_Split):
    """Colour of any size, 1000 classes."""

    size, count_of_classes, parts = None, 1000, ("train", "val")


class CelebA(_Split):
    """Faces: colour, 178 by 218; the target is a vector of 40 attributes unless another type is asked for."""

    size, parts = (178, 218), ("train", "valid", "test", "all")

    def __init__(
        self, root: Any = None, split: str = "train", target_type: Any = "attr", *args: Any, **others: Any
    ) -> None:
        self.target_type = target_type if isinstance(target_type, list) else [target_type]
        super().__init__(root, split, *args, **others)

    def _label(self) -> Any:
        sizes = {"attr": (40,), "bbox": (4,), "landmarks": (10,)}
        made = [
            label("an identity", 10178) if kind == "identity" else torch.empty(sizes[kind], dtype=torch.int64)
            for kind in self.target_type
        ]
        return made[0] if len(made) == 1 else tuple(made)


class Flowers102(_Split):
    """Colour of any size, 102 classes."""

    size, count_of_classes, parts = None, 102, ("train", "val", "test")


class Food101(_Split):
    """Colour of any size, 101 classes."""

    size, count_of_classes, parts = None, 101, ("train", "test")


class OxfordIIITPet(_Split):
    """Colour of any size, 37 classes."""

    size, count_of_classes, first, parts = None, 37, "trainval", ("trainval", "test")


class GTSRB(_Split):
    """Colour of any size, 43 classes."""

    size, count_of_classes, parts = None, 43, ("train", "test")


class Caltech101(_Split):
    """Colour of any size, 101 classes."""

    size, count_of_classes = None, 101


class LSUN(_Pictures):
    """Colour of any size; as many classes as are named."""

    size = None

    def __init__(
        self, root: Any = None, classes: Any = "train", transform: Any = None, target_transform: Any = None
    ) -> None:
        self.count_of_classes = len(classes) if isinstance(classes, (list, tuple)) else 10
        super().__init__(root, True, transform, target_transform)


class FakeData(VisionDataset):
    """Random pictures, as many and as large as the program says."""

    def __init__(
        self,
        size: Any = 1000,
        image_size: tuple[Any, ...] = (3, 224, 224),
        num_classes: Any = 10,
        transform: Callable[..., Any] | None = None,
        target_transform: Callable[..., Any] | None = None,
        random_offset: int = 0,
    ) -> None:
        super().__init__(None, None, transform, target_transform)
        self.size, self.image_size, self.num_classes = size, tuple(image_size), num_classes

    def _count(self) -> Any:
        return self.size

    def __getitem__(self, index: Any) -> Any:
        if not index < self.size:
            raise IndexError(f"{type(self).__name__} index out of range")
        channels, rows, columns = self.image_size
        mode = {1: "L", 3: "RGB", 4: "RGBA", 2: "LA"}.get(int(channels))
        if mode is None:
            raise ValueError(f"pic should not have > 4 channels. Got {channels} channels.")
        return self._through(Picture(mode, (columns, rows)), label("a label", self.num_classes))


def has_file_allowed_extension(filename: str, extensions: Any) -> bool:
    """Whether a file's name ends like a picture's."""
    return filename.lower().endswith(tuple([extensions] if isinstance(extensions, str) else extensions))


def is_image_file(filename: str) -> bool:
    """Whether a file's name ends like a picture's."""
    return has_file_allowed_extension(filename, SUFFIXES)


def pil_loader(path: Any) -> Any:
    """A picture in colour."""
    return opened(path).convert("RGB")


default_loader = pil_loader


class DatasetFolder(VisionDataset):
    """A folder for each class. Where there is no such folder, of any length and number of classes, pictures of any size.

    Raises:
        FileNotFoundError: If the folder is there and has no classes in it.
    """

    def __init__(
        self,
        root: Any,
        loader: Callable[[Any], Any] = default_loader,
        extensions: Any = None,
        transform: Callable[..., Any] | None = None,
        target_transform: Callable[..., Any] | None = None,
        is_valid_file: Callable[[str], bool] | None = None,
        allow_empty: bool = False,
    ) -> None:
        super().__init__(root, None, transform, target_transform)
        self.loader = loader
        self.valid = is_valid_file or (lambda path: has_file_allowed_extension(path, extensions or SUFFIXES))
        self.real = os.path.isdir(root)
        self.known: list[str] | None = None
        if self.real:
            self._read(allow_empty)
            return
        kind, key = type(self).__name__, str(root)
        self.length = length_of((kind, key), f"length of torchvision.datasets.{kind}({key!r})")
        self.number = length_of((kind, "classes"), "number of classes of the folder of images")

    def _read(self, allow_empty: bool) -> None:
        names = sorted(entry.name for entry in os.scandir(self.root) if entry.is_dir())
        if not names:
            raise FileNotFoundError(f"Couldn't find any class folder in {self.root}.")
        self.known = names
        self.files = [
            (os.path.join(folder, name), number)
            for number, kind in enumerate(names)
            for folder, _, files in sorted(os.walk(os.path.join(self.root, kind)))
            for name in sorted(files)
            if self.valid(os.path.join(folder, name))
        ]
        found = {number for _, number in self.files}
        empty = [name for number, name in enumerate(names) if number not in found]
        if empty and not allow_empty:
            raise FileNotFoundError(f"Found no valid file for the classes {', '.join(empty)}.")
        self.length, self.number = len(self.files), len(names)
        self.kinds = sorted({kind for path, _ in self.files if (kind := described(path)) is not None})

    @property
    def classes(self) -> Any:
        """Names of the classes: where the folder is not there, as many as a symbol says."""
        if self.known is not None:
            return list(self.known)
        return Series(lambda: [Segment(self.number, lambda index: "a class")], "the classes of the folder")

    @property
    def class_to_idx(self) -> Any:
        """Classes by name."""
        return {name: i for i, name in enumerate(self.known or ["a class"])}

    @property
    def samples(self) -> Any:
        """(file, class) of each sample."""
        if self.real:
            return list(self.files)
        return Series(
            lambda: [Segment(self.length, lambda index: ("image.png", label("a label", self.number)))],
            "samples",
        )

    imgs = samples

    @property
    def targets(self) -> Any:
        """Class of each sample."""
        if self.real:
            return [number for _, number in self.files]
        return Series(lambda: [Segment(self.length, lambda index: label("a label", self.number))], "labels")

    def _count(self) -> Any:
        return self.length

    def __getitem__(self, index: Any) -> Any:
        if not index < self.length:
            raise IndexError("list index out of range")
        if self.real and not symbolic(index):
            path, number = self.files[index]
            return self._through(self.loader(path), number)
        image = self._any() if self.real else self._unread()
        return self._through(image, label("a label", self.number))

    def _any(self) -> Any:
        if self.loader is default_loader:
            if len(self.kinds) > _FEW:
                return self._unread()
            return Picture(
                "RGB", chosen("which picture of the folder", sorted({size for _, size in self.kinds}))
            )
        paths = {described(path): path for path, _ in self.files}
        return self.loader(chosen("which picture of the folder", list(paths.values())))

    def _unread(self) -> Any:
        picture = Picture("RGB", (value("width of an image file", 1), value("height of an image file", 1)))
        if self.loader is default_loader:
            return picture
        run = current()
        if run is not None:
            run.unknown(
                "missing-file", f"there is no folder {self.root}, so what its loader reads is not known"
            )
        return picture


_FEW = 3  # kinds of pictures that are told apart


class ImageFolder(DatasetFolder):
    """A folder of pictures for each class."""

    def __init__(
        self,
        root: Any,
        transform: Callable[..., Any] | None = None,
        target_transform: Callable[..., Any] | None = None,
        loader: Callable[[Any], Any] = default_loader,
        is_valid_file: Callable[[str], bool] | None = None,
        allow_empty: bool = False,
    ) -> None:
        super().__init__(root, loader, None, transform, target_transform, is_valid_file, allow_empty)


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(name)
    from sparsam.shapes.standins.packages import Absent

    return Absent(f"torchvision.datasets.{name}", harmless=False)
