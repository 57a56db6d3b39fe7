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
from abatis.train.layer_rates import LAYERS, scale_layers

PEAK = 0.3  # where one-cycle reaches its peak
WARM_START = 0.01  # its first factor


def schedule_rate(config: OptimConfig, step: int, steps: int, per_epoch: int = 1) -> float:
    """The learning rate of a step, as a share of the peak.

    A warm-up comes first, and the schedule takes the rest of the training. The drops of piecewise
    are at the same steps with or without a warm-up. With ``rate_at = "end"`` a step has the rate
    that the next one has otherwise.

    Args:
        config: The options of the optimizer.
        step: Counts from 0.
        steps: How many steps the training has.
        per_epoch: How many steps an epoch has.
    """
    if config.rate_every == "epoch":
        step, steps = step // per_epoch, steps // per_epoch
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
    if config.schedule == "one-cycle-cosine":
        return _cycle(config, step - warm, steps - warm, (config.first, 1.0, config.final))
    if config.schedule == "one-cycle":
        rising = WARM_START + (1 - WARM_START) * progress / PEAK
        return min(rising, (1 - progress) / (1 - PEAK))
    return 1.0


def schedule_momentum(
    config: OptimConfig, step: int, steps: int, per_epoch: int = 1
) -> float | None:
    """The momentum of a step, for :func:`schedule_rate`'s arguments; None where it is constant."""
    if config.momentum_range is None:
        return None
    if config.rate_every == "epoch":
        step, steps = step // per_epoch, steps // per_epoch
    warm = round(config.warmup * steps)
    least, most = config.momentum_range
    return _cycle(config, max(step - warm, 0), steps - warm, (most, least, most))


def _cycle(config: OptimConfig, step: int, steps: int, values: tuple[float, float, float]) -> float:
    """From the first value to the second, the peak's, and on to the third: half a cosine each.

    As in torch's OneCycleLR the peak is at ``rise * steps - 1``, and the end at ``steps - 1``.
    """
    peak, (first, second, third) = config.rise * steps - 1, values
    if peak > 0 and step <= peak:
        return _ease(first, second, step / peak)
    rest = steps - 1 - max(peak, -1)
    return _ease(second, third, min(1.0, (step - peak) / rest) if rest > 0 else 1.0)


def _ease(start: float, end: float, share: float) -> float:
    """Half a cosine from one value to another."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))


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
        UsageError: Rates differ by layer, and the network does not say what its layers are, or has
            no such layer.
    """
    module, *auxiliaries = [trained] if isinstance(trained, nn.Module) else trained
    groups = _group_parameters(config, module)
    if config.rates:
        groups = scale_layers(groups, module, config.rates)
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


def check_groups(saved: Mapping[str, Any], own: Mapping[str, Any], what: str, fix: str) -> None:
    """Raise UsageError where moments would go to other parameters than those they are of.

    Args:
        saved: The ``state_dict`` of the optimizer that the moments come from.
        own: That of this run's.
        what: Begins the message, such as an option.
        fix: Ends it.
    """
    sizes, wanted = (
        [len(group["params"]) for group in table["param_groups"]] for table in (saved, own)
    )
    if sizes != wanted:
        raise UsageError(
            f"{what}: that optimizer has groups of {sizes} tensors, this one's {wanted}", fix=fix
        )
    for group, mine in zip(saved["param_groups"], own["param_groups"], strict=True):
        if group.get(LAYERS) != mine.get(LAYERS):
            raise UsageError(
                f"{what}: --optim.rates means other layers than in that optimizer", fix=fix
            )


def load_moments(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Take over saved moments, which may be of another kind of device.

    Rates, decays and how updates are computed stay those of this run. A fused update needs moments
    in the memory layout of their parameters.

    Args:
        optimizer: That of this run.
        saved: What ``state_dict`` gave.

    Raises:
        UsageError: The saved optimizer has other groups of parameters.
    """
    own = optimizer.state_dict()
    check_groups(saved, own, "the checkpoint", "give the options of the optimizer as in that run")
    optimizer.load_state_dict({**saved, "param_groups": own["param_groups"]})
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            alike = isinstance(value, torch.Tensor) and value.shape == parameter.shape
            if alike and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _group_parameters(config: OptimConfig, module: nn.Module) -> list[dict[str, Any]]:
    """One group, as published code for small nets has it; else timm's, by the net's own rules."""
    if config.decay_all and not config.decay_norms:
        return _group_norms(module)
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


def _group_norms(module: nn.Module) -> list[dict[str, Any]]:
    """All but the parameters of norms, and these, which do not decay."""
    norms = {
        id(parameter)
        for part in module.modules()
        if "norm" in type(part).__name__.lower()
        for parameter in part.parameters(recurse=False)
    }
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    others = [parameter for parameter in trained if id(parameter) not in norms]
    still = [parameter for parameter in trained if id(parameter) in norms]
    groups: list[dict[str, Any]] = [{"params": others}]
    return [*groups, {"params": still, "weight_decay": 0.0}] if still else groups


def set_rate(optimizer: torch.optim.Optimizer, rate: float, momentum: float | None = None) -> None:
    """Use a learning rate from now on, scaled layer by layer where the groups say so.

    Args:
        optimizer: Whose rate changes.
        rate: That of the last layer.
        momentum: That of SGD; None leaves it as it is.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)
        if momentum is not None:
            group["momentum"] = momentum
