"""The attack and the loss of RAMP (Jiang and Singh, NeurIPS 2024, arXiv 2402.06827).

    mean_i CE(z(x'_max), y) + lambda / |S| sum_{i in S} KL(p(x'_0) || p(x'_1))

x'_0, x'_1: Auto-PGD in the first two threats; x'_max: the one of the larger loss; S: the samples
that are classified correctly at x'_0. Neither side of the KL is detached.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from abatis import (
    Attacked,
    Ball,
    Batch,
    Forward,
    Run,
    StepContext,
    Term,
    Terms,
    UsageError,
    auto_pgd,
    random_start,
)
from abatis_ramp import RampConfig


class EveryThreat:
    """Attacks in the two threats of the run; the images of both are ``first`` and ``second``."""

    def __init__(self, run: Run) -> None:
        if len(run.threats) != 2:
            raise UsageError(
                f"ramp pairs two threats, and this run has {len(run.threats)}",
                fix="--threat Linf:8/255 --also-train L1:12",
            )
        self.run = run

    def __call__(self, forward: Forward, batch: Batch) -> Attacked:
        found = []
        for threat in self.run.threats:
            ball = Ball(batch.x, threat)
            start, steps = random_start(self.run, ball), self.run.attack.steps
            found.append(auto_pgd(forward, ball, start, batch, steps, self.run.ramp))
        first, second = found
        worse = second.info["loss"] > first.info["loss"]  # (B,)
        x = torch.where(worse.view(-1, 1, 1, 1), second.x, first.x)
        return Attacked(x, threat=worse.long(), images={"first": first.x, "second": second.x})


class RampLoss:
    """The loss ``ramp``: ``ce`` and ``kl``."""

    def __init__(self, run: Run) -> None:
        self.weight = run.config(RampConfig).pairing
        self.projection = None
        if run.config(RampConfig).natural:
            from abatis_ramp.projection import Projection

            self.projection = run.shared(Projection)

    def __call__(self, ctx: StepContext) -> Terms:
        second, first = ctx.logits("second"), ctx.logits("first")  # in the order of batch norm
        entropy = F.cross_entropy(ctx.logits_adv, ctx.batch.y, reduction="none")  # (B,)
        right = (first.argmax(1) == ctx.batch.y).to(first.dtype)  # (B,)
        share = ctx.gather(right).mean().clamp(min=1 / ctx.global_size)  # |S| / N
        terms = {
            "ce": Term(entropy, reweight=True),
            "kl": Term(pair(first, second) * right / share, self.weight),
        }
        if self.projection is not None:
            terms["natural"] = Term(self.projection.entropy(ctx))
        return terms


def pair(first: Tensor, second: Tensor) -> Tensor:
    """Return KL(softmax(first) || softmax(second)) of every sample: (B, K), (B, K) -> (B,)."""
    log_p = first.log_softmax(1)
    return (log_p.exp() * (log_p - second.log_softmax(1))).sum(1)
