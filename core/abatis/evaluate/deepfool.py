"""DeepFool (Moosavi-Dezfooli, Fawzi and Frossard, CVPR 2016), and the linearised distances it is made of.

One step from the point a, whose predicted class at x was c, crosses the nearest linearised boundary (algorithm 2). With
gap = z_c - z_k and w = grad_a gap, for the k of smallest |gap| / ||w||_dual:

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

CANDIDATES = 10  # classes whose boundaries are looked at: exact up to 10 classes, the ones of highest logits beyond
ORDERS: dict[str, tuple[float, float]] = {"L2": (2, 2), "Linf": (float("inf"), 1)}
"""Order of each norm, and of its dual."""


def deepfool(
    forward: Forward,
    x: Tensor,
    norm: str,
    steps: int = 50,
    overshoot: float = 0.02,
    candidates: int = CANDIDATES,
) -> Tensor:
    """The perturbation r (B, C, H, W) that leaves the predicted class, in "L2" or "Linf"; see :func:`leave`."""
    return leave(forward, x, norm, steps, overshoot, candidates)[0]


def leave(
    forward: Forward,
    x: Tensor,
    norm: str,
    steps: int = 50,
    overshoot: float = 0.02,
    candidates: int = CANDIDATES,
) -> tuple[Tensor, Tensor]:
    """DeepFool's r, (B, C, H, W), and who left the predicted class or stands at a tie with it, (B,) bool.

    Steps start at x + r, the test and the result are at (1 + overshoot) r. x + r is not clipped to [0, 1]: it is a margin
    of the function. r of a row that did not get out is as far as it came; a row without a slope to follow stops there.
    """
    with torch.no_grad():
        logits = forward(x)
    own = logits.argmax(1)
    others = rivals(logits, own, candidates)
    r, reached = torch.zeros_like(x), torch.zeros_like(own, dtype=torch.bool)
    rows = torch.arange(len(x), device=x.device)  # who goes on
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


def _step(forward: Forward, point: Tensor, own: Tensor, others: Tensor, norm: str) -> Tensor:
    """Over the nearest linearised boundary: (A, C, H, W); not finite where there is no slope."""
    nearest, slope = point.new_full((len(point),), torch.inf), torch.zeros_like(point)
    for gap, w in linearised(forward, point, own, others):
        away = distance(gap, w, norm).abs()
        closer = away < nearest
        nearest, slope = torch.where(closer, away, nearest), torch.where(_column(closer), w, slope)
    direction = slope / _column(dual(slope, norm)) if norm == "L2" else slope.sign()
    return -_column(nearest) * direction


def rivals(logits: Tensor, own: Tensor, candidates: int) -> Tensor:
    """The other classes by falling logit, with ``own`` at most ``candidates`` of them: (B, K), (B,) -> (B, L)."""
    others = logits.scatter(1, own[:, None], -torch.inf)
    return others.argsort(dim=1, descending=True, stable=True)[
        :, : min(candidates, logits.shape[1]) - 1
    ]


def linearised(
    forward: Forward, x: Tensor, own: Tensor, others: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """For each column k of others, (B, L): z_own - z_k, (B,), and its gradient in x, (B, C, H, W). Raises UsageError."""
    leaf = x.detach().requires_grad_(True)
    with torch.enable_grad():
        logits = forward(leaf)
        gaps = logits.gather(1, own[:, None]) - logits.gather(1, others)  # (B, L)
        totals = gaps.sum(0).unbind()
    if not gaps.requires_grad:
        raise UsageError(
            "no gradient of the model's outputs reaches the image",
            where="evaluation, margins",
            fix="remove detach() and no_grad() from the model's forward",
        )
    for gap, total in zip(gaps.detach().unbind(1), totals, strict=True):
        (slope,) = torch.autograd.grad(total, leaf, retain_graph=True)
        yield gap, slope


def distance(gap: Tensor, slope: Tensor, norm: str) -> Tensor:
    """Signed distance to the linearised boundary: 0 at a tie, infinite where there is no slope. (B,), (B, C, H, W) -> (B,)."""
    return torch.where(gap == 0, gap, gap / dual(slope, norm))


def size(images: Tensor, norm: str) -> Tensor:
    """Norm of every sample: (B, C, H, W) -> (B,)."""
    result: Tensor = torch.linalg.vector_norm(images.flatten(1), ord=ORDERS[norm][0], dim=1)
    return result


def dual(slope: Tensor, norm: str) -> Tensor:
    """Dual norm of every sample's gradient: (B, C, H, W) -> (B,)."""
    result: Tensor = torch.linalg.vector_norm(slope.flatten(1), ord=ORDERS[norm][1], dim=1)
    return result


def _column(values: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, 1)."""
    return values[:, None, None, None]
