"""My regularizer: options and hooks; the mathematics is in penalty.py."""

from __future__ import annotations

from pydantic import Field

from abatis import PluginConfig, Regularizer, Run, hookimpl

DEFENSE_API = "1.0"


class MyRegularizerConfig(PluginConfig):
    """Options of the penalty."""

    neutral = {"weight": 0}
    soft_labels = True

    weight: float = Field(0.01, ge=0, description="weight of the penalty")


@hookimpl
def defense_config() -> type[PluginConfig]:
    return MyRegularizerConfig


@hookimpl
def defense_regularizer(run: Run) -> Regularizer:
    from abatis_my_regularizer.penalty import MyRegularizer

    return MyRegularizer(run.config(MyRegularizerConfig))
