"""Geometry of a threat model: the ball around a batch of images, cut with the box [0, 1]."""

from __future__ import annotations

import torch
from torch import Tensor

from abatis.api.threat import Threat

SLACK = 1e-5  # relative; float32 rounding of x + delta stays far below it
ROUNDING = 1e-6  # absolute


def column(values: Tensor, like: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, 1), to be broadcast over an image."""
    return values.view(-1, *([1] * (like.dim() - 1)))


def lengths(delta: Tensor) -> Tensor:
    """L2 norm of every sample: (B, ...) -> (B,)."""
    norms: Tensor = torch.linalg.vector_norm(delta, dim=tuple(range(1, delta.dim())))
    return norms


class Ball:
    """The points an attacker may reach from x: (B, C, H, W) in [0, 1].

    eps: a radius for every sample, (B,), instead of that of the threat.
    """

    def __init__(self, x: Tensor, threat: Threat, eps: Tensor | None = None) -> None:
        self.x, self.norm = x, threat.norm
        self.eps: float | Tensor = threat.eps if eps is None else eps
        if self.norm == "Linf":  # projection and clipping are one clamp, its bounds computed once
            self.low, self.high = (
                (x - self._wide(self.eps)).clamp_(min=0),
                (x + self._wide(self.eps)).clamp_(max=1),
            )

    def _wide(self, values: float | Tensor) -> float | Tensor:
        """A number as it is, (B,) as (B, 1, 1, 1)."""
        return column(values, self.x) if isinstance(values, Tensor) else values

    def project(self, point: Tensor) -> Tensor:
        """The nearest point of ball and box, in place: (B, C, H, W)."""
        if self.norm == "Linf":
            return torch.clamp(point, self.low, self.high, out=point)
        delta = point.sub_(self.x)
        factor = (self.eps / lengths(delta).clamp_(min=1e-12)).clamp_(max=1)  # (B,)
        # x is in the box, so clipping moves every coordinate towards x and the length can only shrink
        return delta.mul_(column(factor, delta)).add_(self.x).clamp_(0, 1)

    def climb(self, point: Tensor, gradient: Tensor, step: float | Tensor) -> Tensor:
        """One projected step of steepest ascent, in place: (B, C, H, W). step: a length, or one a sample, (B,)."""
        if self.norm == "Linf":
            signs = gradient.sign_()
            if isinstance(step, Tensor):
                return self.project(point.addcmul_(signs, column(step, signs)))
            return self.project(point.add_(signs, alpha=step))
        scale = step / lengths(gradient).clamp_(min=1e-12)  # (B,)
        return self.project(point.addcmul_(gradient, column(scale, gradient)))

    def uniform_start(self, uniform: Tensor, normal: Tensor | None = None) -> Tensor:
        """A random point of ball and box: (B, C, H, W).

        uniform: (B, C, H, W) in [0, 1), from which Linf takes every coordinate and L2 the radius;
        normal: (B, C, H, W), the direction for L2.
        """
        if self.norm == "Linf":
            return (self.x + (2 * uniform - 1) * self._wide(self.eps)).clamp_(0, 1)
        if normal is None:
            raise ValueError("an L2 start needs a direction")
        radius = self.eps * uniform.flatten(1)[:, 0] ** (
            1 / uniform[0].numel()
        )  # (B,), uniform over the volume
        return (
            self.x + normal * column(radius / lengths(normal).clamp_(min=1e-12), normal)
        ).clamp_(0, 1)

    def distance(self, point: Tensor) -> Tensor:
        """Size of every perturbation in the threat's norm: (B,)."""
        delta = point - self.x
        order = {"Linf": torch.inf, "L2": 2, "L1": 1}[self.norm]
        norms: Tensor = torch.linalg.vector_norm(delta.flatten(1), order, dim=1)
        return norms

    def contains(self, point: Tensor) -> Tensor:
        """Which points are finite, in the ball and in [0, 1]: (B,) bool."""
        flat = point.flatten(1)
        in_box = (flat >= 0).all(1) & (flat <= 1).all(1)  # false for NaN
        return in_box & (self.distance(point) <= self.eps * (1 + SLACK) + ROUNDING)
