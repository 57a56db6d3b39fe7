"""Averaged weights that are judged, and that no checkpoint keeps."""

from __future__ import annotations

import copy

import torch
from torch import nn

from abatis import Run, StepContext, TrainerHooks, hookimpl

FAILS = "test_goes_on_from_its_state"
WORDS = "judges different weights"


class Average(TrainerHooks):
    def __init__(self, run: Run) -> None:
        self.source = run.net.module
        self.average = copy.deepcopy(run.net.module).requires_grad_(False)

    @torch.no_grad()
    def after_update(self, ctx: StepContext) -> None:
        pairs = zip(self.average.parameters(), self.source.parameters(), strict=True)
        for average, weight in pairs:
            average.lerp_(weight, 0.1)

    def judged(self) -> nn.Module:
        return self.average


@hookimpl
def defense_trainer(run: Run) -> TrainerHooks:
    return Average(run)
