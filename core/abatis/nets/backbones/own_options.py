"""The options of our own nets that a user can choose: which nets have which."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from abatis.errors import UsageError
from abatis.nets.backbones import cifar_preact
from abatis.nets.backbones.own_nets import OWN_NETS

DESIGN = ("activation", "padding")  # of wide ResNets and PreActResNets
EXAMPLES = "resnet18, wrn28, wrn28-silu"


def check_own_options(name: str, resolved: str, own: Mapping[str, Any]) -> None:
    """Raise UsageError where an option of our nets is asked for of a net that lacks it.

    Args:
        name: of the net, as the user wrote it.
        resolved: timm's name of it.
        own: the options.
    """
    if not own:
        return
    option = f"--backbone-{next(iter(own))} {next(iter(own.values()))}"
    own_net = OWN_NETS.get(resolved)
    if own_net is None:
        raise UsageError(
            f"{option} is for our own networks, and {name} is none of them",
            fix=f"leave it out, or choose one of them, such as {EXAMPLES}",
        )
    wrong = [key for key in DESIGN if key in own]
    if wrong and own_net.build.__module__ != cifar_preact.__name__:
        raise UsageError(
            f"--backbone-{wrong[0]} {own[wrong[0]]} is for wide ResNets and PreActResNets, and "
            f"{name} is none of them",
            fix="leave it out, or choose one of them, such as wrn28 or preactresnet18",
        )
