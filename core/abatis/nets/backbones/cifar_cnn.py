"""A plain convolutional net of about 0.1 million parameters, for digits and first tries."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import nn

from abatis.nets.backbones.pooled import PooledNet, build_net, conv3x3, register

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
def cifar_cnn(pretrained: bool = False, **options: Any) -> PooledNet:
    """Four convolutions and a linear head."""
    return build_net("cifar_cnn", pretrained, cnn_trunk, width=64, **options)
