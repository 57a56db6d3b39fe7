"""A weight of 0 that still costs a forward pass: nothing says that it switches the plugin off."""

from __future__ import annotations

from pydantic import Field

from abatis import PluginConfig, Regularizer, Run, StepContext, Term, Terms, hookimpl

FAILS = "test_switched_off_equals_absent"
WORDS = "weight=0 must switch the plugin off"


class Broken(PluginConfig):
    weight: float = Field(1.0, ge=0, description="weight of the term")


@hookimpl
def defense_config() -> type[PluginConfig]:
    return Broken


@hookimpl
def defense_regularizer(run: Run) -> Regularizer:
    def penalty(ctx: StepContext) -> Terms:
        return {"x": Term(ctx.net(ctx.batch.x).logsumexp(1), weight=run.config(Broken).weight)}

    return penalty
