"""My attacker: options and hooks; the mathematics is in attack.py."""

from __future__ import annotations

from pydantic import Field

from abatis import Attacker, PluginConfig, Run, hookimpl

DEFENSE_API = "1.0"


class MyAttackerConfig(PluginConfig):
    """Options of the attack."""

    soft_labels = True

    step: float = Field(1.25, gt=0, le=10, description="length of the step, as a multiple of eps")


@hookimpl
def defense_config() -> type[PluginConfig]:
    return MyAttackerConfig


@hookimpl
def defense_attacker(run: Run) -> Attacker:
    from abatis_my_attacker.attack import MyAttacker

    return MyAttacker(run, run.config(MyAttackerConfig))
