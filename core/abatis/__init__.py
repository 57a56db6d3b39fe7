"""Abatis: train adversarially robust image classifiers with plugins, and judge them.

Every name is imported when it is first used, so that a plugin's options and hooks load without
torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from abatis.system.lazy import lazy_names

if TYPE_CHECKING:
    from abatis.api.ball import Ball
    from abatis.api.batch import Attacked, Batch
    from abatis.api.context import (
        AdaptiveAttack,
        Attacker,
        Forward,
        Loss,
        Network,
        Objective,
        Regularizer,
        StepContext,
        TrainerHooks,
    )
    from abatis.api.hooks import DEFENSE_API, hookimpl
    from abatis.api.options import PluginConfig, Share
    from abatis.api.randomness import Randomness
    from abatis.api.run import Now, Run
    from abatis.api.term import Term, Terms
    from abatis.api.threat import Threat
    from abatis.config.run_config import RunConfig
    from abatis.errors import (
        AbatisError,
        NotFiniteError,
        PluginConflict,
        PluginError,
        UsageError,
    )
    from abatis.evaluate.evaluation import Evaluation
    from abatis.nets.net import Net
    from abatis.runs.history import history
    from abatis.runs.judging import judge
    from abatis.runs.load import load
    from abatis.runs.own_images import judged_images
    from abatis.runs.result import Result
    from abatis.runs.run import run
    from abatis.train.builtin.apgd import auto_pgd
    from abatis.train.builtin.pgd import maximise, random_start

__version__ = "0.1.0"

_HOME = {
    "api.ball": ("Ball",),
    "api.batch": ("Attacked", "Batch"),
    "api.context": (
        "AdaptiveAttack",
        "Attacker",
        "Forward",
        "Loss",
        "Network",
        "Objective",
        "Regularizer",
        "StepContext",
        "TrainerHooks",
    ),
    "api.hooks": ("DEFENSE_API", "hookimpl"),
    "api.options": ("PluginConfig", "Share"),
    "api.randomness": ("Randomness",),
    "api.run": ("Now", "Run"),
    "api.term": ("Term", "Terms"),
    "api.threat": ("Threat",),
    "config.run_config": ("RunConfig",),
    "errors": ("AbatisError", "NotFiniteError", "PluginConflict", "PluginError", "UsageError"),
    "evaluate.evaluation": ("Evaluation",),
    "nets.net": ("Net",),
    "runs.history": ("history",),
    "runs.judging": ("judge",),
    "runs.load": ("load",),
    "runs.own_images": ("judged_images",),
    "runs.result": ("Result",),
    "runs.run": ("run",),
    "train.builtin.apgd": ("auto_pgd",),
    "train.builtin.pgd": ("maximise", "random_start"),
}

__all__ = [
    "DEFENSE_API",
    "AbatisError",
    "AdaptiveAttack",
    "Attacked",
    "Attacker",
    "Ball",
    "Batch",
    "Evaluation",
    "Forward",
    "Loss",
    "Net",
    "Network",
    "NotFiniteError",
    "Now",
    "Objective",
    "PluginConfig",
    "PluginConflict",
    "PluginError",
    "Randomness",
    "Regularizer",
    "Result",
    "Run",
    "RunConfig",
    "Share",
    "StepContext",
    "Term",
    "Terms",
    "Threat",
    "TrainerHooks",
    "UsageError",
    "auto_pgd",
    "history",
    "hookimpl",
    "judge",
    "judged_images",
    "load",
    "maximise",
    "random_start",
    "run",
]

__getattr__ = lazy_names(__name__, _HOME)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
