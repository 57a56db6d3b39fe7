"""Every image mixed with its neighbour in the batch."""

from __future__ import annotations

from dataclasses import replace

from abatis import Batch, Run, TrainerHooks, hookimpl

FAILS = "test_the_order_of_the_batch_does_not_matter"
WORDS = "depends on the order of the samples"


class Mixing(TrainerHooks):
    def transform_batch(self, batch: Batch) -> Batch:
        return replace(batch, x=(batch.x + batch.x.roll(1, 0)) / 2)


@hookimpl
def defense_trainer(run: Run) -> TrainerHooks:
    return Mixing()
