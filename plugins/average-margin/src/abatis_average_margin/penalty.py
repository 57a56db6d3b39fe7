"""A ramp on the logit margin, scaled by nearly orthogonal weights (Wu & Yu, arXiv 1907.11780).

    alpha_i       = z'_iy - max_{k != y} z'_ik
    ramp_i        = max(0, tau - alpha_i) - max(0, -alpha_i) = clamp(tau - alpha_i, 0, tau)   paper
                  = clamp(-alpha_i, 0, tau)                                                released
    orthogonality = sum_l || W_l W_l^T - I ||_F^2

W_l: the weight of a Linear or Conv2d layer as a matrix (out, in * kh * kw), if it has no more rows
than columns; with layers = "all" every one. The paper's ramp has no gradient for misclassified
samples: it widens the margins of correctly classified ones, up to tau. That of the released head
has none for correctly classified ones. The released loop visits weights and biases, and at a bias
adds the weight before it again: its beta 1e-3 is 2e-3 here.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from abatis import StepContext, Term, Terms, UsageError

if TYPE_CHECKING:
    from abatis_average_margin import AverageMarginConfig


class AverageMarginPenalty:
    """The regularizer ``average-margin``: the terms ``ramp`` (B,) and ``orthogonality`` ().

    A term with weight 0 is left out.
    """

    def __init__(self, config: AverageMarginConfig) -> None:
        self.config = config

    def __call__(self, ctx: StepContext) -> Terms:
        terms = {}
        if self.config.weight:
            margin = logit_margin(ctx.logits_adv, ctx.batch.y)  # (B,)
            offset = self.config.tau if self.config.ramp == "paper" else 0.0
            ramp = (offset - margin).clamp(0, self.config.tau)  # (B,)
            terms["ramp"] = Term(ramp, weight=self.config.weight)
        if self.config.orthogonality:
            value = orthogonality(ctx.net.module, tall=self.config.layers == "all")  # ()
            terms["orthogonality"] = Term(value, weight=self.config.orthogonality)
        return terms


def logit_margin(logits: Tensor, y: Tensor) -> Tensor:
    """Return the logit of the label minus the largest other one: (B, K), (B,) -> (B,)."""
    label = y[:, None]
    return logits.gather(1, label).squeeze(1) - logits.scatter(1, label, -math.inf).amax(1)


def orthogonality(module: nn.Module, tall: bool = False) -> Tensor:
    """Return the squared distance of ``W W^T`` from the identity, summed over the layers: ().

    Args:
        module: the network.
        tall: count layers with more outputs than inputs too.

    Raises:
        UsageError: the network has no such layer.
    """
    layers = [part for part in module.modules() if isinstance(part, nn.Linear | nn.Conv2d)]
    # (out, in * kh * kw) each; with g groups (out, in / g * kh * kw)
    matrices = [layer.weight.flatten(1) for layer in layers]
    # a matrix with more rows than columns cannot have orthonormal rows
    counted = [matrix for matrix in matrices if tall or matrix.shape[0] <= matrix.shape[1]]
    if not counted:
        raise UsageError(
            "the orthogonality penalty needs a Linear or Conv2d layer with no more outputs than "
            "inputs, and the network has none",
            fix="set --average-margin.orthogonality 0",
        )
    return torch.stack([square_gap(matrix) for matrix in counted]).sum()


def square_gap(matrix: Tensor) -> Tensor:
    """Return ``|| M M^T - I ||_F^2`` of a matrix M (m, n), by the smaller of its two products: ().

    ``|| M M^T - I ||_F^2 = || M^T M - I ||_F^2 + m - n``, as both products have the same
    eigenvalues but for zeros.
    """
    value: Tensor = _SquareGap.apply(matrix)  # type: ignore[no-untyped-call]
    return value


class _SquareGap(torch.autograd.Function):
    """``square_gap``, its gradient ``4 (M M^T - I) M`` by one product (autograd takes two)."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> Tensor:
        rows, columns = matrix.shape
        gap = matrix.T @ matrix if rows > columns else matrix @ matrix.T
        gap.diagonal().sub_(1)
        ctx.save_for_backward(matrix, gap)
        return gap.square().sum() + max(rows - columns, 0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        matrix, gap = ctx.saved_tensors
        gap = gap.to(matrix.dtype)  # autocast may have made it bfloat16
        product: Tensor = matrix @ gap if len(matrix) > len(gap) else gap @ matrix
        return product.mul_(4 * gradient)
