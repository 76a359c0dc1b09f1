"""Residual networks (He et al. 2015; Xie et al. 2016; Zagoruyko and Komodakis 2016), with torchvision's names of parts."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def conv3x3(width: int, out: int, stride: int = 1, groups: int = 1, dilation: int = 1) -> nn.Conv2d:
    """A 3 by 3 convolution that keeps rows and columns at stride 1."""
    return nn.Conv2d(width, out, 3, stride, dilation, dilation, groups, bias=False)


def conv1x1(width: int, out: int, stride: int = 1) -> nn.Conv2d:
    """A 1 by 1 convolution."""
    return nn.Conv2d(width, out, 1, stride, bias=False)


class BasicBlock(nn.Module):
    """Two 3 by 3 convolutions beside a shortcut."""

    expansion = 1

    def __init__(
        self, inplanes: int, planes: int, stride: int = 1, downsample: nn.Module | None = None, groups: int = 1,
        base_width: int = 64, dilation: int = 1, norm_layer: Callable[..., nn.Module] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        norm = norm_layer or nn.BatchNorm2d
        if groups != 1 or base_width != 64:
            raise ValueError("BasicBlock only supports groups=1 and base_width=64")
        self.conv1, self.bn1 = conv3x3(inplanes, planes, stride), norm(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2, self.bn2 = conv3x3(planes, planes), norm(planes)
        self.downsample, self.stride = downsample, stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inplanes, H, W) to (N, planes, ⌈H/stride⌉, ⌈W/stride⌉)."""
        made = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        made += x if self.downsample is None else self.downsample(x)
        out: torch.Tensor = self.relu(made)
        return out


class Bottleneck(nn.Module):
    """A 3 by 3 convolution between two of 1 by 1, beside a shortcut."""

    expansion = 4

    def __init__(
        self, inplanes: int, planes: int, stride: int = 1, downsample: nn.Module | None = None, groups: int = 1,
        base_width: int = 64, dilation: int = 1, norm_layer: Callable[..., nn.Module] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        norm = norm_layer or nn.BatchNorm2d
        width = planes * base_width // 64 * groups
        self.conv1, self.bn1 = conv1x1(inplanes, width), norm(width)
        self.conv2, self.bn2 = conv3x3(width, width, stride, groups, dilation), norm(width)
        self.conv3, self.bn3 = conv1x1(width, planes * self.expansion), norm(planes * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample, self.stride = downsample, stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inplanes, H, W) to (N, 4·planes, ⌈H/stride⌉, ⌈W/stride⌉)."""
        made = self.relu(self.bn1(self.conv1(x)))
        made = self.relu(self.bn2(self.conv2(made)))
        made = self.bn3(self.conv3(made))
        made += x if self.downsample is None else self.downsample(x)
        out: torch.Tensor = self.relu(made)
        return out


class ResNet(nn.Module):
    """Four stages of blocks between a 7 by 7 convolution and a linear layer."""

    def __init__(
        self, block: Any, layers: Any, num_classes: int = 1000, zero_init_residual: bool = False, groups: int = 1,
        width_per_group: int = 64, replace_stride_with_dilation: Any = None,
        norm_layer: Callable[..., nn.Module] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self._norm_layer = norm_layer or nn.BatchNorm2d
        self.inplanes, self.groups, self.base_width = 64, groups, width_per_group
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1, self.relu = self._norm_layer(64), nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = self._make_layer(block, 64, layers[0])
        self.layer2 = self._make_layer(block, 128, layers[1], 2)
        self.layer3 = self._make_layer(block, 256, layers[2], 2)
        self.layer4 = self._make_layer(block, 512, layers[3], 2)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(512 * block.expansion, num_classes)

    def _make_layer(self, block: Any, planes: int, blocks: int, stride: int = 1) -> nn.Sequential:
        width = planes * block.expansion
        shortcut = None
        if stride != 1 or self.inplanes != width:
            shortcut = nn.Sequential(conv1x1(self.inplanes, width, stride), self._norm_layer(width))
        made = []
        for number in range(blocks):
            first = number == 0
            made.append(
                block(
                    self.inplanes, planes, stride if first else 1, shortcut if first else None, self.groups,
                    self.base_width, 1, self._norm_layer,
                )
            )  # fmt: skip
            self.inplanes = width
        return nn.Sequential(*made)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) to (N, num_classes)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        out: torch.Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return out


def _maker(block: Any, layers: tuple[int, ...], **fixed: Any) -> Callable[..., ResNet]:
    def make(pretrained: Any = False, progress: bool = True, *, weights: Any = None, **given: Any) -> ResNet:
        """A network with weights that no one knows."""
        return ResNet(block, layers, **(fixed | given))

    return make


resnet18 = _maker(BasicBlock, (2, 2, 2, 2))
resnet34 = _maker(BasicBlock, (3, 4, 6, 3))
resnet50 = _maker(Bottleneck, (3, 4, 6, 3))
resnet101 = _maker(Bottleneck, (3, 4, 23, 3))
resnet152 = _maker(Bottleneck, (3, 8, 36, 3))
resnext50_32x4d = _maker(Bottleneck, (3, 4, 6, 3), groups=32, width_per_group=4)
resnext101_32x8d = _maker(Bottleneck, (3, 4, 23, 3), groups=32, width_per_group=8)
wide_resnet50_2 = _maker(Bottleneck, (3, 4, 6, 3), width_per_group=128)
wide_resnet101_2 = _maker(Bottleneck, (3, 4, 23, 3), width_per_group=128)
for _name in [name for name in list(globals()) if name.startswith(("resn", "wide_"))]:
    globals()[_name].__name__ = _name
