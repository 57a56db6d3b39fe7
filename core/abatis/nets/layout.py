"""Which other way of running a network leaves its logits as they are."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from abatis.errors import UsageError, did_you_mean

CONTIGUOUS, CHANNELS_LAST = "contiguous", "channels_last"
LAYOUTS = {CONTIGUOUS: torch.contiguous_format, CHANNELS_LAST: torch.channels_last}
SAFE_CHANNELS = 8
LOGITS_TOLERANCE = 1e-4  # of the largest logit; rounding is a hundredth of it
"""Logits that differ by less are those of the same function."""


def find_layout(asked: str) -> str:
    """The layout of an evaluation, from "auto" or its name.

    Raises:
        UsageError: there is no such layout.
    """
    if asked != "auto" and asked not in LAYOUTS:
        raise UsageError(
            f"layout {asked!r}: {did_you_mean(asked, LAYOUTS)}",
            fix=f"use one of auto, {', '.join(LAYOUTS)}",
        )
    return CHANNELS_LAST if asked == "auto" else asked


def damages_memory(module: nn.Module, device: torch.device) -> bool:
    """Would torch write beyond its memory on the CPU if this network ran in channels_last?

    The gradient of the kernel of a strided 1x1 convolution does, from fewer than 8 channels.
    """
    return device.type == "cpu" and any(
        part.in_channels < SAFE_CHANNELS and max(part.kernel_size) == 1 and max(part.stride) > 1
        for part in module.modules()
        if isinstance(part, nn.Conv2d)
    )


def agrees(plain: Tensor, forward: Callable[[], Tensor]) -> bool:
    """Does another way of running a network give the same logits, up to rounding?

    Not where the network raises an error.
    """
    try:
        other = forward()
    except RuntimeError:
        return False
    return other.shape == plain.shape and bool(
        (other - plain).abs().max() <= LOGITS_TOLERANCE * plain.abs().max()
    )
