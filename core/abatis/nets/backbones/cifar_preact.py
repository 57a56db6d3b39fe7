"""Pre-activation nets for small images: wide ResNets and PreActResNet-18.

Zagoruyko and Komodakis, 2016; He et al., 2016. They are one design: basic blocks, a 1x1
convolution as shortcut where the shape changes, a last batch norm and ReLU.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from abatis.nets.backbones.pooled import PooledNet, build_net, conv3x3, register


class PreActBlock(nn.Module):
    """BN, ReLU, conv, BN, ReLU, conv: (B, channels, H, W) -> (B, width, H / stride, W / stride)."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.activate1 = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
        self.conv1 = conv3x3(channels, width, stride)
        self.activate2 = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        self.conv2 = conv3x3(width, width)
        reshapes = stride != 1 or channels != width
        self.shortcut = nn.Conv2d(channels, width, 1, stride, bias=False) if reshapes else None

    def forward(self, x: Tensor) -> Tensor:
        activated = self.activate1(x)
        kept = x if self.shortcut is None else self.shortcut(activated)
        added: Tensor = kept + self.conv2(self.activate2(self.conv1(activated)))
        return added


def preact_trunk(stem: int, widths: Sequence[int], blocks: int, in_chans: int) -> nn.Sequential:
    """A stem of ``stem`` channels, then ``blocks`` blocks for each width.

    All stages but the first halve the map.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict(stem=conv3x3(in_chans, stem))
    channels = stem
    for stage, width in enumerate(widths, start=1):
        for block in range(blocks):
            stride = 2 if stage > 1 and block == 0 else 1
            layers[f"stage{stage}_{block}"] = PreActBlock(channels, width, stride)
            channels = width
    layers["norm"], layers["relu"] = nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
    return nn.Sequential(layers)


def wide_resnet(name: str, depth: int, factor: int, pretrained: bool, **options: Any) -> PooledNet:
    """WRN-depth-factor; its authors count ``depth = 6 * blocks + 4``."""
    trunk = partial(preact_trunk, 16, [16 * factor, 32 * factor, 64 * factor], (depth - 4) // 6)
    return build_net(name, pretrained, trunk, width=64 * factor, **options)


@register("wrn28")
def cifar_wrn28_10(pretrained: bool = False, **options: Any) -> PooledNet:
    """WRN-28-10."""
    return wide_resnet("cifar_wrn28_10", 28, 10, pretrained, **options)


@register("wrn34")
def cifar_wrn34_10(pretrained: bool = False, **options: Any) -> PooledNet:
    """WRN-34-10."""
    return wide_resnet("cifar_wrn34_10", 34, 10, pretrained, **options)


@register("wrn70")
def cifar_wrn70_16(pretrained: bool = False, **options: Any) -> PooledNet:
    """WRN-70-16."""
    return wide_resnet("cifar_wrn70_16", 70, 16, pretrained, **options)


@register("preactresnet18")
def cifar_preactresnet18(pretrained: bool = False, **options: Any) -> PooledNet:
    """PreActResNet-18, with the batch norm and ReLU before pooling."""
    trunk = partial(preact_trunk, 64, [64, 128, 256, 512], 2)
    return build_net("cifar_preactresnet18", pretrained, trunk, width=512, **options)
