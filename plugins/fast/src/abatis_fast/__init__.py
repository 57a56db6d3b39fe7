"""Single-step training attacks with a guard: options and hooks.

The attacks are in attack.py, the guard in trainer.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from abatis import Attacker, PluginConfig, Run, TrainerHooks, hookimpl


class FastConfig(PluginConfig):
    """The options of the attacks and the guard.

    The attacks have the defaults of the released CIFAR-10 scripts; the defaults of the guard are
    ours.
    """

    soft_labels = True

    variant: Literal["fgsm-rs", "n-fgsm"] = Field(
        "fgsm-rs",
        description="fgsm-rs: noise up to eps, projected onto the ball; n-fgsm: more noise, no "
        "projection",
    )
    alpha: float = Field(
        1.25,
        gt=0,
        le=10,
        description="step size, as a multiple of eps; 1 for n-fgsm if not given",
    )
    noise: float = Field(
        2.0,
        ge=0,
        le=10,
        description="largest uniform noise of n-fgsm, as a multiple of eps",
    )
    guard: float = Field(
        0.25,
        ge=0,
        lt=1,
        description="largest allowed gap between training accuracy under the single step and under "
        "PGD-10; 0: no guard",
    )
    guard_every: int = Field(100, ge=1, description="steps between checks of the guard")
    patience: int = Field(
        2, ge=1, description="stop the run after this many failed checks in a row"
    )

    @model_validator(mode="before")
    @classmethod
    def _step_of_the_variant(cls, raw: Any) -> Any:
        if isinstance(raw, Mapping) and raw.get("variant") == "n-fgsm":
            return {"alpha": 1.0, **raw}
        return raw


@hookimpl
def defense_config() -> type[PluginConfig]:
    return FastConfig


@hookimpl
def defense_attacker(run: Run) -> Attacker:
    from abatis_fast.attack import SingleStep

    return SingleStep(run, run.config(FastConfig))


@hookimpl
def defense_trainer(run: Run) -> TrainerHooks | None:
    from abatis_fast.trainer import OverfittingGuard

    config = run.config(FastConfig)
    return OverfittingGuard(run, config) if config.guard else None
