"""The optimizer, and the learning rate as a pure function of the training's progress.

There is no scheduler, and so no state of one to save.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from abatis.config.option_groups import OptimConfig
from abatis.errors import UsageError
from abatis.nets.backbones import unwrap
from abatis.system.timm_import import timm

PEAK = 0.3  # where one-cycle reaches its peak
WARM_START = 0.01  # its first factor
THIS_MACHINE = ("fused", "foreach", "capturable", "differentiable")
"""Settings of torch's optimizers that say how an update is computed, not which one."""


def schedule_rate(config: OptimConfig, step: int, steps: int) -> float:
    """The learning rate of a step, as a share of the peak.

    A warm-up comes first, and the schedule takes the rest of the training. The drops of piecewise
    are at the same steps with or without a warm-up. With ``rate_at = "end"`` a step has the rate
    that the next one has otherwise.

    Args:
        config: The options of the optimizer.
        step: Counts from 0.
        steps: How many steps the training has.
    """
    step += config.rate_at == "end"
    warm = round(config.warmup * steps)
    if step < warm:
        return (step + 1) / (warm + 1)
    progress = (step - warm) / (steps - warm)
    if config.schedule == "piecewise":
        # compared in steps: 0.6 * 100 epochs must drop exactly when 60 epochs are done
        drops = sum(step >= round(milestone * steps) for milestone in config.milestones)
        return float(config.gamma**drops)
    if config.schedule == "cosine":
        return config.final + (1 - config.final) * 0.5 * (1 + math.cos(math.pi * progress))
    if config.schedule == "one-cycle":
        rising = WARM_START + (1 - WARM_START) * progress / PEAK
        return min(rising, (1 - progress) / (1 - PEAK))
    return 1.0


def make_optimizer(
    config: OptimConfig, trained: nn.Module | Sequence[nn.Module], fused: bool = False
) -> torch.optim.Optimizer:
    """SGD or AdamW over the trainable parameters, in groups by weight decay and layer.

    Args:
        config: The options of the optimizer.
        trained: The network; or it and the auxiliary ones, whose layers all have the full rate.
        fused: Make the update in one kernel, which a flag on the device can skip
            (``optimizer.found_inf``).

    Raises:
        UsageError: Rates differ by layer, and the network does not say what its layers are.
    """
    module, *auxiliaries = [trained] if isinstance(trained, nn.Module) else trained
    groups = _group_parameters(config, module)
    level = config.model_copy(update={"layer_decay": 1.0})
    for auxiliary in auxiliaries:
        groups += _group_parameters(level, auxiliary)
    if config.name == "sgd":
        return torch.optim.SGD(
            groups,
            config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            nesterov=config.nesterov,
            fused=fused,
        )
    return torch.optim.AdamW(
        groups, config.lr, betas=config.betas, weight_decay=config.weight_decay, fused=fused
    )


def load_moments(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Take over a saved state, which may be of another kind of device.

    How updates are computed here stays as it is. A fused update needs moments in the memory layout
    of their parameters.

    Args:
        optimizer: That of this run.
        saved: What ``state_dict`` gave.
    """
    own = optimizer.state_dict()["param_groups"]
    groups = [
        {**group, **{name: mine[name] for name in THIS_MACHINE if name in mine}}
        for group, mine in zip(saved["param_groups"], own, strict=True)
    ]
    optimizer.load_state_dict({**saved, "param_groups": groups})
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            alike = isinstance(value, torch.Tensor) and value.shape == parameter.shape
            if alike and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _group_parameters(config: OptimConfig, module: nn.Module) -> list[dict[str, Any]]:
    """One group, as published code for small nets has it; else timm's, by the net's own rules."""
    if config.decay_all:
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        return [{"params": trained}]
    net = unwrap(module)
    exempt: set[str] = getattr(net, "no_weight_decay", set)()
    groups: list[dict[str, Any]]
    if config.layer_decay == 1:
        groups = timm.optim.param_groups_weight_decay(
            net, config.weight_decay, no_weight_decay_list=exempt
        )
        return groups
    if not hasattr(net, "group_matcher"):
        raise UsageError(
            f"--optim.layer-decay: {type(net).__name__} does not say what its layers are",
            fix="leave it out, or choose a timm backbone that defines group_matcher",
        )
    groups = timm.optim.param_groups_layer_decay(
        net, config.weight_decay, no_weight_decay_list=exempt, layer_decay=config.layer_decay
    )
    return groups


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Use a learning rate from now on, scaled layer by layer where the groups say so."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)
