"""A transform whose pixels go beyond [0, 1]."""

from __future__ import annotations

from dataclasses import replace

from abatis import Batch, Run, TrainerHooks, hookimpl

FAILS = "test_terms_are_legal_for_any_network_classes_and_batch"
WORDS = "from transform_batch"


class Contrast(TrainerHooks):
    def transform_batch(self, batch: Batch) -> Batch:
        return replace(batch, x=0.5 + 2 * (batch.x - 0.5))


@hookimpl
def defense_trainer(run: Run) -> TrainerHooks:
    return Contrast()
