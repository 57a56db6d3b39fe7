"""Convolutional stems of ViT and ConvNeXt (Singh et al., NeurIPS 2023, arXiv 2303.01870).

ViT, patches of 16 pixels: four 3x3 convolutions of stride 2 with 48, 96, 192 and 384 channels, then
a 1x1 convolution to the width. Patches of 2^k pixels have k convolutions of stride 2.
ConvNeXt of width 96: two of stride 2 with 48 and 96 channels; wider ones, of width 2w: two of
stride 2 with w and 1.5w channels, and one of stride 1 with 2w.
A layer norm over the channels and a GELU come behind every 3x3 convolution. All have biases.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from abatis import UsageError

FIRST = 48  # channels of a ViT's first convolution
NARROW = 96  # width up to which a ConvNeXt has two convolutions


class ChannelNorm(nn.LayerNorm):
    """A layer norm over the channels of (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        last = x.permute(0, 2, 3, 1)
        normed = F.layer_norm(last, self.normalized_shape, self.weight, self.bias, self.eps)
        return normed.permute(0, 3, 1, 2)


def make_stem(channels: int, widths: Sequence[int], halved: int, last: int = 0) -> nn.Sequential:
    """Make a stem.

    Args:
        channels: of the images.
        widths: channels of each 3x3 convolution.
        halved: how many of them have stride 2.
        last: channels of a 1x1 convolution behind them; 0 for none.
    """
    layers: list[nn.Module] = []
    for number, width in enumerate(widths):
        stride = 2 if number < halved else 1
        layers += [nn.Conv2d(channels, width, 3, stride, 1), ChannelNorm(width), nn.GELU()]
        channels = width
    return nn.Sequential(*layers, *([nn.Conv2d(channels, last, 1)] if last else []))


def make_vit_stem(channels: int, patch: int, width: int) -> nn.Sequential:
    """Return the stem in the place of square patches of ``patch`` pixels, a power of 2."""
    count = patch.bit_length() - 1
    return make_stem(channels, [FIRST * 2**number for number in range(count)], count, width)


def make_convnext_stem(channels: int, width: int) -> nn.Sequential:
    """Return the stem in the place of patches of 4 pixels."""
    if width <= NARROW:
        return make_stem(channels, [width // 2, width], 2)
    return make_stem(channels, [width // 2, 3 * width // 4, width], 2)


def replace_stem(module: nn.Module, refuse: bool) -> nn.Module | None:
    """Replace the patch stem of a ViT or ConvNeXt of timm, in place; None where there is none.

    Raises:
        UsageError: there is none, and that is to be refused.
    """
    for part in module.modules():
        patches, stem = getattr(part, "patch_embed", None), getattr(part, "stem", None)
        proj = getattr(patches, "proj", None)
        if patches is not None and isinstance(proj, nn.Conv2d) and _is_patch(proj):
            patches.proj = make_vit_stem(proj.in_channels, proj.stride[0], proj.out_channels).to(
                proj.weight
            )
            return module
        if isinstance(stem, nn.Sequential) and isinstance(stem[0], nn.Conv2d):
            first = stem[0]
            if _is_patch(first) and first.stride == (4, 4):
                part.stem = make_convnext_stem(first.in_channels, first.out_channels).to(
                    first.weight
                )
                return module
    if refuse:
        raise UsageError(
            "convstem: the network has no stem of square patches, as ViTs and ConvNeXts have",
            fix="give such a --backbone, like convnext_tiny, or add --convstem.other keep",
        )
    return None


def _is_patch(layer: nn.Conv2d) -> bool:
    """Does a convolution cut images into squares whose side is a power of 2?"""
    side = layer.stride[0]
    return layer.kernel_size == layer.stride == (side, side) and side & (side - 1) == 0 and side > 1
