"""D1 to D5: are there gradients with respect to the image, and do they predict the loss?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from abatis.api.ball import lengths
from abatis.api.batch import Batch
from abatis.evaluate.gradient_access import GradientAccess
from abatis.evaluate.isolation import halve_until_fits
from abatis.evaluate.judge import Judge
from abatis.evaluate.masking.probes import compute_logits
from abatis.evaluate.masking.record import Outcome, Status, grade_share, make_outcome
from abatis.evaluate.pgd import cross_entropy, differentiate, draw_start, margin

TINY = 1e-6  # largest entry of a gradient in float32
REACH = 0.01
"""L2 length of a finite difference: long enough for float32 and for ripples of the loss, short
enough for undefended networks."""

NEAR, FAR = (0.9, 1.1), (0.5, 1.5)
"""Limits of the difference, as multiples of what the gradient predicts: warn, fail."""


@dataclass(frozen=True)
class _GradientFacts:
    """What the gradients at some points look like, (B,) each.

    Args:
        zero: is the margin's gradient zero?
        zero_entropy: is the cross-entropy's gradient zero?
        tiny: is no entry of the margin's gradient larger than TINY?
        odd: are logits or gradients NaN or infinite?
        ratio: the margin's change along its gradient, over the predicted one.
    """

    zero: Tensor
    zero_entropy: Tensor
    tiny: Tensor
    odd: Tensor
    ratio: Tensor


def grade_access(access: GradientAccess) -> Outcome:
    """Grade D1."""
    if access.kind == "all":
        return make_outcome("D1", "pass", "the logits have a gradient with respect to the images")
    if access.kind == "none":
        return make_outcome("D1", "fail", f"the images have no gradient ({access.reason})")
    return make_outcome(
        "D1",
        "fail",
        f"after {access.lost} of {access.of} forward passes the images have no gradient "
        f"({access.reason}); attacks took it as zero there",
    )


def run_gradient_tests(judge: Judge, seed: int) -> list[Outcome]:
    """Run D2 to D5, at the images and at random points of their balls.

    D2 and D3 use the margin's gradient: that of the cross-entropy underflows in an honest network
    that is very confident.
    """
    parts = halve_until_fits(
        lambda size: [_inspect(judge, batch, seed) for batch in judge.points.eval_batches(size)],
        judge.batch_size,
    )
    zero, zero_entropy, tiny, odd, ratio = (
        torch.cat([getattr(part, name) for part in parts]).cpu()
        for name in _GradientFacts.__dataclass_fields__
    )
    n, flat = len(zero), int(zero.sum())
    return [
        grade_share(
            "D2",
            flat,
            n,
            f"the gradient of the margin is exactly zero at {flat} of {n} points, that of the "
            f"cross-entropy at {int(zero_entropy.sum())} (see D18)",
        ),
        grade_share(
            "D3",
            int(tiny.sum()),
            n,
            f"all entries of the margin's gradient are below {TINY:g} at {int(tiny.sum())} points",
        ),
        grade_share(
            "D4",
            int(odd.sum()),
            n,
            f"logits or gradients are NaN or infinite at {int(odd.sum())} of {n} points",
        ),
        _grade_difference(ratio),
    ]


def _inspect(judge: Judge, batch: Batch, seed: int) -> _GradientFacts:
    flags: dict[str, Tensor] = {}
    for place in (draw_start(batch, judge.threat, seed), batch.x):
        for objective in (cross_entropy, margin):
            logits, _, gradient = differentiate(judge.net, place, batch.y, objective)
            largest = gradient.abs().flatten(1).amax(1)  # (B,)
            odd = ~(logits.isfinite().all(1) & largest.isfinite())
            found = {"odd": odd, "zero_entropy": largest == 0}
            if objective is margin:
                found = {"odd": odd, "zero": largest == 0, "tiny": largest < TINY}
            flags |= {name: flag | flags.get(name, flag) for name, flag in found.items()}
    # the last gradient is the margin's at the images
    return _GradientFacts(ratio=_compare_difference(judge, batch, gradient), **flags)


def _compare_difference(judge: Judge, batch: Batch, gradient: Tensor) -> Tensor:
    """Return the margin's change along its gradient, in [0, 1], over the predicted one.

    (B, C, H, W) -> (B,); 1 where the network is linear.
    """
    delta = gradient * (REACH / lengths(gradient)).view(-1, *[1] * (gradient.dim() - 1))
    up, down = ((batch.x + sign * delta).clamp(0, 1) for sign in (1, -1))
    change = margin(compute_logits(judge.net, up), batch.y) - margin(
        compute_logits(judge.net, down), batch.y
    )
    return change / ((up - down) * gradient).flatten(1).sum(1)


def _grade_difference(ratio: Tensor) -> Outcome:
    ratio = ratio[ratio.isfinite()]
    if not len(ratio):
        return make_outcome(
            "D5", "not applicable", "no point has a finite gradient other than zero"
        )
    median = float(ratio.median())
    status: Status = (
        "pass" if NEAR[0] <= median <= NEAR[1] else "warn" if FAR[0] <= median <= FAR[1] else "fail"
    )
    return make_outcome(
        "D5",
        status,
        f"along its gradient the margin changes by {median:.3g} times what the gradient predicts "
        f"(median of {len(ratio)} points)",
        median,
    )
