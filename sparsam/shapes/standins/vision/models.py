"""The networks of torchvision that programs ask for most, by name."""

from typing import Any

from sparsam.shapes.standins.vision.plain_networks import (
    VGG,
    AlexNet,
    DenseNet,
    MobileNetV2,
    SqueezeNet,
    alexnet,
    densenet121,
    mobilenet_v2,
    squeezenet1_1,
    vgg11,
    vgg11_bn,
    vgg13,
    vgg13_bn,
    vgg16,
    vgg16_bn,
    vgg19,
    vgg19_bn,
)
from sparsam.shapes.standins.vision.residual import (
    ResNet,
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnet152,
    resnext50_32x4d,
    resnext101_32x8d,
    wide_resnet50_2,
    wide_resnet101_2,
)

MAKERS = {
    maker.__name__: maker
    for maker in (
        alexnet, densenet121, mobilenet_v2, squeezenet1_1, vgg11, vgg11_bn, vgg13, vgg13_bn, vgg16, vgg16_bn, vgg19,
        vgg19_bn, resnet18, resnet34, resnet50, resnet101, resnet152, resnext50_32x4d, resnext101_32x8d,
        wide_resnet50_2, wide_resnet101_2,
    )
}  # fmt: skip


class _Weights:
    """Names of published weights: all stand for weights that no one knows."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def transforms(self, *args: Any, **kwargs: Any) -> Any:
        """What the published weights were trained on: pictures of 224 by 224."""
        from sparsam.shapes.standins.vision import transforms

        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        steps = [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor()]
        return transforms.Compose([*steps, transforms.Normalize(mean, std)])


def get_model(name: str, **given: Any) -> Any:
    """A network by name.

    Raises:
        ValueError: If there is none of that name.
    """
    if name not in MAKERS:
        raise ValueError(f"Unknown model {name}")
    return MAKERS[name](**given)


def list_models(*args: Any, **kwargs: Any) -> list[str]:
    """Names of all networks."""
    return sorted(MAKERS)


def __getattr__(name: str) -> Any:
    if name.endswith("_Weights"):
        return _Weights()
    if name.startswith("_"):
        raise AttributeError(name)
    from sparsam.shapes.standins.packages import Absent

    return Absent(f"torchvision.models.{name}", harmless=False)


__all__ = ["VGG", "AlexNet", "DenseNet", "MobileNetV2", "ResNet", "SqueezeNet", "get_model", "list_models"]
