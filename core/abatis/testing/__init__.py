"""For tests, ours and a plugin author's: terms by themselves, small networks, one step, and the contract every plugin keeps.

Everything below is imported when first used: pytest loads this package in every session, and torch takes seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from abatis.system.lazy import lazy_names

if TYPE_CHECKING:
    from abatis.api.term import total
    from abatis.config.run_config import AttackConfig
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
    from abatis.testing.terms import loss_terms, penalty_terms, plan_of, step_of
    from abatis.train.micro_batches import RowShare

_HOME = {
    "api.term": ("total",),
    "config.run_config": ("AttackConfig",),
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
    "testing.terms": ("loss_terms", "penalty_terms", "plan_of", "step_of"),
    "train.micro_batches": ("RowShare",),
}

__all__ = [
    "STANDARD",
    "THREAT",
    "AttackConfig",
    "Bench",
    "PluginContract",
    "RowShare",
    "digits_batch",
    "loss_terms",
    "penalty_terms",
    "plan_of",
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
