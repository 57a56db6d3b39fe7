"""RAMP: options and hooks. Attack and loss are in pairing.py, the projection in projection.py."""

from __future__ import annotations

from pydantic import Field

from abatis import Attacker, Loss, PluginConfig, Run, TrainerHooks, hookimpl

DEFENSE_API = "1.1"


class RampConfig(PluginConfig):
    """The options of RAMP, with the released defaults of training from scratch."""

    several_threats = True

    pairing: float = Field(5.0, ge=0, description="lambda, the weight of the KL between two norms")
    natural: float = Field(
        0.5,
        ge=0,
        le=1,
        description="weight of the part of a natural epoch that agrees; 0: no projection",
    )


@hookimpl
def defense_config() -> type[PluginConfig]:
    return RampConfig


@hookimpl
def defense_attacker(run: Run) -> Attacker:
    from abatis_ramp.pairing import EveryThreat

    return EveryThreat(run)


@hookimpl
def defense_loss(run: Run) -> Loss:
    from abatis_ramp.pairing import RampLoss

    return RampLoss(run)


@hookimpl
def defense_trainer(run: Run) -> TrainerHooks | None:
    from abatis_ramp.projection import Projection

    return run.shared(Projection) if run.config(RampConfig).natural else None
