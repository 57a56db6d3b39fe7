"""Random searches that go on from given images: by margins, and by labels alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from abatis.api.ball import Ball, column
from abatis.api.batch import Batch
from abatis.api.context import Forward
from abatis.api.randomness import generator
from abatis.api.threat import Threat
from abatis.evaluate.judge import Attack, find_correct
from abatis.evaluate.masking.probes import compute_logits
from abatis.evaluate.pgd import margin

LARGEST, SMALLEST = 0.5, 0.02  # area of the squares at the start and at the end, as a share
FACTORS = (1, 1.5, 2, 3, 5, 8)  # radii at which a direction is tried, as multiples of eps
GROW, DECAY = 2.0, 0.85  # of the share by which the radius shrinks, after a success and a failure
LEAST, MOST = 0.002, 0.5  # limits of that share


def make_square_search(
    forward: Forward, threat: Threat, seed: int, queries: int, starts: Mapping[int, Tensor]
) -> Attack:
    """Return a search for a larger margin by squares of random signs, from given images.

    It is Square (Andriushchenko et al., ECCV 2020), whose own start is random stripes.

    Args:
        forward: the network.
        threat: norm and radius, Linf or L2.
        seed: with the first index of a batch it decides all draws.
        queries: of each point.
        starts: (C, H, W) by the point's index.
    """

    def attack(batch: Batch) -> tuple[Tensor, Tensor]:
        source = generator(seed, "extraction/square", int(batch.index[0]))
        found, fooled = gather(starts, batch), torch.zeros_like(batch.y, dtype=torch.bool)
        highest = batch.y.new_full((len(batch),), 0).to(batch.x) - torch.inf
        for query in range(queries):
            rows = (~fooled).nonzero().flatten()
            if not len(rows):
                break
            point = found[rows]
            if query:
                signs = draw_square(point, query / queries, source)
                point = Ball(batch.x[rows], threat).climb(point, signs, 2 * threat.eps)
            logits = compute_logits(forward, point)
            wrong = ~find_correct(logits, batch.y[rows])
            value = margin(logits, batch.y[rows]).nan_to_num(-torch.inf)
            better = wrong | (value > highest[rows])
            found[rows[better]] = point[better]
            highest[rows[better]] = value[better]
            fooled[rows[wrong]] = True
        return found, fooled

    return attack


def make_label_search(
    forward: Forward, threat: Threat, seed: int, queries: int, starts: dict[int, Tensor]
) -> Attack:
    """Return a search for a direction in which the label changes within the radius.

    Like RayS (Chen and Gu, KDD 2020) it changes the direction in a block and keeps the change
    where the image at a slightly smaller radius is still misclassified. Only labels are used.

    Args:
        forward: the network.
        threat: norm and radius, Linf or L2.
        seed: with the first index of a batch it decides all draws.
        queries: of each point.
        starts: (C, H, W) by the point's index; they give the first directions. The images that
            are found take their place, so that another search can go on from them.
    """

    def attack(batch: Batch) -> tuple[Tensor, Tensor]:
        source = generator(seed, "extraction/labels", int(batch.index[0]))
        ask = _make_question(forward, batch)
        way = gather(starts, batch) - batch.x
        way = normalize(torch.where(way == 0, _draw_signs(way, source) * 1e-6, way), threat.norm)
        radius = _find_radii(batch, way, threat, ask)
        share = torch.full_like(radius, 0.1)
        for query in range(queries - len(FACTORS)):
            rows = (radius > threat.eps).nonzero().flatten()
            if not len(rows):
                break
            old = way[rows]
            new = old
            if query % 4:  # every fourth question is about a smaller radius alone
                new = normalize(_turn(old, query / queries, threat.norm, source), threat.norm)
            smaller = (radius[rows] * (1 - share[rows])).clamp(max=radius[rows])
            smaller = torch.where(smaller < threat.eps, threat.eps, smaller)
            wrong = ask(rows, _go(batch.x[rows], new, smaller))
            way[rows[wrong]], radius[rows[wrong]] = new[wrong], smaller[wrong]
            factor = torch.where(wrong, GROW, DECAY)
            share[rows] = (share[rows] * factor).clamp(LEAST, MOST)
        found = _go(batch.x, way, radius.clamp(max=threat.eps))
        starts.update(zip(batch.index.tolist(), found.cpu().unbind(), strict=True))
        return found, radius <= threat.eps

    return attack


def gather(images: Mapping[int, Tensor], batch: Batch) -> Tensor:
    """Return the images of a batch's points, (B, C, H, W)."""
    return torch.stack([images[place] for place in batch.index.tolist()]).to(batch.x)


def normalize(way: Tensor, norm: str) -> Tensor:
    """Scale directions to size 1; in Linf every entry is 1 or -1: (B, C, H, W)."""
    if norm == "Linf":
        return torch.where(way < 0, -1.0, 1.0)
    return way / column(torch.linalg.vector_norm(way.flatten(1), dim=1).clamp(min=1e-12), way)


def draw_square(like: Tensor, done: float, source: torch.Generator) -> Tensor:
    """Draw a square of random signs, one per channel, in zeros: (B, C, H, W).

    Its area falls from LARGEST to SMALLEST of the image while ``done`` rises from 0 to 1.
    """
    count, channels, height, width = like.shape
    area = LARGEST * (SMALLEST / LARGEST) ** done * height * width
    side = max(1, min(round(area**0.5), height, width))
    top = torch.randint(height - side + 1, (count, 1, 1, 1), generator=source)
    left = torch.randint(width - side + 1, (count, 1, 1, 1), generator=source)
    down, right = torch.arange(height).view(1, 1, -1, 1), torch.arange(width).view(1, 1, 1, -1)
    inside = (down >= top) & (down < top + side) & (right >= left) & (right < left + side)
    signs = 2 * torch.randint(2, (count, channels, 1, 1), generator=source) - 1
    square: Tensor = inside * signs
    return square.to(like)


def _draw_signs(like: Tensor, source: torch.Generator) -> Tensor:
    bits = torch.randint(2, like.shape, generator=source)
    return (2 * bits - 1).to(like)


def _turn(way: Tensor, done: float, norm: str, source: torch.Generator) -> Tensor:
    """Change directions in a square: turn their signs, in L2 add noise of twice their size."""
    square = draw_square(way, done, source)
    if norm == "Linf":
        return torch.where(square == 0, way, way * square)
    noise = torch.randn(way.shape, generator=source).to(way)
    size: float = 2 / way[0].numel() ** 0.5
    return way + size * square.abs() * noise


def _make_question(forward: Forward, batch: Batch) -> Callable[[Tensor, Tensor], Tensor]:
    def ask(rows: Tensor, point: Tensor) -> Tensor:
        return ~find_correct(compute_logits(forward, point), batch.y[rows])

    return ask


def _go(x: Tensor, way: Tensor, radius: Tensor) -> Tensor:
    """Return the images at some radii, clipped to the box: (B, C, H, W)."""
    return (x + way * column(radius.nan_to_num(0, 0, 0), x)).clamp(0, 1)


def _find_radii(
    batch: Batch, way: Tensor, threat: Threat, ask: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Return the smallest tried radius at which the label is wrong, (B,).

    Where none is, it is the largest tried one, from which the search goes on.
    """
    radius = torch.full_like(batch.x[:, 0, 0, 0], max(FACTORS) * threat.eps)
    for factor in reversed(FACTORS):
        rows = torch.arange(len(batch), device=batch.x.device)
        wrong = ask(rows, _go(batch.x, way, torch.full_like(radius, factor * threat.eps)))
        radius[wrong] = factor * threat.eps
    return radius
