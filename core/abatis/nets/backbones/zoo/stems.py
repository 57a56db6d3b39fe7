"""Other beginnings of timm's networks: convolutional stems, and smaller patches.

Singh, Croce and Hein, 2023 (arXiv 2303.01870); Debenedetti, Sehwag and Mittal, 2022 (2209.07399).
The tensors have the names that the released weights have.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

EPS = 1e-6
HALVING = 2  # convolutions of stride 2 in a stem for patches of 4 pixels


class ChannelNorm(nn.Module):
    """Layer norm over the channels of each pixel: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        var, mean = torch.var_mean(x, dim=1, correction=0, keepdim=True)
        normalised = (x - mean) / (var + EPS).sqrt()
        return self.weight[:, None, None] * normalised + self.bias[:, None, None]


class Stem(nn.Module):
    """Layers under the name ``stem``: images (B, 3, H, W) to a map."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.stem = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.stem(x)
        return out


def _convolve(widths: Sequence[int], halving: int) -> list[nn.Module]:
    """A 3x3 convolution, a norm and a GELU for each width; the first ones halve the map."""
    layers: list[nn.Module] = []
    channels = 3
    for place, width in enumerate(widths):
        stride = 2 if place < halving else 1
        layers += [nn.Conv2d(channels, width, 3, stride, 1), ChannelNorm(width), nn.GELU()]
        channels = width
    return layers


def convnext_stem(net: Any, widths: Sequence[int]) -> None:
    """Give a ConvNeXt a stem of so many convolutions, of which two halve the map."""
    net.stem = Stem(_convolve(widths, HALVING))


def vit_stem(net: Any) -> None:
    """Give a ViT four convolutions that halve the map, and one to its width, for its patches."""
    widths = (48, 96, 192, 384)
    last = nn.Conv2d(widths[-1], net.embed_dim, 1)
    net.patch_embed.proj = Stem([*_convolve(widths, len(widths)), last])


def shrink_patches(net: Any) -> None:
    """Give an XCiT patches of 4 pixels in place of 16: its first two convolutions keep the map."""
    for place in (0, 2):  # an activation stands between them
        net.patch_embed.proj[place][0].stride = (1, 1)
    net.patch_embed.patch_size = 4
