"""D1 to D5: are there input gradients, and are they the slope of the loss?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from abatis.api.ball import lengths
from abatis.api.batch import Batch
from abatis.evaluate.isolation import halving
from abatis.evaluate.judge import Judge
from abatis.evaluate.masking.probes import logits_of
from abatis.evaluate.masking.record import Status, Test, rated, told
from abatis.evaluate.pgd import ascent, cross_entropy, margin, random_start

TINY = 1e-6  # largest entry of a gradient in float32
REACH = 0.01  # L2 length of a finite difference: long enough for float32 and for ripples, short enough for undefended networks
NEAR, FAR = (0.9, 1.1), (0.5, 1.5)  # what the difference may be of what the gradient promises


@dataclass(frozen=True)
class _Looked:
    """What the gradients of some points are, (B,) each; the margin's where nothing else is said."""

    zero: Tensor
    zero_entropy: Tensor
    tiny: Tensor
    odd: Tensor
    ratio: Tensor


def unreachable(judge: Judge) -> str | None:
    """Why no gradient reaches the images; None where one does."""
    batch = next(iter(judge.split.eval_batches(1)))
    try:
        ascent(judge.net, batch.x, batch.y, margin)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a backward of the network's own may raise anything
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return None


def gradient_tests(judge: Judge, seed: int) -> list[Test]:
    """D1 to D5 where gradients reach the images, at the images and at random points of their balls.

    D2 and D3 look at the margin's gradients: those of the cross-entropy underflow in an honest network that is very sure.
    """
    parts = halving(
        lambda size: [_look(judge, batch, seed) for batch in judge.split.eval_batches(size)],
        judge.batch_size,
    )
    zero, zero_entropy, tiny, odd, ratio = (
        torch.cat([getattr(part, name) for part in parts]).cpu()
        for name in _Looked.__dataclass_fields__
    )
    n, flat = len(zero), int(zero.sum())
    return [
        told("D1", "pass", "the gradient of the logits reaches the images"),
        rated(
            "D2",
            flat,
            n,
            f"the margin's gradient is exactly zero at {flat} of {n} points, the cross-entropy's at "
            f"{int(zero_entropy.sum())} (which D18 judges)",
        ),
        rated(
            "D3",
            int(tiny.sum()),
            n,
            f"no entry of the margin's gradient reaches {TINY:g} at {int(tiny.sum())} points",
        ),
        rated(
            "D4",
            int(odd.sum()),
            n,
            f"logits or gradients are NaN or infinite at {int(odd.sum())} of {n} points",
        ),
        _difference(ratio),
    ]


def _look(judge: Judge, batch: Batch, seed: int) -> _Looked:
    flags: dict[str, Tensor] = {}
    for place in (random_start(batch, judge.threat, seed), batch.x):
        for objective in (cross_entropy, margin):
            logits, _, gradient = ascent(judge.net, place, batch.y, objective)
            largest = gradient.abs().flatten(1).amax(1)  # (B,)
            odd = ~(logits.isfinite().all(1) & largest.isfinite())
            found = {"odd": odd, "zero_entropy": largest == 0}
            if objective is margin:
                found = {"odd": odd, "zero": largest == 0, "tiny": largest < TINY}
            flags |= {name: flag | flags.get(name, flag) for name, flag in found.items()}
    return _Looked(
        ratio=_ratio(judge, batch, gradient), **flags
    )  # the last gradient: the margin's at the images


def _ratio(judge: Judge, batch: Batch, gradient: Tensor) -> Tensor:
    """The change of the margin along its gradient (B, C, H, W), in the box, over the promised one: (B,), 1 where linear."""
    delta = gradient * (REACH / lengths(gradient)).view(-1, *[1] * (gradient.dim() - 1))
    up, down = ((batch.x + sign * delta).clamp(0, 1) for sign in (1, -1))
    change = margin(logits_of(judge.net, up), batch.y) - margin(logits_of(judge.net, down), batch.y)
    return change / ((up - down) * gradient).flatten(1).sum(1)


def _difference(ratio: Tensor) -> Test:
    ratio = ratio[ratio.isfinite()]
    if not len(ratio):
        return told("D5", "not applicable", "no point has a gradient that is finite and not zero")
    median = float(ratio.median())
    status: Status = (
        "pass" if NEAR[0] <= median <= NEAR[1] else "warn" if FAR[0] <= median <= FAR[1] else "fail"
    )
    return told(
        "D5",
        status,
        f"along its gradient the margin changes by {median:.3g} times what the gradient promises, in the "
        f"median of {len(ratio)} points",
        median,
    )
