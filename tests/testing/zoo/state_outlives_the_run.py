"""A trainer hook whose state is the class's: a second run in the same process finds it."""

from __future__ import annotations

import torch

from abatis import Run, StepContext, TrainerHooks, hookimpl

FAILS = "test_goes_on_from_its_state"
WORDS = "two runs from the start make different updates"


class Growing(TrainerHooks):
    calls = 0

    def __init__(self, run: Run) -> None:
        self.net = run.net

    def after_update(self, ctx: StepContext) -> None:
        type(self).calls += 1
        with torch.no_grad():
            next(self.net.module.parameters()).mul_(1 + 1e-3 * self.calls)


@hookimpl
def defense_trainer(run: Run) -> TrainerHooks:
    return Growing(run)
