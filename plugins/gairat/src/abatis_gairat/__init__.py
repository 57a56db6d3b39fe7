"""Geometry-aware instance re-weighting (GAIRAT): options and hook.

The mathematics is in loss.py.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Literal

from pydantic import ConfigDict, Field

from abatis import Loss, PluginConfig, Run, Share, hookimpl


class GairatConfig(PluginConfig):
    """The options of GAIRAT, with the defaults of the released script."""

    model_config = ConfigDict(ser_json_inf_nan="strings")

    neutral = {"omega": "tanh", "shift": math.inf}
    shares = {"burn_in": "begin_at"}

    omega: Literal["tanh", "sigmoid", "discrete"] = Field(
        "tanh", description="function that maps survived attack steps to weights"
    )
    shift: float = Field(
        -1.0,
        ge=-10,
        description="Lambda, added inside tanh and sigmoid; larger values give more equal "
        "weights; inf: all 1",
    )
    burn_in: int = Field(
        59,
        ge=0,
        description="number of first epochs in which all weights are 1; 59: weighting starts in "
        "the 60th, as released",
    )

    begin_at: Share | None = Field(
        None,
        description="share of the training, such as 0.6, in which all weights are 1, in place of "
        "burn-in",
    )

    @property
    def idle_epochs(self) -> int:
        return self.burn_in if self.begin_at is None else 0


@hookimpl
def defense_config() -> type[PluginConfig]:
    return GairatConfig


@hookimpl(wrapper=True, tryfirst=True)
def defense_loss(run: Run) -> Generator[None, Loss, Loss]:
    from abatis_gairat.loss import GeometryWeighted

    inner = yield
    return GeometryWeighted(inner, run.config(GairatConfig), run.attack.steps)
