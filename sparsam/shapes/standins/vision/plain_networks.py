"""Networks without shortcuts and small ones: AlexNet, VGG, SqueezeNet, MobileNetV2, DenseNet, with torchvision's names."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class AlexNet(nn.Module):
    """Krizhevsky 2014: five convolutions and three linear layers."""

    def __init__(self, num_classes: int = 1000, dropout: float = 0.5) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(True), nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(True), nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(True),
            nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(True),
            nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(True), nn.MaxPool2d(3, 2),
        )  # fmt: skip
        self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
        self.classifier = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(256 * 36, 4096), nn.ReLU(True),
            nn.Dropout(dropout), nn.Linear(4096, 4096), nn.ReLU(True), nn.Linear(4096, num_classes),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) to (N, num_classes)."""
        out: torch.Tensor = self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))
        return out


WIDTHS = {
    11: "64 M 128 M 256 256 M 512 512 M 512 512 M",
    13: "64 64 M 128 128 M 256 256 M 512 512 M 512 512 M",
    16: "64 64 M 128 128 M 256 256 256 M 512 512 512 M 512 512 512 M",
    19: "64 64 M 128 128 M 256 256 256 256 M 512 512 512 512 M 512 512 512 512 M",
}  # channels of the convolutions, M for a pool


class VGG(nn.Module):
    """Simonyan and Zisserman 2014: 3 by 3 convolutions and three linear layers."""

    def __init__(
        self, features: nn.Module, num_classes: int = 1000, init_weights: bool = True, dropout: float = 0.5
    ) -> None:
        super().__init__()
        self.features = features
        self.avgpool = nn.AdaptiveAvgPool2d((7, 7))
        self.classifier = nn.Sequential(
            nn.Linear(512 * 49, 4096), nn.ReLU(True), nn.Dropout(dropout),
            nn.Linear(4096, 4096), nn.ReLU(True), nn.Dropout(dropout), nn.Linear(4096, num_classes),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) to (N, num_classes)."""
        out: torch.Tensor = self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))
        return out


def _vgg(depth: int, norm: bool) -> Callable[..., VGG]:
    def make(pretrained: Any = False, progress: bool = True, *, weights: Any = None, **given: Any) -> VGG:
        """A network with weights that no one knows."""
        layers: list[nn.Module] = []
        channels = 3
        for word in WIDTHS[depth].split():
            if word == "M":
                layers.append(nn.MaxPool2d(2, 2))
                continue
            layers.append(nn.Conv2d(channels, int(word), 3, padding=1))
            channels = int(word)
            layers += [nn.BatchNorm2d(channels)] * norm + [nn.ReLU(True)]
        return VGG(nn.Sequential(*layers), **given)

    make.__name__ = f"vgg{depth}" + "_bn" * norm
    return make


vgg11, vgg13, vgg16, vgg19 = (_vgg(depth, False) for depth in (11, 13, 16, 19))
vgg11_bn, vgg13_bn, vgg16_bn, vgg19_bn = (_vgg(depth, True) for depth in (11, 13, 16, 19))


def alexnet(pretrained: Any = False, progress: bool = True, *, weights: Any = None, **given: Any) -> AlexNet:
    """A network with weights that no one knows."""
    return AlexNet(**given)


class Fire(nn.Module):
    """A narrow 1 by 1 convolution, then one of 1 by 1 and one of 3 by 3 side by side."""

    def __init__(self, width: int, narrow: int, out: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(width, narrow, 1)
        self.expand1x1 = nn.Conv2d(narrow, out, 1)
        self.expand3x3 = nn.Conv2d(narrow, out, 3, padding=1)
        self.activation = nn.ReLU(True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, width, H, W) to (N, 2·out, H, W)."""
        x = self.activation(self.squeeze(x))
        return torch.cat([self.activation(self.expand1x1(x)), self.activation(self.expand3x3(x))], 1)


class SqueezeNet(nn.Module):
    """Iandola et al. 2016, version 1.1."""

    def __init__(self, version: str = "1_1", num_classes: int = 1000, dropout: float = 0.5) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 3, 2), nn.ReLU(True), nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(64, 16, 64), Fire(128, 16, 64), nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(128, 32, 128), Fire(256, 32, 128), nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256),
        )  # fmt: skip
        last = nn.Conv2d(512, num_classes, 1)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout), last, nn.ReLU(True), nn.AdaptiveAvgPool2d((1, 1))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) to (N, num_classes)."""
        return torch.flatten(self.classifier(self.features(x)), 1)


def squeezenet1_1(
    pretrained: Any = False, progress: bool = True, *, weights: Any = None, **given: Any
) -> SqueezeNet:
    """A network with weights that no one knows."""
    return SqueezeNet(**given)


class InvertedResidual(nn.Module):
    """Wider by a 1 by 1 convolution, then one for each channel, then narrower, beside a shortcut where sizes allow."""

    def __init__(self, width: int, out: int, stride: int, ratio: int) -> None:
        super().__init__()
        wide = width * ratio
        layers: list[nn.Module] = []
        if ratio != 1:
            layers += [nn.Conv2d(width, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(True)]
        layers += [
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(True),
            nn.Conv2d(wide, out, 1, bias=False), nn.BatchNorm2d(out),
        ]  # fmt: skip
        self.conv = nn.Sequential(*layers)
        self.use_res_connect = stride == 1 and width == out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, width, H, W) to (N, out, ⌈H/stride⌉, ⌈W/stride⌉)."""
        made: torch.Tensor = self.conv(x)
        return x + made if self.use_res_connect else made


class MobileNetV2(nn.Module):
    """Sandler et al. 2018."""

    def __init__(self, num_classes: int = 1000, dropout: float = 0.2) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6(True))
        ]
        width = 32
        table = (
            (1, 16, 1, 1),
            (6, 24, 2, 2),
            (6, 32, 3, 2),
            (6, 64, 4, 2),
            (6, 96, 3, 1),
            (6, 160, 3, 2),
            (6, 320, 1, 1),
        )
        for ratio, out, count, stride in table:
            for number in range(count):
                layers.append(InvertedResidual(width, out, stride if number == 0 else 1, ratio))
                width = out
        self.last_channel = 1280
        layers.append(
            nn.Sequential(nn.Conv2d(width, 1280, 1, bias=False), nn.BatchNorm2d(1280), nn.ReLU6(True))
        )
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(1280, num_classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) to (N, num_classes)."""
        out: torch.Tensor = self.classifier(self.features(x).mean((2, 3)))
        return out


def mobilenet_v2(
    pretrained: Any = False, progress: bool = True, *, weights: Any = None, **given: Any
) -> MobileNetV2:
    """A network with weights that no one knows."""
    return MobileNetV2(**given)


class DenseLayer(nn.Module):
    """Adds channels to those that are there."""

    def __init__(self, width: int, growth: int, ratio: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(width), nn.Conv2d(width, ratio * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(ratio * growth)
        self.conv2 = nn.Conv2d(ratio * growth, growth, 3, padding=1, bias=False)
        self.relu = nn.ReLU(True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, width, H, W) to (N, width + growth, H, W)."""
        new = self.conv2(self.relu(self.norm2(self.conv1(self.relu(self.norm1(x))))))
        return torch.cat([x, new], 1)


class DenseNet(nn.Module):
    """Huang et al. 2016."""

    def __init__(
        self, growth_rate: int = 32, block_config: Any = (6, 12, 24, 16), num_init_features: int = 64, bn_size: int = 4,
        drop_rate: float = 0, num_classes: int = 1000,
    ) -> None:  # fmt: skip
        super().__init__()
        width = num_init_features
        layers: list[nn.Module] = [
            nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(True), nn.MaxPool2d(3, 2, 1)
        ]  # fmt: skip
        for number, count in enumerate(block_config):
            for _ in range(count):
                layers.append(DenseLayer(width, growth_rate, bn_size))
                width += growth_rate
            layers.append(nn.BatchNorm2d(width))
            if number + 1 < len(block_config):
                layers += [nn.ReLU(True), nn.Conv2d(width, width // 2, 1, bias=False), nn.AvgPool2d(2, 2)]
                width //= 2
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) to (N, num_classes)."""
        x = torch.relu(self.features(x)).mean((2, 3))
        out: torch.Tensor = self.classifier(x)
        return out


def densenet121(
    pretrained: Any = False, progress: bool = True, *, weights: Any = None, **given: Any
) -> DenseNet:
    """A network with weights that no one knows."""
    return DenseNet(**given)
