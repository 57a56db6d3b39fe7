"""The squared norm of the weighted effective weight (Liu & Chan, BMVC 2022, arXiv 2210.05118).

In eval mode a piecewise linear network is z = W(x) x + b(x) around x; row k of W(x), the input
gradient of logit k, is the effective weight of class k. With q = softmax(z / T), detached, the
penalty at the adversarial input x' is

    Omega = (1 / N^2) sum_i || sum_k q_ik grad_x' z_ik ||^2

computed with one input gradient and double back-propagation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from abatis import StepContext, Term, Terms

if TYPE_CHECKING:
    from abatis_emr import EmrConfig


class EffectiveMarginPenalty:
    """The regularizer ``emr``; its term ``grad_sq`` has the mean Omega."""

    def __init__(self, config: EmrConfig) -> None:
        self.config = config

    def __call__(self, ctx: StepContext) -> Terms:
        x = ctx.x_adv.detach().requires_grad_(True)
        logits = ctx.net.frozen(x)  # (B, K)
        q = (logits / self.config.temperature).softmax(dim=1).detach()  # (B, K)
        # sum_k q_k w_k, (B, C, H, W)
        (weighted,) = torch.autograd.grad((q * logits).sum(), x, create_graph=True)
        squares = weighted.square().flatten(1).sum(1)  # (B,)
        # the released code differentiates a batch mean, so 1/N is inside the square:
        # mean_i(squares) / N
        value = squares / ctx.global_size if self.config.reduction == "sum" else squares
        return {"grad_sq": Term(value, weight=self.weight(ctx.epoch, ctx.progress))}

    def weight(self, epoch: int, progress: float = 0.0) -> float:
        """Return lambda in an epoch, counted from 0, or at a share of the training."""
        drops = self.config.count_past("decay_epochs", epoch + 1, progress)
        return self.config.weight * self.config.decay**drops
