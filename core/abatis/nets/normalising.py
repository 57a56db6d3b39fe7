"""Normalisation of the channels, as a layer inside the network: outside, images are in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from abatis.config.option_values import NORMALIZE_FORM, OLD_NORMALIZE, check_normalize
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
}
OF_DATA = ("data", OLD_NORMALIZE)
UNWRAPPED = ("data", "none")
"""Words with which a network that a function makes is trained as it is."""


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


def read_normalize(value: object) -> str:
    """A value of ``--normalize`` in one spelling: a word, or MEAN STD.

    Raises:
        UsageError: it is neither.
    """
    try:
        return check_normalize(value)
    except ValueError:
        shown = " ".join(map(str, value)) if isinstance(value, list | tuple) else value
        raise UsageError(
            f"--normalize {shown}: not the mean and std of images in [0, 1]",
            fix=f"write {NORMALIZE_FORM}",
        ) from None


def find_statistics(asked: str, of_data: Statistics | None, channels: int = 3) -> Statistics:
    """Mean and standard deviation of the channels that ``--normalize`` asks for.

    Args:
        asked: what :func:`read_normalize` returns.
        of_data: those of the data; None where they are not known.
        channels: of the images.

    Raises:
        UsageError: they are not known, or of another number of channels.
    """
    if asked == "none":
        return (0.0,) * channels, (1.0,) * channels
    if asked in OF_DATA:
        if of_data is None:
            raise UsageError(
                f"--normalize {asked}: there are no data here to take it from",
                fix="give mean and std as numbers, or imagenet, cifar10 or none",
            )
        return of_data if asked == "data" else (of_data[0], (1.0,) * channels)
    if asked in KNOWN:
        mean, std = KNOWN[asked]
    else:
        mean, std = (tuple(map(float, word.split(","))) for word in asked.split())
    if len(mean) == 1:
        mean, std = mean * channels, std * channels
    if len(mean) != channels:
        raise UsageError(
            f"--normalize {asked}: {len(mean)} channels, and the images have {channels}",
            fix="give one mean and one std for each channel",
        )
    return mean, std
