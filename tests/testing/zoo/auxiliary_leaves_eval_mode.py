"""A teacher that is trained, and left in another mode."""

from __future__ import annotations

from abatis import Loss, Run, StepContext, Term, Terms, hookimpl

FAILS = "test_terms_are_legal_for_any_network_classes_and_batch"
WORDS = "the mode of the auxiliary network 'teacher'"


@hookimpl
def defense_loss(run: Run) -> Loss:
    teacher = run.auxiliary("teacher", "resnet18", train=True)

    def loss(ctx: StepContext) -> Terms:
        guide = teacher.module.eval()(ctx.batch.x)
        return {"mse": Term((ctx.logits_adv - guide).square().mean(1))}

    return loss
