"""The learning rate as a pure function of the training's progress: there is no scheduler state to save."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from abatis.config import OptimConfig

PEAK = 0.3  # where one-cycle reaches its peak
WARM_START = 0.01  # its first factor


def factor(config: OptimConfig, step: int, steps: int) -> float:
    """Share of the peak learning rate at a step counted from 0."""
    progress = step / steps
    if config.schedule == "piecewise":
        # compared in steps: 0.6 * 100 epochs must drop exactly when 60 epochs are done
        return float(config.gamma ** sum(step >= round(milestone * steps) for milestone in config.milestones))
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    if config.schedule == "one-cycle":
        rising = WARM_START + (1 - WARM_START) * progress / PEAK
        return min(rising, (1 - progress) / (1 - PEAK))
    return 1.0


def make_optimizer(config: OptimConfig, parameters: Iterable[nn.Parameter], fused: bool = False) -> torch.optim.Optimizer:
    """SGD or AdamW over one group: weight decay on every parameter, as in the field's published code.

    fused: one kernel for the update, which a flag on the device can leave out (``optimizer.found_inf``).
    """
    if config.name == "sgd":
        return torch.optim.SGD(parameters, config.lr, momentum=config.momentum, weight_decay=config.weight_decay, fused=fused)
    return torch.optim.AdamW(parameters, config.lr, weight_decay=config.weight_decay, fused=fused)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Use a learning rate from now on."""
    for group in optimizer.param_groups:
        group["lr"] = rate
