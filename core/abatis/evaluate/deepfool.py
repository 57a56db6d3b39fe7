"""DeepFool (Moosavi-Dezfooli, Fawzi and Frossard, CVPR 2016) and the linearised distances it uses.

A step from the point a, whose class at x was c, crosses the nearest linearised boundary
(algorithm 2). With gap = z_c - z_k and w = grad_a gap, for the k of smallest
|gap| / ||w||_dual:

    L2:   -|gap| / ||w||_2 * w / ||w||_2
    Linf: -|gap| / ||w||_1 * sign(w)
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from abatis.api.context import Forward
from abatis.errors import UsageError
from abatis.evaluate.pgd import margin

CANDIDATES = 10  # classes considered: all of up to 10, else those of highest logits
ORDERS: dict[str, tuple[float, float]] = {"L2": (2, 2), "Linf": (float("inf"), 1)}
"""The order of each norm and of its dual."""


def deepfool(
    forward: Forward,
    x: Tensor,
    norm: str,
    steps: int = 50,
    overshoot: float = 0.02,
    candidates: int = CANDIDATES,
) -> Tensor:
    """Return the perturbation (B, C, H, W) that :func:`find_boundary` finds."""
    return find_boundary(forward, x, norm, steps, overshoot, candidates)[0]


def find_boundary(
    forward: Forward,
    x: Tensor,
    norm: str,
    steps: int = 50,
    overshoot: float = 0.02,
    candidates: int = CANDIDATES,
) -> tuple[Tensor, Tensor]:
    """Run DeepFool: leave the predicted class by a perturbation that is as small as possible.

    A step starts at x + r; the test and the result are at (1 + overshoot) r. x + r is not clipped
    to [0, 1]: the result is a margin of the function.

    Args:
        forward: the network.
        x: (B, C, H, W).
        norm: "L2" or "Linf".
        steps: at most.
        overshoot: share of r that is added to it.
        candidates: classes that are considered, the predicted one included.

    Returns:
        The perturbation (B, C, H, W), and which points left their class or are at a tie with
        another, (B,) bool. The perturbation of the others is as far as the steps came; a point
        whose gradient is zero stops there.
    """
    with torch.no_grad():
        logits = forward(x)
    own = logits.argmax(1)
    others = find_rivals(logits, own, candidates)
    r, reached = torch.zeros_like(x), torch.zeros_like(own, dtype=torch.bool)
    rows = torch.arange(len(x), device=x.device)  # the points that take further steps
    for _ in range(steps):
        if not len(rows):
            break
        moved = r[rows] + _step(forward, x[rows] + r[rows], own[rows], others[rows], norm)
        able = ((1 + overshoot) * moved).flatten(1).isfinite().all(1)
        r[rows[able]] = moved[able]
        with torch.no_grad():
            out = margin(forward(x[rows] + (1 + overshoot) * r[rows]), own[rows]) >= 0
        reached[rows[out]] = True
        rows = rows[able & ~out]
    return (1 + overshoot) * r, reached


def overshoot_each_step(
    forward: Forward,
    x: Tensor,
    steps: int = 5,
    overshoot: float = 0.02,
    epsilon: float = 5e-6,
    candidates: int = CANDIDATES,
) -> Tensor:
    """Leave the predicted class by DeepFool steps in L2 that each go beyond the boundary.

    This is the form of Yan, Guo and Zhang (TPAMI 2019): a step starts where the one before it
    ended, overshoot included, and with g = grad_a (z_k - z_c) it is

        (1 + overshoot) |gap| / ||g + epsilon||_2 * g / ||g + epsilon||_2

    Args:
        forward: the network.
        x: (B, C, H, W).
        steps: at most; a point that has left its class takes no further ones.
        overshoot: share of each step that is added to it.
        epsilon: added to each entry of a gradient inside its norm.
        candidates: classes that are considered, the predicted one included.

    Returns:
        The perturbation, (B, C, H, W), as far as the steps came.
    """
    with torch.no_grad():
        logits = forward(x)
    own = logits.argmax(1)
    others = find_rivals(logits, own, candidates)
    r = torch.zeros_like(x)
    rows = torch.arange(len(x), device=x.device)  # the points that take further steps
    for _ in range(steps):
        if not len(rows):
            break
        nearest, step = x.new_full((len(rows),), torch.inf), torch.zeros_like(x[rows])
        for gap, w in linearise(forward, x[rows] + r[rows], own[rows], others[rows]):
            norm = dual(epsilon - w, "L2")
            away = gap.abs() / norm
            toward = -w * _column((1 + overshoot) * away / norm)
            step = torch.where(_column(away < nearest), toward, step)
            nearest = nearest.minimum(away)
        r[rows] += step
        with torch.no_grad():
            rows = rows[forward(x[rows] + r[rows]).argmax(1) == own[rows]]
    return r


def _step(forward: Forward, point: Tensor, own: Tensor, others: Tensor, norm: str) -> Tensor:
    """Step over the nearest linearised boundary: (A, C, H, W), not finite without a gradient."""
    nearest, slope = point.new_full((len(point),), torch.inf), torch.zeros_like(point)
    for gap, w in linearise(forward, point, own, others):
        away = distance(gap, w, norm).abs()
        closer = away < nearest
        nearest, slope = torch.where(closer, away, nearest), torch.where(_column(closer), w, slope)
    direction = slope / _column(dual(slope, norm)) if norm == "L2" else slope.sign()
    return -_column(nearest) * direction


def find_rivals(logits: Tensor, own: Tensor, candidates: int) -> Tensor:
    """Return the other classes by falling logit: (B, K), (B,) -> (B, L).

    With ``own`` they are at most ``candidates``.
    """
    others = logits.scatter(1, own[:, None], -torch.inf)
    return others.argsort(dim=1, descending=True, stable=True)[
        :, : min(candidates, logits.shape[1]) - 1
    ]


def linearise(
    forward: Forward, x: Tensor, own: Tensor, others: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield, for each column k of others, z_own - z_k and its gradient.

    Args:
        forward: the network.
        x: (B, C, H, W).
        own: (B,) int64.
        others: (B, L) int64.

    Returns:
        L pairs of (B,) and (B, C, H, W).

    Raises:
        UsageError: the outputs have no gradient with respect to x.
    """
    leaf = x.detach().requires_grad_(True)
    with torch.enable_grad():
        logits = forward(leaf)
        gaps = logits.gather(1, own[:, None]) - logits.gather(1, others)  # (B, L)
        sums = gaps.sum(0).unbind()
    if not gaps.requires_grad:
        raise UsageError(
            "the model's outputs have no gradient with respect to the image",
            where="evaluation, margins",
            fix="remove detach() and no_grad() from the model's forward",
        )
    for gap, summed in zip(gaps.detach().unbind(1), sums, strict=True):
        (slope,) = torch.autograd.grad(summed, leaf, retain_graph=True)
        yield gap, slope


def distance(gap: Tensor, slope: Tensor, norm: str) -> Tensor:
    """Return the signed distance to the linearised boundary: (B,), (B, C, H, W) -> (B,).

    It is 0 at a tie, and infinite where the gradient is zero.
    """
    return torch.where(gap == 0, gap, gap / dual(slope, norm))


def size(images: Tensor, norm: str) -> Tensor:
    """Return the norm of every sample: (B, C, H, W) -> (B,)."""
    result: Tensor = torch.linalg.vector_norm(images.flatten(1), ord=ORDERS[norm][0], dim=1)
    return result


def dual(slope: Tensor, norm: str) -> Tensor:
    """Return the dual norm of every sample's gradient: (B, C, H, W) -> (B,)."""
    result: Tensor = torch.linalg.vector_norm(slope.flatten(1), ord=ORDERS[norm][1], dim=1)
    return result


def _column(values: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, 1)."""
    return values[:, None, None, None]
