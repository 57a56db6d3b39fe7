"""D6 to D8 and D22: is the network one function, of logits, whatever its mode?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from abatis.api.ball import Ball
from abatis.api.batch import Batch
from abatis.evaluate.isolation import halving
from abatis.evaluate.judge import Judge, right
from abatis.evaluate.masking.probes import logits_of, path
from abatis.evaluate.masking.record import Test, judged, rated, told
from abatis.evaluate.pgd import STEP_SHARE, cross_entropy, random_start
from abatis.nets.digest import weights_digest
from abatis.nets.net import BATCH_STATISTICS

ALIKE = 1e-4  # L2 distance of two logit vectors of length 1


def output_tests(judge: Judge, distribution: bool) -> list[Test]:
    """D6 to D8; distribution: do the clean outputs look like probabilities?"""
    before = weights_digest(judge.net.module)
    with _gradients_counted() as calls:
        logits = [_all_logits(judge) for _ in range(2)]
    changed = weights_digest(judge.net.module) != before
    says = f"two forwards took {calls['n']} gradients and {'changed' if changed else 'left'} the parameters and buffers"
    looks = (
        "look like probabilities: attacks need logits"
        if distribution
        else "do not look like probabilities"
    )
    return [
        _agreement(*logits),
        told("D7", "warn" if distribution else "pass", f"the outputs {looks}"),
        told("D8", "fail" if changed or calls["n"] else "pass", says, float(calls["n"] + changed)),
    ]


def _all_logits(judge: Judge) -> Tensor:
    batches = judge.split.eval_batches
    return halving(
        lambda size: torch.cat([logits_of(judge.net, batch.x) for batch in batches(size)]),
        judge.batch_size,
    )


def _agreement(first: Tensor, second: Tensor) -> Test:
    flips, n = int((first.argmax(1) != second.argmax(1)).sum()), len(first)
    lengths = (logits.norm(dim=1, keepdim=True).clamp(min=1e-10) for logits in (first, second))
    apart = float((first / next(lengths) - second / next(lengths)).norm(dim=1).max())
    says = f"two forwards of the same images differ by at most {apart:.2g} in their logits of length 1 and in {flips} labels"
    if flips:
        says += ': the network is randomised, attack it with version="rand" and the mean over at least 20 draws'
    return judged(
        "D6", "fail" if flips else "warn" if apart > ALIKE else "pass", flips, n, says, apart
    )


@contextmanager
def _gradients_counted() -> Iterator[dict[str, int]]:
    """Counts the calls of torch.autograd.grad and of backward, which every Tensor.backward ends in."""
    calls, own = {"n": 0}, {name: getattr(torch.autograd, name) for name in ("grad", "backward")}

    def counted(name: str) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            calls["n"] += 1
            return own[name](*arguments, **options)

        return call

    try:
        for name in own:
            setattr(torch.autograd, name, counted(name))
        yield calls
    finally:
        for name, function in own.items():
            setattr(torch.autograd, name, function)


def mode_test(judge: Judge, correct: Tensor, robust: Tensor, steps: int, seed: int) -> Test:
    """D22: how many of the correct points, (n,) bool, stand with the batch's own statistics, against those that do without.

    What a point gets depends on its batch, so PGD keeps the split's batches whole: no point leaves once it is fooled, and no
    process takes only a share of them. An image counts with the batch it was made in.
    """
    if not any(isinstance(module, BATCH_STATISTICS) for module in judge.net.module.modules()):
        return told("D22", "not applicable", "the network has no batch norm")

    def run(batch_size: int) -> Tensor:
        return torch.cat(
            [_stands(judge, batch, steps, seed) for batch in judge.split.eval_batches(batch_size)]
        )

    try:
        with judge.net.attack_mode(batch_statistics=True):
            standing = halving(run, judge.batch_size).cpu() & correct
    except ValueError as error:  # torch refuses the statistics of a single value
        return told("D22", "not applicable", f"no statistics of these batches: {error}")
    with_batch, without, of = int(standing.sum()), int(robust.sum()), int(correct.sum())
    return rated(
        "D22",
        max(with_batch - without, 0),
        of,
        f"with the statistics of the batch {with_batch} of {of} points "
        f"withstand PGD-{steps}, with the network's own {without}",
    )


def _stands(judge: Judge, batch: Batch, steps: int, seed: int) -> Tensor:
    """Which points no iterate of PGD fools, (B,) bool."""
    ball, start = Ball(batch.x, judge.threat), random_start(batch, judge.threat, seed)
    standing = torch.ones_like(batch.y, dtype=torch.bool)
    iterates = path(
        judge.net, batch, judge.threat, cross_entropy, start, steps, STEP_SHARE * judge.threat.eps
    )
    for point, logits, _ in iterates:
        standing &= right(logits, batch.y) | ~ball.contains(point)
    return standing
