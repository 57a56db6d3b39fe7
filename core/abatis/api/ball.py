"""Geometry of a threat model: the ball around each image, intersected with the box [0, 1]."""

from __future__ import annotations

import torch
from torch import Tensor

from abatis.api.threat import Threat

SLACK = 1e-5  # relative; float32 rounding of x + delta stays far below it
ROUNDING = 1e-6  # absolute


def column(values: Tensor, like: Tensor) -> Tensor:
    """Reshape (B,) to (B, 1, 1, 1), so that it broadcasts over images."""
    return values.view(-1, *([1] * (like.dim() - 1)))


def lengths(delta: Tensor) -> Tensor:
    """Return the L2 norm of every sample: (B, ...) -> (B,)."""
    norms: Tensor = torch.linalg.vector_norm(delta, dim=tuple(range(1, delta.dim())))
    return norms


class Ball:
    """The images that an attacker may reach from each image of a batch.

    It is the ball of the threat's norm and radius, intersected with the box [0, 1].

    Args:
        x: the images, (B, C, H, W) in [0, 1].
        threat: norm and radius, Linf or L2 to project; ``distance`` and ``contains`` know L1 too.
        eps: a radius for every image, (B,), in pixel units; that of the threat if not given.
    """

    def __init__(self, x: Tensor, threat: Threat, eps: Tensor | None = None) -> None:
        self.x, self.norm = x, threat.norm
        self.eps: float | Tensor = threat.eps if eps is None else eps
        if self.norm == "Linf":  # projection and clipping are one clamp, its bounds computed once
            self.low = (x - self._wide(self.eps)).clamp_(min=0)
            self.high = (x + self._wide(self.eps)).clamp_(max=1)

    def _wide(self, values: float | Tensor) -> float | Tensor:
        """Return a number as it is, (B,) as (B, 1, 1, 1)."""
        return column(values, self.x) if isinstance(values, Tensor) else values

    def project(self, point: Tensor) -> Tensor:
        """Move every image to the nearest one in the ball and the box.

        Args:
            point: images, (B, C, H, W); they are overwritten.

        Returns:
            ``point``.
        """
        if self.norm == "Linf":
            return torch.clamp(point, self.low, self.high, out=point)
        delta = point.sub_(self.x)
        factor = (self.eps / lengths(delta).clamp_(min=1e-12)).clamp_(max=1)  # (B,)
        # x is in the box: clipping moves every coordinate towards x, and the length only shrinks
        return delta.mul_(column(factor, delta)).add_(self.x).clamp_(0, 1)

    def climb(self, point: Tensor, gradient: Tensor, step: float | Tensor) -> Tensor:
        """Take one step of steepest ascent in the norm, then project.

        Args:
            point: images, (B, C, H, W); they are overwritten.
            gradient: the gradient at them, (B, C, H, W); it may be overwritten.
            step: length of the step in pixel units, for all images or one each, (B,).

        Returns:
            ``point``.
        """
        if self.norm == "Linf":
            signs = gradient.sign_()
            if isinstance(step, Tensor):
                return self.project(point.addcmul_(signs, column(step, signs)))
            return self.project(point.add_(signs, alpha=step))
        scale = step / lengths(gradient).clamp_(min=1e-12)  # (B,)
        return self.project(point.addcmul_(gradient, column(scale, gradient)))

    def uniform_start(self, uniform: Tensor, normal: Tensor | None = None) -> Tensor:
        """Return a random image of the ball and the box for every image.

        Args:
            uniform: numbers in [0, 1), (B, C, H, W). Linf takes every coordinate from them, L2
                the radius.
            normal: standard normal numbers, (B, C, H, W): the direction for L2.

        Returns:
            Images, (B, C, H, W).
        """
        if self.norm == "Linf":
            return (self.x + (2 * uniform - 1) * self._wide(self.eps)).clamp_(0, 1)
        if normal is None:
            raise ValueError("an L2 start needs a direction: pass normal=")
        # uniform over the volume: (B,)
        radius = self.eps * uniform.flatten(1)[:, 0] ** (1 / uniform[0].numel())
        scale = column(radius / lengths(normal).clamp_(min=1e-12), normal)
        return (self.x + normal * scale).clamp_(0, 1)

    def distance(self, point: Tensor) -> Tensor:
        """Return the size of every perturbation in the threat's norm: (B, C, H, W) -> (B,)."""
        delta = point - self.x
        order = {"Linf": torch.inf, "L2": 2, "L1": 1}[self.norm]
        norms: Tensor = torch.linalg.vector_norm(delta.flatten(1), order, dim=1)
        return norms

    def contains(self, point: Tensor) -> Tensor:
        """Return which images are finite, in the ball and in [0, 1]: (B, C, H, W) -> (B,) bool."""
        flat = point.flatten(1)
        in_box = (flat >= 0).all(1) & (flat <= 1).all(1)  # false for NaN
        return in_box & (self.distance(point) <= self.eps * (1 + SLACK) + ROUNDING)
