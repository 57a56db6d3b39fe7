"""The callables of a run in the order in which a step calls them, for ``--trace``."""

from __future__ import annotations

from collections.abc import Iterator

from abatis.api.context import TrainerHooks
from abatis.train.plan import Plan
from abatis.train.trace import describe_answer


def list_calls(plan: Plan) -> Iterator[str]:
    """The callables of a run, one a line, in the order of their calls."""
    yield from _list_trainers(plan, "transform_batch")
    yield f"attacker of {plan.attacker_name}: {describe_answer(plan.attacker)}"
    yield from _list_trainers(plan, "before_loss")
    yield f"loss of {plan.loss_name}: {describe_answer(plan.loss)}"
    for name, regularizer in plan.regularizers:
        yield f"regularizer of {name}: {describe_answer(regularizer)}"
    yield from _list_trainers(plan, "after_update")
    yield from _list_trainers(plan, "epoch_end")
    yield from (
        f"judged of {name}: {describe_answer(hooks)}"
        for name, hooks in plan.trainers
        if name == plan.judged_by
    )
    yield from _list_trainers(plan, "metrics")


def _list_trainers(plan: Plan, method: str) -> Iterator[str]:
    for name, hooks in plan.trainers:
        if getattr(type(hooks), method) is not getattr(TrainerHooks, method):
            yield f"{method} of {name}: {describe_answer(hooks)}"
