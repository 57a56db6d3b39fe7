"""Gradients estimated from answers alone: for networks whose own gradient misleads."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from abatis.api.ball import Ball, column, lengths
from abatis.api.batch import Batch
from abatis.api.context import Forward
from abatis.api.randomness import draw_integers_of
from abatis.api.threat import Threat
from abatis.evaluate.judge import Attack, Clean, Judge, find_correct
from abatis.evaluate.masking.probes import compute_logits
from abatis.evaluate.masking.search import Search
from abatis.evaluate.pgd import draw_start, margin

REACH = 0.5  # size of a probe, as a share of the radius
GRID = 8  # probes have so many independent places a side at most
STEPS = (0.5, 0.25, 0.125)  # sizes of a step as shares of the radius, for equal parts of the path
NAME = "finite differences"


@dataclass(frozen=True)
class Climb:
    """How to climb.

    Args:
        queries: questions a point.
        pairs: of opposite probes for every step.
        momentum: weight of the mean of all former slopes.
        to_the_end: is the last image taken, in place of the first that fools? Where a network
            answers at random, one wrong answer means little.
    """

    queries: int
    pairs: int
    momentum: float
    to_the_end: bool = False


STEADY = Climb(1000, 12, 0.8)
RANDOM = Climb(8000, 50, 0.9, to_the_end=True)


def climb_differences(
    judge: Judge, clean: Clean, standing: Tensor, *, seed: int, climb: Climb | None = None
) -> Search:
    """Climb the margin along smoothed finite differences.

    Args:
        judge: inside :func:`~abatis.evaluate.isolation.isolate`; the threat is Linf or L2.
        clean: results on the clean images of the judge's points.
        standing: the points to attack, (n,) bool on the CPU.
        seed: of all draws.
        climb: STEADY or, for a network that answers at random, RANDOM where not given. The
            latter attacks all points, since each is right by some draws.

    Raises:
        OutOfMemoryError: the device has no memory for a single image.
    """
    climb = climb or (RANDOM if judge.random else STEADY)
    wanted = torch.ones_like(standing) if judge.random else standing & clean.correct
    attack = make_difference_climb(judge.net, judge.threat, seed, climb)
    verdicts = judge.run_attack(NAME, attack, wanted, f"masking: {NAME}")
    settings = {
        "queries": climb.queries,
        "pairs": climb.pairs,
        "reach": REACH,
        "loss": "margin",
        "seed": seed,
    }
    return Search({NAME: verdicts}, {NAME: settings})


def make_difference_climb(forward: Forward, threat: Threat, seed: int, climb: Climb) -> Attack:
    """Return projected ascent of the margin along a gradient estimated from opposite probes.

    The estimate is the mean of ``(m(x + d u) - m(x - d u)) u`` over random signs u (Spall, IEEE
    Transactions on Automatic Control 1992; Uesato et al., ICML 2018), averaged over the steps of
    the path. The probes are long, half the radius, so that ripples and jumps of the loss cancel.
    """
    total = max(1, climb.queries // (2 * climb.pairs + 1))

    def attack(batch: Batch) -> tuple[Tensor, Tensor]:
        point = draw_start(batch, threat, seed)
        found, fooled = point.clone(), torch.zeros_like(batch.y, dtype=torch.bool)
        highest = torch.full_like(batch.x[:, 0, 0, 0], -torch.inf)
        mean = torch.zeros_like(point)
        rows = torch.arange(len(batch), device=batch.x.device)  # the points not fooled yet
        for step in range(total):
            logits = compute_logits(forward, point)
            wrong = ~find_correct(logits, batch.y[rows])
            if climb.to_the_end:
                wrong = torch.zeros_like(wrong)
            value = margin(logits, batch.y[rows]).nan_to_num(-torch.inf)
            better = wrong | (value > highest[rows]) | climb.to_the_end
            found[rows[better]], highest[rows[better]] = point[better], value[better]
            fooled[rows[wrong]] = True
            rows, point, mean = rows[~wrong], point[~wrong], mean[~wrong]
            if not len(rows):
                break
            left = Batch(point, batch.y[rows], batch.index[rows])
            slope = estimate_slope(forward, left, threat, seed, step, climb)
            mean = climb.momentum * mean + slope / column(lengths(slope).clamp(min=1e-12), slope)
            share = STEPS[len(STEPS) * step // total]
            point = Ball(batch.x[rows], threat).climb(point, mean.clone(), share * threat.eps)
        return found, fooled

    return attack


def estimate_slope(
    forward: Forward, batch: Batch, threat: Threat, seed: int, step: int, climb: Climb
) -> Tensor:
    """Return the mean of the margin's differences along random signs, (B, C, H, W).

    The signs depend on the seed, the step of the path and the index of each point.
    """
    point = batch.x
    height, width = point.shape[2:]
    grid = (min(height, GRID), min(width, GRID))
    size = REACH * threat.eps
    if threat.norm == "L2":
        size /= point[0].numel() ** 0.5
    slope = torch.zeros_like(point)
    shape = (climb.pairs, point.shape[1], *grid)
    bits = draw_integers_of(batch.index, seed, "masking/differences", shape, 2, step)
    for signs in (2 * bits - 1).to(point).unbind(1):
        way = F.interpolate(signs, (height, width))
        up, down = (
            margin(compute_logits(forward, (point + side * size * way).clamp(0, 1)), batch.y)
            for side in (1, -1)
        )
        slope += column((up - down).nan_to_num(0, 0, 0), way) * way
    return slope / climb.pairs
