"""A loss that writes on further images, which other plugins read too."""

from __future__ import annotations

import torch.nn.functional as F

from abatis import Attacked, Attacker, Batch, Forward, Loss, Run, StepContext, Term, Terms, hookimpl

FAILS = "test_terms_are_legal_for_any_network_classes_and_batch"
WORDS = "changed the images 'half'"


@hookimpl
def defense_attacker(run: Run) -> Attacker:
    def attack(forward: Forward, batch: Batch) -> Attacked:
        return Attacked(batch.x.clone(), images={"half": batch.x.clone()})

    return attack


@hookimpl
def defense_loss(run: Run) -> Loss:
    def loss(ctx: StepContext) -> Terms:
        value = F.cross_entropy(ctx.logits("half"), ctx.batch.y, reduction="none")  # (B,)
        ctx.images["half"].zero_()
        return {"ce": Term(value)}

    return loss
