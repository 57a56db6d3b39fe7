"""A plain convolutional net of about 0.1 million parameters, for digits and first tries."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import nn

from abatis.nets.backbones.own_nets import register
from abatis.nets.backbones.pooled import PooledNet, conv3x3

LAYERS = ((32, 1), (64, 2), (64, 1), (64, 2))  # width and stride


def cnn_trunk(in_chans: int) -> nn.Sequential:
    """Four 3x3 convolutions with batch norm and ReLU; the last map is a quarter as wide."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels = in_chans
    for number, (width, stride) in enumerate(LAYERS):
        layers[f"conv{number}" if number else "stem"] = conv3x3(channels, width, stride)
        layers[f"norm{number}"] = nn.BatchNorm2d(width)
        layers[f"relu{number}"] = nn.ReLU(inplace=True)
        channels = width
    return nn.Sequential(layers)


@register("cnn")
def cifar_cnn(**options: Any) -> PooledNet:
    """Four convolutions and a linear head."""
    return PooledNet(cnn_trunk, 64, **options)
