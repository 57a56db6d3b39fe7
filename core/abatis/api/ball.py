"""Geometry of a threat model: the ball around each image, intersected with the box [0, 1]."""

from __future__ import annotations

import torch
from torch import Tensor

from abatis.api.threat import Threat

SLACK = 1e-5  # relative; float32 rounding of x + delta stays far below it
ROUNDING = 1e-6  # absolute
L1_TOP = 0.05  # share of the pixels that an L1 step moves


def column(values: Tensor, like: Tensor) -> Tensor:
    """Reshape (B,) to (B, 1, 1, 1), so that it broadcasts over images."""
    return values.view(-1, *([1] * (like.dim() - 1)))


def lengths(delta: Tensor) -> Tensor:
    """Return the L2 norm of every sample: (B, ...) -> (B,)."""
    norms: Tensor = torch.linalg.vector_norm(delta, dim=tuple(range(1, delta.dim())))
    return norms


def _keep_largest(gradient: Tensor, top: float | Tensor) -> Tensor:
    """Return the signs of the entries of the largest size, a share ``top``; 0 elsewhere."""
    size = gradient.abs().flatten(1)  # (B, D)
    count = size.shape[1]
    share = torch.as_tensor(top, dtype=size.dtype, device=size.device).expand(len(size))
    place = ((1 - share) * count).clamp(0, count - 1).long()  # (B,)
    least = size.sort(1).values.gather(1, place[:, None])  # (B, 1)
    return gradient.sign() * (size >= least).view_as(gradient)


class Ball:
    """The images that an attacker may reach from each image of a batch.

    It is the ball of the threat's norm and radius, intersected with the box [0, 1].

    Args:
        x: the images, (B, C, H, W) in [0, 1].
        threat: norm and radius.
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
        if self.norm == "L1":
            return delta.copy_(self._project_l1(delta)).add_(self.x).clamp_(0, 1)
        factor = (self.eps / lengths(delta).clamp_(min=1e-12)).clamp_(max=1)  # (B,)
        # x is in the box: clipping moves every coordinate towards x, and the length only shrinks
        return delta.mul_(column(factor, delta)).add_(self.x).clamp_(0, 1)

    def _project_l1(self, delta: Tensor) -> Tensor:
        """Return the nearest perturbation whose length is at most eps, and that stays in the box.

        It has the parts ``clip(|delta| - a, 0, room)`` with the least a >= 0 that makes the sum at
        most eps (Croce and Hein, ICML 2021, arXiv 2103.01208, section 2.2); the sum is piecewise
        linear in a.
        """
        room = torch.where(delta > 0, 1 - self.x, self.x).flatten(1)  # (B, D)
        size = delta.abs().flatten(1)  # (B, D)
        kept = torch.minimum(size, room)
        # at size - kept a part begins to shrink as a grows, at size it has become 0
        breaks, order = torch.cat([size - kept, size], 1).double().sort(1)  # (B, 2 D)
        slopes = torch.where(order < size.shape[1], -1.0, 1.0).double().cumsum(1)  # (B, 2 D)
        falls = slopes[:, :-1] * breaks.diff(dim=1)
        total = kept.double().sum(1, keepdim=True)  # (B, 1)
        sums = torch.cat([total, total + falls.cumsum(1)], 1)  # (B, 2 D), at the breaks
        eps = torch.as_tensor(self.eps, dtype=sums.dtype, device=sums.device).reshape(-1, 1)
        last = ((sums >= eps).sum(1, keepdim=True) - 1).clamp_(min=0)  # break before the solution
        excess = sums.gather(1, last) - eps
        found = breaks.gather(1, last) + excess / (-slopes.gather(1, last)).clamp(min=1)  # (B, 1)
        shrunk = torch.minimum((size - found).clamp(min=0), room).to(delta)
        return torch.where(total <= eps, kept, shrunk).view_as(delta) * delta.sign()

    def climb(
        self, point: Tensor, gradient: Tensor, step: float | Tensor, top: float | Tensor = L1_TOP
    ) -> Tensor:
        """Take one step of steepest ascent in the norm, then project.

        In L1 the step is shared by the pixels with the largest gradients, by their signs.

        Args:
            point: images, (B, C, H, W); they are overwritten.
            gradient: the gradient at them, (B, C, H, W); it may be overwritten.
            step: length of the step in pixel units, for all images or one each, (B,).
            top: in L1, the share of the pixels that move, for all images or one each, (B,).

        Returns:
            ``point``.
        """
        if self.norm == "Linf":
            signs = gradient.sign_()
            if isinstance(step, Tensor):
                return self.project(point.addcmul_(signs, column(step, signs)))
            return self.project(point.add_(signs, alpha=step))
        if self.norm == "L1":
            gradient = _keep_largest(gradient, top)
            lengths_of = gradient.abs().flatten(1).sum(1)  # (B,)
        else:
            lengths_of = lengths(gradient)
        scale = step / lengths_of.clamp_(min=1e-12)  # (B,)
        return self.project(point.addcmul_(gradient, column(scale, gradient)))

    def uniform_start(self, uniform: Tensor, normal: Tensor | None = None) -> Tensor:
        """Return a random image of the ball and the box for every image.

        Args:
            uniform: numbers in [0, 1), (B, C, H, W). Linf takes every coordinate from them, L2
                the radius.
            normal: standard normal numbers, (B, C, H, W): the direction for L2; L1 starts at their
                projection, which is not uniform.

        Returns:
            Images, (B, C, H, W).
        """
        if self.norm == "Linf":
            return (self.x + (2 * uniform - 1) * self._wide(self.eps)).clamp_(0, 1)
        if normal is None:
            raise ValueError(f"an {self.norm} start needs a direction: pass normal=")
        if self.norm == "L1":
            return self.project(self.x + normal)
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
