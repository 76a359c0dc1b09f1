"""Transforms of Pillow images: sizes and channels as torchvision's, values only roughly so."""

import random

import numpy as np
import torch
from PIL import ImageOps


class Compose:
    def __init__(self, transforms):
        self.transforms = transforms

    def __call__(self, image):
        for transform in self.transforms:
            image = transform(image)
        return image


class Lambda:
    def __init__(self, lambd):
        self.lambd = lambd

    def __call__(self, image):
        return self.lambd(image)


class ToTensor:
    def __call__(self, image):
        pixels = np.array(image)  # rows, columns, and channels where there are several
        if pixels.ndim == 2:
            pixels = pixels[:, :, None]
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous().float() / 255


class Normalize:
    def __init__(self, mean, std):
        self.mean, self.std = mean, std

    def __call__(self, tensor):
        mean, std = (torch.tensor(v, dtype=tensor.dtype).view(-1, 1, 1) for v in (self.mean, self.std))
        return tensor.clone().sub_(mean).div_(std)  # in place: one channel does not become three


class Resize:
    """To (rows, columns), or the shorter side to one number."""

    def __init__(self, size):
        self.size = size

    def __call__(self, image):
        if isinstance(self.size, int):
            width, height = image.size
            short = min(width, height)
            rows, columns = height * self.size // short, width * self.size // short
        else:
            rows, columns = self.size
        return image.resize((columns, rows))


class CenterCrop:
    def __init__(self, size):
        self.size = (size, size) if isinstance(size, int) else size

    def __call__(self, image):
        rows, columns = self.size
        left, top = (image.size[0] - columns) // 2, (image.size[1] - rows) // 2
        return image.crop((left, top, left + columns, top + rows))


class RandomResizedCrop:
    def __init__(self, size):
        self.size = (size, size) if isinstance(size, int) else size

    def __call__(self, image):
        width, height = image.size
        side = random.randint(1, min(width, height))
        left, top = random.randint(0, width - side), random.randint(0, height - side)
        return image.crop((left, top, left + side, top + side)).resize(self.size[::-1])


class RandomHorizontalFlip:
    def __init__(self, p=0.5):
        self.p = p

    def __call__(self, image):
        return ImageOps.mirror(image) if random.random() < self.p else image


class RandomApply:
    def __init__(self, transforms, p=0.5):
        self.transforms, self.p = transforms, p

    def __call__(self, image):
        return Compose(self.transforms)(image) if random.random() < self.p else image


class RandomGrayscale:
    """Grey by chance, with as many channels as before."""

    def __init__(self, p=0.1):
        self.p = p

    def __call__(self, image):
        return ImageOps.grayscale(image).convert(image.mode) if random.random() < self.p else image


class ColorJitter:
    """Changes no size; here it changes nothing."""

    def __init__(self, brightness=0, contrast=0, saturation=0, hue=0):
        pass

    def __call__(self, image):
        return image


class Grayscale:
    def __init__(self, num_output_channels=1):
        self.channels = num_output_channels

    def __call__(self, image):
        return image.convert("L") if self.channels == 1 else image.convert("L").convert("RGB")
