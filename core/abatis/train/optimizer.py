"""The learning rate as a pure function of the training's progress: there is no scheduler state to save."""

from __future__ import annotations

import importlib
import math
from typing import Any

import torch
from torch import nn

from abatis.config.run_config import OptimConfig
from abatis.errors import UsageError
from abatis.nets.backbones import inner

PEAK = 0.3  # where one-cycle reaches its peak
WARM_START = 0.01  # its first factor


def factor(config: OptimConfig, step: int, steps: int) -> float:
    """Share of the peak learning rate at a step counted from 0; a warm-up comes before the schedule, which then takes the rest.

    The drops of piecewise lie where they are, with or without a warm-up.
    """
    warm = round(config.warmup * steps)
    if step < warm:
        return (step + 1) / (warm + 1)
    progress = (step - warm) / (steps - warm)
    if config.schedule == "piecewise":
        # compared in steps: 0.6 * 100 epochs must drop exactly when 60 epochs are done
        return float(
            config.gamma ** sum(step >= round(milestone * steps) for milestone in config.milestones)
        )
    if config.schedule == "cosine":
        return config.final + (1 - config.final) * 0.5 * (1 + math.cos(math.pi * progress))
    if config.schedule == "one-cycle":
        rising = WARM_START + (1 - WARM_START) * progress / PEAK
        return min(rising, (1 - progress) / (1 - PEAK))
    return 1.0


def make_optimizer(
    config: OptimConfig, module: nn.Module, fused: bool = False
) -> torch.optim.Optimizer:
    """SGD or AdamW over the parameters that take part in training, in the groups that weight decay and layers ask for.

    fused: one kernel for the update, which a flag on the device can leave out (``optimizer.found_inf``).
    Raises UsageError where layers cannot be told apart.
    """
    groups = _groups(config, module)
    if config.name == "sgd":
        return torch.optim.SGD(
            groups,
            config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            fused=fused,
        )
    return torch.optim.AdamW(
        groups, config.lr, betas=config.betas, weight_decay=config.weight_decay, fused=fused
    )


def _groups(config: OptimConfig, module: nn.Module) -> list[dict[str, Any]]:
    """One group as in the field's published code for small nets; else timm's, by the rules of the net itself."""
    if config.decay_all:
        return [
            {"params": [parameter for parameter in module.parameters() if parameter.requires_grad]}
        ]
    net = inner(module)
    exempt: set[str] = getattr(net, "no_weight_decay", set)()
    groups = importlib.import_module("timm.optim")
    if config.layer_decay == 1:
        found: list[dict[str, Any]] = groups.param_groups_weight_decay(
            net, config.weight_decay, no_weight_decay_list=exempt
        )
        return found
    if not hasattr(net, "group_matcher"):
        raise UsageError(
            f"--optim.layer-decay: {type(net).__name__} does not say what its layers are",
            fix="leave it out, or take a timm net made for it",
        )
    by_layer: list[dict[str, Any]] = groups.param_groups_layer_decay(
        net, config.weight_decay, no_weight_decay_list=exempt, layer_decay=config.layer_decay
    )
    return by_layer


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Use a learning rate from now on, scaled layer by layer where the groups say so."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)
