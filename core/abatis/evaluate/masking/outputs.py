"""D6 to D8 and D22: is the network a fixed function with logits as outputs, in either mode?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from abatis.api.ball import Ball
from abatis.api.batch import Batch
from abatis.evaluate.isolation import halve_until_fits
from abatis.evaluate.judge import Judge, find_correct
from abatis.evaluate.masking.probes import compute_logits, walk_path
from abatis.evaluate.masking.record import Outcome, Status, grade_share, make_outcome
from abatis.evaluate.pgd import STEP_SHARE, cross_entropy, draw_start
from abatis.nets.digest import weights_digest
from abatis.nets.net import BATCH_STATISTICS

ALIKE = 1e-4  # L2 distance of two logit vectors of length 1


def run_output_tests(judge: Judge, distribution: bool) -> list[Outcome]:
    """Run D6 to D8; distribution: do the clean outputs look like probabilities?"""
    single = judge.single
    before = weights_digest(single.module)
    with _count_gradients() as calls:
        logits = [_compute_all_logits(judge) for _ in range(2)]
    changed = weights_digest(single.module) != before
    effect = "changed parameters or buffers" if changed else "changed no parameters or buffers"
    says = f"two forward passes computed {calls['n']} gradients and {effect}"
    # networks with an inner optimisation take gradients, and are honest
    status: Status = "fail" if changed else "warn" if calls["n"] else "pass"
    looks = (
        "look like probabilities, but attacks need logits"
        if distribution
        else "do not look like probabilities"
    )
    return [
        _grade_agreement(*logits),
        make_outcome("D7", "warn" if distribution else "pass", f"the outputs {looks}"),
        make_outcome("D8", status, says, float(calls["n"] + changed)),
    ]


def _compute_all_logits(judge: Judge) -> Tensor:
    batches = judge.points.eval_batches
    return halve_until_fits(
        lambda size: torch.cat([compute_logits(judge.single, batch.x) for batch in batches(size)]),
        judge.batch_size,
    )


def _grade_agreement(first: Tensor, second: Tensor) -> Outcome:
    flips, n = int((first.argmax(1) != second.argmax(1)).sum()), len(first)
    lengths = (logits.norm(dim=1, keepdim=True).clamp(min=1e-10) for logits in (first, second))
    apart = float((first / next(lengths) - second / next(lengths)).norm(dim=1).max())
    says = (
        f"two forward passes on the same images differ by at most {apart:.2g} in their logits, "
        f"scaled to length 1, and in {flips} labels"
    )
    if flips:
        says += ": the network is randomised; all accuracies are means over its random draws"
    status: Status = "fail" if flips else "warn" if apart > ALIKE else "pass"
    return make_outcome("D6", status, says, apart, flips, n)


@contextmanager
def _count_gradients() -> Iterator[dict[str, int]]:
    """Count the calls of torch.autograd.grad, and of backward, which Tensor.backward calls."""
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


def run_mode_test(judge: Judge, correct: Tensor, robust: Tensor, steps: int, seed: int) -> Outcome:
    """Run D22: do more points withstand PGD in training mode, with the batch's statistics?

    The logits of a point then depend on its batch, so batches stay whole: no point leaves once it
    is fooled, every process attacks all of them, and an image is judged in the batch it was made
    in.

    Args:
        judge: of the network and the points.
        correct: (n,) bool, correct without an attack.
        robust: (n,) bool, those that withstand the same PGD in eval mode.
        steps: of PGD.
        seed: of PGD.
    """
    if not any(isinstance(module, BATCH_STATISTICS) for module in judge.net.module.modules()):
        return make_outcome("D22", "not applicable", "the network has no batch norm")

    def run(batch_size: int) -> Tensor:
        return torch.cat(
            [
                _find_standing(judge, batch, steps, seed)
                for batch in judge.points.eval_batches(batch_size)
            ]
        )

    try:
        with judge.net.attack_mode(batch_statistics=True):
            standing = halve_until_fits(run, judge.batch_size).cpu() & correct
    except ValueError as error:  # torch refuses the statistics of a single value
        return make_outcome(
            "D22", "not applicable", f"batch statistics cannot be computed: {error}"
        )
    with_batch, without, of = int(standing.sum()), int(robust.sum()), int(correct.sum())
    return grade_share(
        "D22",
        max(with_batch - without, 0),
        of,
        f"{with_batch} of {of} points withstand PGD-{steps} with the batch's statistics, {without} "
        "with the network's own",
    )


def _find_standing(judge: Judge, batch: Batch, steps: int, seed: int) -> Tensor:
    """Return which points no iterate of PGD fools, (B,) bool."""
    ball, start = Ball(batch.x, judge.threat), draw_start(batch, judge.threat, seed)
    standing = torch.ones_like(batch.y, dtype=torch.bool)
    iterates = walk_path(
        judge.net, batch, judge.threat, cross_entropy, start, steps, STEP_SHARE * judge.threat.eps
    )
    for point, logits, _ in iterates:
        standing &= find_correct(logits, batch.y) | ~ball.contains(point)
    return standing
