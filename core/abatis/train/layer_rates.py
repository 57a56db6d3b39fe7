"""``--optim.rates``: learning rates of single layers, as factors of that of all others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from abatis.config.plan_row import PlanRow
from abatis.errors import UsageError
from abatis.nets.layer_names import explain_missing, find_parameters

OPTION = "--optim.rates"
LAYERS = "layers"  # of a group, the names of its parameters: moments belong to these alone


def scale_layers(
    groups: Sequence[Mapping[str, Any]], module: nn.Module, rates: Sequence[str]
) -> list[dict[str, Any]]:
    """Split groups of an optimizer by the learning rates of layers.

    Args:
        groups: of the network's parameters, each perhaps with a ``lr_scale`` of its own.
        module: the network.
        rates: as in ``--optim.rates``.

    Returns:
        Groups that have one rate each, with its factor in ``lr_scale``, and the names of their
        parameters; their other settings, such as the weight decay, are those of the groups they
        come from.
    """
    found = find_rates(module, rates, type(module).__name__)
    factors = {key: read_rate(text)[1] for key, text in found.items()}
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    scaled: list[dict[str, Any]] = []
    for group in groups:
        by_factor: dict[float, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            by_factor.setdefault(factors.get(id(parameter), 1.0), []).append(parameter)
        for factor, parameters in by_factor.items():
            scale = factor * group.get("lr_scale", 1.0)
            layers = [names[id(parameter)] for parameter in parameters]
            scaled.append({**group, "params": parameters, "lr_scale": scale, LAYERS: layers})
    return scaled


def find_rates(module: nn.Module, rates: Sequence[str], name: str) -> dict[int, str]:
    """Which of the rates each parameter has, by its id: the last that means it.

    Args:
        module: the network.
        rates: as in ``--optim.rates``.
        name: of the network, for messages.

    Raises:
        UsageError: a pattern means no layer, or none that is trained.
    """
    chosen: dict[int, str] = {}
    for text in rates:
        pattern, _ = read_rate(text)
        found = find_parameters(module, pattern)
        if not found:
            raise explain_missing(module, name, f"{OPTION} {text}", pattern)
        trained = [parameter for parameter in found if parameter.requires_grad]
        if not trained:
            raise UsageError(
                f"{OPTION} {text}: {pattern} of {name} is frozen",
                fix=f"leave {text} out, or train the layer",
            )
        chosen |= dict.fromkeys(map(id, trained), text)
    return chosen


def read_rate(text: str) -> tuple[str, float]:
    """A pattern and its factor from ``PATTERN=FACTOR``."""
    pattern, _, factor = text.rpartition("=")
    return pattern, float(factor)


def describe_rates(module: nn.Module, rates: Sequence[str], name: str) -> tuple[PlanRow, ...]:
    """The plan's row of the rates by layer; raises UsageError as :func:`find_rates` does."""
    if not rates:
        return ()
    chosen = find_rates(module, rates, name)
    sizes = dict.fromkeys((*rates, "others"), 0)
    for weight in module.parameters():
        if weight.requires_grad:
            sizes[chosen.get(id(weight), "others")] += weight.numel()
    options = {text: f"({size:,} parameters)" for text, size in sizes.items()}
    return (PlanRow("rates", "by layer", "", options),)
