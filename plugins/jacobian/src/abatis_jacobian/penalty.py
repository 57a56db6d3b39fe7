"""The squared Frobenius norm of the input-output Jacobian (Hoffman, Roberts & Yaida, 2019; arXiv
1908.02729).

    penalty = (lambda / 2) mean_i || J_i ||_F^2,   J_i = d z_i / d x_i  (K, C * H * W)

For a random unit vector v the mean of K || J^T v ||^2 is || J ||_F^2, so P vectors give (K / P)
sum_p || J^T v_p ||^2. The K basis vectors in their place give it exactly. Each vector takes one
backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from abatis import StepContext, Term, Terms

if TYPE_CHECKING:
    from abatis import Randomness
    from abatis_jacobian import JacobianConfig


class JacobianPenalty:
    """The regularizer ``jacobian``; its term ``frobenius_sq`` has the weight lambda / 2."""

    def __init__(self, config: JacobianConfig, random: Randomness) -> None:
        self.config, self.random = config, random

    def __call__(self, ctx: StepContext) -> Terms:
        images = ctx.x_adv if self.config.at == "adv" else ctx.batch.x
        x = images.detach().requires_grad_(True)
        logits = ctx.net.frozen(x)  # (B, K)
        squares = [
            squared_product(vectors, logits, x) for vectors in self.directions(logits.detach())
        ]
        value = torch.stack(squares).mean(0) * logits.shape[1]  # (B,)
        return {"frobenius_sq": Term(value, weight=self.config.weight / 2)}

    def directions(self, logits: Tensor) -> Iterator[Tensor]:
        """Unit vectors, (B, K) each: random ones, drawn for each sample of the whole batch, or all
        basis vectors.
        """
        if self.config.projections == 0:
            yield from torch.eye(logits.shape[1], dtype=logits.dtype, device=logits.device)[
                :, None
            ].expand(-1, *logits.shape)
        for number in range(self.config.projections):
            yield F.normalize(self.random.normal(f"jacobian/{number}", logits), dim=1)


def squared_product(vectors: Tensor, logits: Tensor, x: Tensor) -> Tensor:
    """``|| J^T v ||^2`` of every sample, differentiable: v and logits (B, K), x (B, C, H, W) ->
    (B,).
    """
    (product,) = torch.autograd.grad(logits, x, vectors, create_graph=True)  # (B, C, H, W)
    return product.square().flatten(1).sum(1)
