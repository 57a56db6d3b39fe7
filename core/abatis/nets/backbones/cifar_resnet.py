"""ResNets (He et al., 2016) for small images: a 3x3 stem of stride 1 and no max-pooling."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from abatis.nets.backbones.own_nets import register
from abatis.nets.backbones.pooled import PooledNet, conv3x3

EXPANSION = 4  # the output of a bottleneck is so many times as wide as its 3x3 convolution


class ResidualBlock(nn.Module):
    """A path and a shortcut, added; the shortcut is a 1x1 convolution where the shape changes.

    (B, channels, H, W) -> (B, width, H / stride, W / stride)
    """

    def __init__(self, path: nn.Sequential, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.path = path
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.path(x)
        out += self.shortcut(x)
        return F.relu(out, inplace=True)


class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions and a shortcut.

    (B, channels, H, W) -> (B, width, H / stride, W / stride)
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        path = nn.Sequential(
            conv3x3(channels, width, stride),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            conv3x3(width, width),
            nn.BatchNorm2d(width),
        )
        super().__init__(path, channels, width, stride)


class Bottleneck(ResidualBlock):
    """A 1x1, a 3x3 and a 1x1 convolution and a shortcut; the 3x3 convolution has the stride.

    (B, channels, H, W) -> (B, 4 width, H / stride, W / stride)
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        wide = EXPANSION * width
        path = nn.Sequential(
            nn.Conv2d(channels, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            conv3x3(width, width, stride),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
        )
        super().__init__(path, channels, wide, stride)


def resnet_trunk(
    widths: Sequence[int], blocks: Sequence[int], in_chans: int, bottleneck: bool = False
) -> nn.Sequential:
    """A stem as wide as the first stage, then so many blocks for each width.

    All stages but the first halve the map.
    """
    channels = widths[0]
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        stem=conv3x3(in_chans, channels), norm=nn.BatchNorm2d(channels), relu=nn.ReLU(inplace=True)
    )
    for stage, (width, number) in enumerate(zip(widths, blocks, strict=True), start=1):
        for block in range(number):
            stride = 2 if stage > 1 and block == 0 else 1
            kind = Bottleneck if bottleneck else BasicBlock
            layers[f"stage{stage}_{block}"] = kind(channels, width, stride)
            channels = width * (EXPANSION if bottleneck else 1)
    return nn.Sequential(layers)


@register("resnet18")
def cifar_resnet18(**options: Any) -> PooledNet:
    """ResNet-18."""
    return PooledNet(partial(resnet_trunk, [64, 128, 256, 512], [2, 2, 2, 2]), width=512, **options)


@register("resnet8")
def cifar_resnet8(**options: Any) -> PooledNet:
    """ResNet-8, for tests and small machines."""
    return PooledNet(partial(resnet_trunk, [16, 32, 64], [1, 1, 1]), width=64, **options)


@register("cifar-resnet50")
def cifar_resnet50(**options: Any) -> PooledNet:
    """ResNet-50; the short name ``resnet50`` is timm's, for large images."""
    trunk = partial(resnet_trunk, [64, 128, 256, 512], [3, 4, 6, 3], bottleneck=True)
    return PooledNet(trunk, width=EXPANSION * 512, **options)
