"""The squared input gradient of the cross-entropy (Ross & Doshi-Velez, AAAI 2018).

    penalty = (lambda / 2) sum_i || grad_x (1 / N) sum_j CE_j ||_i^2
            = (lambda / (2 N)) mean_i || grad_x_i CE_i ||^2

It needs double back-propagation. The released code differentiates the batch mean of the
cross-entropy, so 1 / N is inside the square.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from abatis import StepContext, Term, Terms

if TYPE_CHECKING:
    from abatis_input_gradient import InputGradientConfig


class InputGradientPenalty:
    """The regularizer ``input-gradient``; its term ``grad_sq`` has the weight lambda / 2."""

    def __init__(self, config: InputGradientConfig) -> None:
        self.config = config

    def __call__(self, ctx: StepContext) -> Terms:
        images = ctx.x_adv if self.config.at == "adv" else ctx.batch.x
        x = images.detach().requires_grad_(True)
        # (); with the sum, the gradient at a sample is that of its own cross-entropy
        loss = F.cross_entropy(ctx.net.frozen(x), ctx.batch.target, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, x, create_graph=True)  # (B, C, H, W)
        squares = gradient.square().flatten(1).sum(1)  # (B,)
        value = squares / ctx.global_size if self.config.reduction == "sum" else squares
        return {"grad_sq": Term(value, weight=self.config.weight / 2)}
