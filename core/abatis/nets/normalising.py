"""Normalisation of the channels, as a layer inside the network: outside, images are in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from abatis.data.statistics import (
    CIFAR10_MEAN,
    CIFAR10_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Statistics,
)
from abatis.errors import UsageError

KNOWN: dict[str, Statistics] = {
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
    "cifar10": (CIFAR10_MEAN, CIFAR10_STD),
    "none": ((0.0,) * 3, (1.0,) * 3),
}


class Normalize(nn.Module):
    """``(x - mean) / std`` of images (B, C, H, W).

    The buffers ``mean`` and ``std`` are (1, C, 1, 1).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class Normalized(nn.Module):
    """A backbone on images (B, C, H, W) in [0, 1]."""

    def __init__(self, backbone: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.normalize = Normalize(mean, std)
        self.backbone = backbone

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.backbone(self.normalize(x))
        return logits


class StandardizedImages(nn.Module):
    """A backbone on images (B, C, H, W) that are standardised one by one.

    (x - mean) / max(std, 1 / sqrt(n)), over the n values of each image (Ding et al., 2020).
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> Tensor:
        std, mean = torch.std_mean(x, dim=(1, 2, 3), keepdim=True)
        logits: Tensor = self.backbone((x - mean) / std.clamp(min=x[0].numel() ** -0.5))
        return logits


def parse_statistics(words: Sequence[str]) -> Statistics:
    """Read ``--normalize``: a known name, or MEAN and STD as numbers with commas.

    Raises:
        UsageError: it is neither.
    """
    if len(words) == 1 and words[0] in KNOWN:
        return KNOWN[words[0]]
    try:
        mean, std = (tuple(float(part) for part in word.split(",")) for word in words)
    except ValueError:
        mean, std = (), ()
    if not mean or len(mean) != len(std) or min(std) <= 0 or max(*mean, *std) > 1:
        raise UsageError(
            f"--normalize {' '.join(words)}: not the mean and std of images in [0, 1]",
            fix=f"write {', '.join(KNOWN)}, or MEAN STD, such as 0.49,0.48,0.45 0.25,0.24,0.26",
        )
    return mean, std
