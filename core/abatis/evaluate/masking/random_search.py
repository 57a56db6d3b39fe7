"""Random searches that go on from given images: by margins, and by labels alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from abatis.api.ball import Ball, column
from abatis.api.batch import Batch
from abatis.api.context import Forward
from abatis.api.randomness import draw_integers_of, per_sample
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
        seed: with the index of a point it decides all draws.
        queries: of each point.
        starts: (C, H, W) by the point's index.
    """

    def attack(batch: Batch) -> tuple[Tensor, Tensor]:
        found, fooled = gather(starts, batch), torch.zeros_like(batch.y, dtype=torch.bool)
        highest = batch.y.new_full((len(batch),), 0).to(batch.x) - torch.inf
        for query in range(queries):
            rows = (~fooled).nonzero().flatten()
            if not len(rows):
                break
            point = found[rows]
            if query:
                draws = Draws(seed, "extraction/square", batch.index[rows], query)
                signs = draw_square(point, query / queries, draws)
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
    forward: Forward,
    threat: Threat,
    seed: int,
    queries: int,
    starts: Mapping[int, Tensor],
    ends: dict[int, Tensor] | None = None,
) -> Attack:
    """Return a search for a direction in which the label changes within the radius.

    Like RayS (Chen and Gu, KDD 2020) it changes the direction in a block and keeps the change
    where the image at a slightly smaller radius is still misclassified. Only labels are used.

    Args:
        forward: the network.
        threat: norm and radius, Linf or L2.
        seed: with the index of a point it decides all draws.
        queries: of each point.
        starts: (C, H, W) by the point's index; they give the first directions.
        ends: takes the images that are found, so that another search can start from them.
    """

    def attack(batch: Batch) -> tuple[Tensor, Tensor]:
        ask = _make_question(forward, batch)
        way = gather(starts, batch) - batch.x
        start = Draws(seed, "extraction/labels/start", batch.index, 0)
        signs = start.signs("sign", way.shape[1:]).to(way)
        way = normalize(torch.where(way == 0, signs * 1e-6, way), threat.norm)
        radius = _find_radii(batch, way, threat, ask)
        share = torch.full_like(radius, 0.1)
        for query in range(queries - len(FACTORS)):
            rows = (radius > threat.eps).nonzero().flatten()
            if not len(rows):
                break
            old = way[rows]
            new = old
            if query % 4:  # every fourth question is about a smaller radius alone
                draws = Draws(seed, "extraction/labels", batch.index[rows], query)
                new = normalize(_turn(old, query / queries, threat.norm, draws), threat.norm)
            smaller = (radius[rows] * (1 - share[rows])).clamp(max=radius[rows])
            smaller = torch.where(smaller < threat.eps, threat.eps, smaller)
            wrong = ask(rows, _go(batch.x[rows], new, smaller))
            way[rows[wrong]], radius[rows[wrong]] = new[wrong], smaller[wrong]
            factor = torch.where(wrong, GROW, DECAY)
            share[rows] = (share[rows] * factor).clamp(LEAST, MOST)
        found = _go(batch.x, way, radius.clamp(max=threat.eps))
        if ends is not None:
            ends.update(zip(batch.index.tolist(), found.cpu().unbind(), strict=True))
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


@dataclass(frozen=True)
class Draws:
    """The random numbers of one query, by the index of each point.

    Attributes:
        seed: of the evaluation.
        purpose: what the query is about.
        index: positions of the points, (B,) int64.
        query: number of the query.
    """

    seed: int
    purpose: str
    index: Tensor
    query: int

    def integers(self, name: str, shape: tuple[int, ...], below: int) -> Tensor:
        """Draw 0 .. below - 1: (B, *shape) int64."""
        purpose = f"{self.purpose}/{name}"
        return draw_integers_of(self.index, self.seed, purpose, shape, below, self.query)

    def signs(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Draw 1 or -1: (B, *shape) int64."""
        return 2 * self.integers(name, shape, 2) - 1

    def normal(self, like: Tensor) -> Tensor:
        """Draw standard normal numbers: (B, ...)."""
        purpose = f"{self.purpose}/normal/{self.query}"
        return per_sample("normal", self.seed, purpose, self.index, like)


def draw_square(like: Tensor, done: float, draws: Draws) -> Tensor:
    """Draw a square of random signs, one per channel, in zeros: (B, C, H, W).

    Its area falls from LARGEST to SMALLEST of the image while ``done`` rises from 0 to 1.
    """
    channels, height, width = like.shape[1:]
    area = LARGEST * (SMALLEST / LARGEST) ** done * height * width
    side = max(1, min(round(area**0.5), height, width))
    top = draws.integers("top", (1, 1, 1), height - side + 1)
    left = draws.integers("left", (1, 1, 1), width - side + 1)
    down = torch.arange(height, device=top.device).view(1, 1, -1, 1)
    right = torch.arange(width, device=top.device).view(1, 1, 1, -1)
    inside = (down >= top) & (down < top + side) & (right >= left) & (right < left + side)
    square: Tensor = inside * draws.signs("sign", (channels, 1, 1))
    return square.to(like)


def _turn(way: Tensor, done: float, norm: str, draws: Draws) -> Tensor:
    """Change directions in a square: turn their signs, in L2 add noise of twice their size."""
    square = draw_square(way, done, draws)
    if norm == "Linf":
        return torch.where(square == 0, way, way * square)
    size: float = 2 / way[0].numel() ** 0.5
    return way + size * square.abs() * draws.normal(way)


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
