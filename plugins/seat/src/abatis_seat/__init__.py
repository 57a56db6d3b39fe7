"""SEAT and SWA: options and hook. The averages are in averages.py."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from abatis import PluginConfig, Run, Share, TrainerHooks, hookimpl

DEFENSE_API = "1.1"


class SeatConfig(PluginConfig):
    """The options of SEAT and SWA, with the defaults of the released code."""

    shares = {"start": "begin_at"}
    soft_labels = True

    average: Literal["ema", "swa"] = Field(
        "ema",
        description="ema: after every update, running statistics included (SEAT); swa: after every"
        " epoch, with running statistics afresh (as in KD-SWA)",
    )
    decay: float = Field(0.999, ge=0, lt=1, description="largest decay of the average ema")
    start: int = Field(
        55, ge=0, le=10**6, description="number of first epochs that the average swa leaves out"
    )

    begin_at: Share | None = Field(
        None,
        description="share of the training, such as 0.5, that the average swa leaves out, in place "
        "of start",
    )

    @property
    def idle_epochs(self) -> int:
        return self.start if self.average == "swa" and self.begin_at is None else 0


@hookimpl
def defense_config() -> type[PluginConfig]:
    return SeatConfig


@hookimpl
def defense_trainer(run: Run) -> TrainerHooks:
    from abatis_seat.averages import EpochAverage, UpdateAverage

    return UpdateAverage(run) if run.config(SeatConfig).average == "ema" else EpochAverage(run)
