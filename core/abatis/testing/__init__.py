"""For tests of plugins: terms by themselves, tiny networks, single steps, and the contract.

Every name is imported when it is first used: pytest loads this package in every session, and torch
takes seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from abatis.system.lazy import lazy_names

if TYPE_CHECKING:
    from abatis.api.term import total
    from abatis.config.option_groups import AttackConfig
    from abatis.testing.contract.bench import (
        THREAT,
        Bench,
        digits_batch,
        smooth_network,
        tiny_batch,
        tiny_network,
        tiny_vit,
    )
    from abatis.testing.contract.standard import STANDARD, PluginContract
    from abatis.testing.replaying import Replayed, replay
    from abatis.testing.terms import loss_terms, network_of, penalty_terms, plan_of, step_of
    from abatis.testing.trainers import add_averaging, load_plugin_state
    from abatis.train.micro_batches import RowShare

_HOME = {
    "api.term": ("total",),
    "config.option_groups": ("AttackConfig",),
    "testing.contract.bench": (
        "THREAT",
        "Bench",
        "digits_batch",
        "smooth_network",
        "tiny_batch",
        "tiny_network",
        "tiny_vit",
    ),
    "testing.contract.standard": ("STANDARD", "PluginContract"),
    "testing.replaying": ("Replayed", "replay"),
    "testing.terms": ("loss_terms", "network_of", "penalty_terms", "plan_of", "step_of"),
    "testing.trainers": ("add_averaging", "load_plugin_state"),
    "train.micro_batches": ("RowShare",),
}

__all__ = [
    "STANDARD",
    "THREAT",
    "AttackConfig",
    "Bench",
    "PluginContract",
    "Replayed",
    "RowShare",
    "add_averaging",
    "digits_batch",
    "load_plugin_state",
    "loss_terms",
    "network_of",
    "penalty_terms",
    "plan_of",
    "replay",
    "smooth_network",
    "step_of",
    "tiny_batch",
    "tiny_network",
    "tiny_vit",
    "total",
]

__getattr__ = lazy_names(__name__, _HOME)


def __dir__() -> list[str]:
    return __all__
