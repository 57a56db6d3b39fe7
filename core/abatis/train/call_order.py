"""The callables of a run in the order in which a step calls them, for ``--trace``."""

from __future__ import annotations

from collections.abc import Iterator

from abatis.api.context import TrainerHooks
from abatis.train.plan import Plan
from abatis.train.trace import described


def order(plan: Plan) -> Iterator[str]:
    """The callables of a run, one a line, in the order of their calls."""
    yield from _of_trainers(plan, "transform_batch")
    yield f"attacker of {plan.attacker_name}: {described(plan.attacker)}"
    yield from _of_trainers(plan, "before_loss")
    yield f"loss of {plan.loss_name}: {described(plan.loss)}"
    for name, regularizer in plan.regularizers:
        yield f"regularizer of {name}: {described(regularizer)}"
    yield from _of_trainers(plan, "after_update")
    yield from _of_trainers(plan, "epoch_end")
    yield from _of_trainers(plan, "metrics")


def _of_trainers(plan: Plan, method: str) -> Iterator[str]:
    for name, hooks in plan.trainers:
        if getattr(type(hooks), method) is not getattr(TrainerHooks, method):
            yield f"{method} of {name}: {described(hooks)}"
