"""The guard against catastrophic overfitting: accuracy under the single step but not under PGD."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from abatis import AbatisError, Ball, Run, StepContext, TrainerHooks, maximise
from abatis_fast.attack import uniform_start

if TYPE_CHECKING:
    from abatis_fast import FastConfig

PGD_STEPS = 10
STEP_SHARE = 0.25  # step size of this PGD, as a multiple of eps


class CatastrophicOverfitting(AbatisError):
    """The network resists the single-step attack but not PGD."""


class OverfittingGuard(TrainerHooks):
    """Compares the training accuracy under the run's attack with that under PGD-10."""

    def __init__(self, run: Run, config: FastConfig) -> None:
        self.run, self.config = run, config
        self.failed = 0  # failed checks in a row

    def before_loss(self, ctx: StepContext, objective: Callable[[], Tensor]) -> None:
        if ctx.step % self.config.guard_every:
            return
        single, several = self.accuracies(ctx)
        self.failed = self.failed + 1 if single - several > self.config.guard else 0
        if self.failed >= self.config.patience:
            raise CatastrophicOverfitting(
                f"catastrophic overfitting: accuracy on a training batch is {single:.0%} under the "
                f"single-step attack and {several:.0%} under PGD-{PGD_STEPS}",
                where=f"step {ctx.step}, epoch {ctx.epoch + 1}; failed checks in a row: "
                f"{self.failed}; the update was not made",
                fix="use --fast.variant n-fgsm, a larger --fast.noise, or a smaller eps or "
                "--optim.lr; --fast.guard 0 switches the guard off",
            )

    @torch.no_grad()
    def accuracies(self, ctx: StepContext) -> tuple[float, float]:
        """Return the accuracies on the run's adversarial images and on PGD-10's, in eval mode."""
        y, threat = ctx.batch.y, self.run.threat

        def cross_entropy(logits: Tensor) -> Tensor:
            return F.cross_entropy(logits, y, reduction="none")  # (B,)

        ball = Ball(ctx.batch.x, threat)
        start = uniform_start(self.run, ball, "fast/guard")
        with ctx.net.attack_mode():
            with torch.enable_grad():
                pgd = maximise(
                    ctx.net, ball, start, y, cross_entropy, PGD_STEPS, STEP_SHARE * threat.eps
                )
            right = [(ctx.net(x).argmax(1) == y).long() for x in (ctx.x_adv, pgd.x)]  # (B,) each
        counts = torch.stack([*right, torch.ones_like(right[0])]).sum(1)  # (3,)
        (sums,) = ctx.sum_over_processes([counts])
        single, several, images = sums.tolist()
        return single / images, several / images

    def state_dict(self) -> dict[str, Any]:
        return {"failed": self.failed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.failed = state["failed"]
