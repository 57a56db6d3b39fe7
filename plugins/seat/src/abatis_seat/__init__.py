"""SEAT, SWA and KD-SWA: options and hooks. The rest is in averages.py and distillation.py."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from abatis import Loss, Network, PluginConfig, Run, Share, TrainerHooks, UsageError, hookimpl

DEFENSE_API = "1.1"


class SeatConfig(PluginConfig):
    """The options of SEAT and KD-SWA, with the defaults of the released code."""

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
    standard: str | None = Field(
        None,
        description="a network trained without attack to distil from, named as defense eval takes"
        " it, like runs/clean; needs --seat.robust",
    )
    robust: str | None = Field(
        None, description="an adversarially trained network to distil from; needs --seat.standard"
    )
    ce_weight: float = Field(0.3, ge=0, description="weight of the cross-entropy in distillation")
    standard_weight: float = Field(0.1, ge=0, description="weight of the standard network")
    robust_weight: float = Field(0.6, ge=0, description="weight of the robust network")
    temperature: float = Field(
        2.0, gt=0, le=100, description="temperature of the predictions in distillation"
    )

    begin_at: Share | None = Field(
        None,
        description="share of the training, such as 0.5, that the average swa leaves out, in place "
        "of start",
    )

    @property
    def idle_epochs(self) -> int:
        if self.average != "swa" or self.begin_at is not None or self.standard is not None:
            return 0  # the distillation begins at once
        return self.start

    @model_validator(mode="after")
    def _check_teachers(self) -> SeatConfig:
        if (self.standard is None) != (self.robust is None):
            given, missing = ("standard", "robust") if self.standard else ("robust", "standard")
            raise UsageError(
                f"--seat.{given} alone: the distillation needs two networks",
                fix=f"give --seat.{missing} as well; --seat.{missing}-weight 0 takes it out",
            )
        return self


@hookimpl
def defense_config() -> type[PluginConfig]:
    return SeatConfig


@hookimpl
def defense_loss(run: Run) -> Loss | None:
    from abatis_seat.distillation import DistillationLoss

    config = run.config(SeatConfig)
    if config.standard is None or config.robust is None:
        return None
    standard = _load_teacher(run, "standard", config.standard)
    robust = _load_teacher(run, "robust", config.robust)
    return DistillationLoss(standard, robust, config)


def _load_teacher(run: Run, role: str, path: str) -> Network:
    from abatis import load

    try:
        return run.auxiliary(f"seat-{role}", load(path, num_classes=run.num_classes), train=False)
    except UsageError as error:
        where = error.where or f"--seat.{role} {path}"
        raise UsageError(error.what, where=where, fix=error.fix) from error


@hookimpl
def defense_trainer(run: Run) -> TrainerHooks:
    from abatis_seat.averages import EpochAverage, UpdateAverage

    return UpdateAverage(run) if run.config(SeatConfig).average == "ema" else EpochAverage(run)
