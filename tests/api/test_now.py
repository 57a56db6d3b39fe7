"""Where the training is, as every hook of a plugin reads it from ``run.now``."""

from __future__ import annotations

import torch

from abatis import Attacked, Now, Term, TrainerHooks, run
from abatis.testing import loss_terms, replay, smooth_network, tiny_batch
from tests.helpers import cut_last_epoch, final_bytes, plugin, tiny


def recording():
    """A plugin that notes ``run.now`` in each of its callables, and a table of what it noted."""
    seen = {}

    class Notes(TrainerHooks):
        def __init__(self, run):
            self.run = run

        def transform_batch(self, batch):
            note("transform_batch", self.run.now)
            return batch

        def before_loss(self, ctx, objective):
            note("before_loss", self.run.now)

        def after_update(self, ctx):
            note("after_update", self.run.now)
            note("context", Now(ctx.step, ctx.epoch, ctx.progress))

        def epoch_end(self, epoch):
            note("epoch_end", self.run.now)

    def note(where, now):
        seen.setdefault(where, []).append((now.step, now.epoch, now.progress))

    def attacker(run):
        def attack(forward, batch):
            note("attacker", run.now)
            return Attacked(batch.x.clone())

        return attack

    def loss(run):
        def terms(ctx):
            note("loss", run.now)
            return {"x": Term(ctx.logits_adv.logsumexp(1))}

        return terms

    made = plugin("notes", attacker=attacker, loss=loss, trainer=lambda run: Notes(run))
    return made, seen


def test_every_callable_of_a_run_reads_the_step_that_the_context_has(install, tmp_path):
    made, seen = recording()
    install(made)
    run(tiny(tmp_path, name="run", plugin=["notes"]))  # 2 epochs of 4 batches
    context = seen.pop("context")
    assert context == [(step, step // 4, step / 8) for step in range(8)]
    assert seen.pop("epoch_end") == [context[3], context[7]]
    assert all(found == context for found in seen.values())
    assert set(seen) == {"transform_batch", "attacker", "loss", "before_loss", "after_update"}


def test_a_resumed_run_reads_the_same(install, tmp_path):
    made, seen = recording()
    install(made)
    run(tiny(tmp_path, name="whole", plugin=["notes"]))
    whole = {where: list(found) for where, found in seen.items()}
    seen.clear()
    cut_last_epoch(tmp_path / "whole")
    run(tiny(tmp_path, name="resumed", plugin=["notes"], resume=True))
    assert seen["attacker"] == whole["attacker"][4:]
    assert seen["epoch_end"] == whole["epoch_end"][1:]
    assert final_bytes(tmp_path / "resumed") == final_bytes(tmp_path / "whole")


def test_a_replayed_step_and_terms_alone_are_where_they_are_said_to_be():
    made, seen = recording()
    replay([made], smooth_network(10), [tiny_batch(4, 10)], epoch=7, step=3)
    assert seen["attacker"] == seen["context"] == [(3, 7, 0.0)]
    seen.clear()
    logits = torch.zeros(2, 10)
    loss_terms(
        made, logits_clean=logits, logits_adv=logits, y=torch.zeros(2).long(), epoch=4, progress=0.5
    )
    assert seen["loss"] == [(0, 4, 0.5)]


def test_micro_batches_are_at_the_same_step():
    made, seen = recording()
    replay([made], smooth_network(10), [tiny_batch(4, 10)], step=2, accumulate=2)
    assert seen["attacker"] == [(2, 0, 0.0)] * 2
