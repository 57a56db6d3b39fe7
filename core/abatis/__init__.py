"""Abatis: plugin-based training of image classifiers that stay right under attack.

Everything below is imported when first used, so that options and hooks of a plugin load without torch.
"""

from __future__ import annotations

import importlib
import random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from abatis.ball import Ball
    from abatis.config import PluginConfig, RunConfig
    from abatis.errors import AbatisError, PluginError, UsageError
    from abatis.hooks import DEFENSE_API, hookimpl
    from abatis.net import Net
    from abatis.published import load
    from abatis.runner import Result, run
    from abatis.types import (
        AdaptiveAttack,
        Attacked,
        Attacker,
        Batch,
        Loss,
        Regularizer,
        Run,
        StepContext,
        Term,
        Terms,
        Threat,
        TrainerHooks,
    )

__version__ = "0.1.0"

_HOME = {
    "ball": ("Ball",),
    "config": ("PluginConfig", "RunConfig"),
    "errors": ("AbatisError", "PluginError", "UsageError"),
    "hooks": ("DEFENSE_API", "hookimpl"),
    "net": ("Net",),
    "published": ("load",),
    "runner": ("Result", "run"),
    "types": (
        "AdaptiveAttack", "Attacked", "Attacker", "Batch", "Loss", "Regularizer", "Run", "StepContext", "Term", "Terms",
        "Threat", "TrainerHooks",
    ),
}  # fmt: skip
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "DEFENSE_API",
    "AbatisError",
    "AdaptiveAttack",
    "Attacked",
    "Attacker",
    "Ball",
    "Batch",
    "Loss",
    "Net",
    "PluginConfig",
    "PluginError",
    "Regularizer",
    "Result",
    "Run",
    "RunConfig",
    "StepContext",
    "Term",
    "Terms",
    "Threat",
    "TrainerHooks",
    "UsageError",
    "hookimpl",
    "load",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'abatis' has no attribute {name!r}")
    state = random.getstate()
    try:
        return getattr(importlib.import_module(f"abatis.{_MODULE_OF[name]}"), name)
    finally:
        random.setstate(state)  # rich draws while it is imported
