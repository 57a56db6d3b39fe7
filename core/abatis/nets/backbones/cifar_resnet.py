"""ResNets (He et al., 2016) for small images: a 3x3 stem of stride 1 and no max-pooling."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from abatis.nets.backbones.pooled import PooledNet, build_net, conv3x3, register


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut.

    (B, channels, H, W) -> (B, width, H / stride, W / stride)
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            conv3x3(channels, width, stride),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            conv3x3(width, width),
            nn.BatchNorm2d(width),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.path(x)
        out += self.shortcut(x)
        return F.relu(out, inplace=True)


def resnet_trunk(widths: Sequence[int], blocks: int, in_chans: int) -> nn.Sequential:
    """A stem as wide as the first stage, then ``blocks`` blocks for each width.

    All stages but the first halve the map.
    """
    channels = widths[0]
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        stem=conv3x3(in_chans, channels), norm=nn.BatchNorm2d(channels), relu=nn.ReLU(inplace=True)
    )
    for stage, width in enumerate(widths, start=1):
        for block in range(blocks):
            stride = 2 if stage > 1 and block == 0 else 1
            layers[f"stage{stage}_{block}"] = BasicBlock(channels, width, stride)
            channels = width
    return nn.Sequential(layers)


@register("resnet18")
def cifar_resnet18(pretrained: bool = False, **options: Any) -> PooledNet:
    """ResNet-18."""
    return build_net(
        "cifar_resnet18",
        pretrained,
        partial(resnet_trunk, [64, 128, 256, 512], 2),
        width=512,
        **options,
    )


@register("resnet8")
def cifar_resnet8(pretrained: bool = False, **options: Any) -> PooledNet:
    """ResNet-8, for tests and small machines."""
    return build_net(
        "cifar_resnet8", pretrained, partial(resnet_trunk, [16, 32, 64], 1), width=64, **options
    )
