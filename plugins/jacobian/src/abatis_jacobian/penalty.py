"""The squared Frobenius norm of the Jacobian (Hoffman, Roberts & Yaida, 2019, arXiv 1908.02729).

    penalty = (lambda / 2) mean_i || J_i ||_F^2,   J_i = d z_i / d x_i  (K, C * H * W)

For a random unit vector v the mean of K || J^T v ||^2 is || J ||_F^2, so P vectors give the
estimate (K / P) sum_p || J^T v_p ||^2. The K basis vectors give the exact value. Each vector takes
one backward pass.
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
        """Yield unit vectors, (B, K) each: random ones per sample, or all basis vectors."""
        if self.config.projections == 0:
            basis = torch.eye(logits.shape[1], dtype=logits.dtype, device=logits.device)  # (K, K)
            yield from basis[:, None].expand(-1, *logits.shape)
        for number in range(self.config.projections):
            yield F.normalize(self.random.normal(f"jacobian/{number}", logits), dim=1)


def squared_product(vectors: Tensor, logits: Tensor, x: Tensor) -> Tensor:
    """Return ``|| J^T v ||^2`` of every sample, (B,), differentiable.

    Args:
        vectors: one v per sample, (B, K).
        logits: the logits at x, (B, K).
        x: the images, (B, C, H, W).
    """
    (product,) = torch.autograd.grad(logits, x, vectors, create_graph=True)  # (B, C, H, W)
    return product.square().flatten(1).sum(1)
