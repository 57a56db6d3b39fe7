"""My trainer: options and hooks; the mathematics is in trainer.py."""

from __future__ import annotations

from pydantic import Field

from abatis import PluginConfig, Run, TrainerHooks, hookimpl

DEFENSE_API = "1.0"


class MyTrainerConfig(PluginConfig):
    """Options of the constraint."""

    soft_labels = True

    factor: float = Field(
        2.0,
        ge=1,
        le=1e6,
        description="largest norm of a unit's weights, as a multiple of the initial norm",
    )


@hookimpl
def defense_config() -> type[PluginConfig]:
    return MyTrainerConfig


@hookimpl
def defense_trainer(run: Run) -> TrainerHooks:
    from abatis_my_trainer.trainer import MyTrainer

    return MyTrainer(run, run.config(MyTrainerConfig))
