"""Options that are called neutral and are not taken for it."""

from __future__ import annotations

from pydantic import Field

from abatis import PluginConfig, Regularizer, Run, StepContext, Term, Terms, hookimpl

FAILS = "test_switched_off_equals_absent"
WORDS = "the plugin still provides"


class Broken(PluginConfig):
    neutral = {"weight": 0}

    weight: float = Field(1.0, ge=0, description="weight of the term")

    @property
    def is_neutral(self) -> bool:
        return False


@hookimpl
def defense_config() -> type[PluginConfig]:
    return Broken


@hookimpl
def defense_regularizer(run: Run) -> Regularizer:
    def penalty(ctx: StepContext) -> Terms:
        return {"x": Term(ctx.logits_adv.logsumexp(1), weight=run.config(Broken).weight)}

    return penalty
