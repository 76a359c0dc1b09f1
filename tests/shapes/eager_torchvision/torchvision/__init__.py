"""As much of torchvision's surface as the programs of these tests use, over random images; for runs with plain torch."""

from torchvision import datasets, transforms, utils

__all__ = ["datasets", "transforms", "utils"]
