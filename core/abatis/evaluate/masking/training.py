"""D11 and D23: what only those can measure who know the training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from abatis.api.threat import Threat
from abatis.evaluate.curves import STEPS
from abatis.evaluate.isolation import judging
from abatis.evaluate.judge import Judge, Split
from abatis.evaluate.masking.attacks import Bench
from abatis.evaluate.masking.probes import single_step, transferred
from abatis.evaluate.masking.record import Test, rated, told
from abatis.evaluate.pgd import cross_entropy, margin, pgd

SEVERAL = 10  # steps


@dataclass(frozen=True)
class Training:
    """images: at most 256 training images, not augmented; twin: an undefended network of the same architecture, or how to
    get it, which is asked only where it is needed; threat: that of the training; attacked: had the training an attack?"""

    images: Split
    twin: nn.Module | Callable[[], nn.Module]
    threat: Threat
    attacked: bool = True


def training_tests(bench: Bench, standing: Tensor, training: Training) -> list[Test]:
    """D11 on the points that the white-box attacks left, (n,) bool, and D23 on the training images."""
    return [_transfer(bench, standing, training), _single_step(bench.judge, training, bench.seed)]


def _transfer(bench: Bench, standing: Tensor, training: Training) -> Test:
    name, judge = "transfer from an undefended twin", bench.judge
    if not standing.any():
        return bench.exclusive("D11", name, [], standing)
    module = training.twin if isinstance(training.twin, nn.Module) else training.twin()
    with judging(module) as twin:
        attacks = [
            transferred(judge.net, twin, judge.threat, STEPS, bench.seed, loss)
            for loss in (cross_entropy, margin)
        ]
        return bench.exclusive("D11", name, attacks, standing)


def _single_step(judge: Judge, training: Training, seed: int) -> Test:
    if not training.attacked:  # a single step is simply the weaker attack there
        return told("D23", "not applicable", "the training had no attack to overfit to")
    there = Judge(judge.net, training.images, training.threat, judge.batch_size, judge.progress)
    clean, net, threat = there.clean().correct, judge.net, training.threat
    single = int(
        there.attacked(
            "masking: training, a single step", single_step(net, threat), clean
        ).robust.sum()
    )
    several = int(
        there.attacked(
            f"masking: training, PGD-{SEVERAL}", pgd(net, threat, SEVERAL, seed), clean
        ).robust.sum()
    )
    n = len(clean)
    return rated(
        "D23",
        max(single - several, 0),
        n,
        f"of {n} training images {single} are right after a single step and "
        f"{several} after PGD-{SEVERAL}",
    )
