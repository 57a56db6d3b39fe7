"""D11 and D23: what needs images or networks of the training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn

from abatis.api.threat import Threat
from abatis.evaluate.curves import STEPS
from abatis.evaluate.isolation import isolate
from abatis.evaluate.judge import Judge, Points
from abatis.evaluate.masking.attacks import AttackTally
from abatis.evaluate.masking.probes import make_single_step, make_transfer
from abatis.evaluate.masking.record import Outcome, grade_share, make_outcome
from abatis.evaluate.pgd import cross_entropy, make_pgd, margin

SEVERAL = 10  # steps


@dataclass(frozen=True)
class TrainingFacts:
    """What is known about the training of the judged network.

    Args:
        images: at most 256 training images of all classes, not augmented.
        twin: an undefended network, or a function that makes it, which is called only if it is
            needed; None for none.
        threat: of the training.
        attacked: did the training use an attack? None where nobody knows.
        twin_kind: what the twin is, in words.
    """

    images: Points
    twin: nn.Module | Callable[[], nn.Module] | None
    threat: Threat
    attacked: bool | None = True
    twin_kind: str = "an undefended twin"

    @cached_property
    def network(self) -> nn.Module | None:
        """The twin, which is made when it is asked for the first time."""
        return (
            self.twin()
            if callable(self.twin) and not isinstance(self.twin, nn.Module)
            else self.twin
        )

    @property
    def trained_twin(self) -> nn.Module | None:
        """The twin, if it was made."""
        return self.twin if isinstance(self.twin, nn.Module) else self.__dict__.get("network")


def run_training_tests(
    tally: AttackTally, standing: Tensor, training: TrainingFacts
) -> list[Outcome]:
    """Run D11 on the points that the white-box attacks left, (n,) bool, and D23."""
    return [
        grade_transfer(tally, standing, training),
        _grade_single_step(tally.judge, training, tally.seed),
    ]


def grade_transfer(tally: AttackTally, standing: Tensor, training: TrainingFacts) -> Outcome:
    """Run D11, which needs no gradient of the network, on points that others left, (n,) bool."""
    name, judge = f"transfer from {training.twin_kind}", tally.judge
    if training.twin is None:
        return make_outcome("D11", "not applicable", "there is no network to transfer from")
    if not standing.any():
        return tally.grade_exclusive("D11", name, [], standing)
    module = training.network
    assert module is not None
    with isolate(module) as twin:
        attacks = [
            make_transfer(judge.net, twin, judge.threat, STEPS, tally.seed, loss)
            for loss in (cross_entropy, margin)
        ]
        return tally.grade_exclusive("D11", name, attacks, standing)


def _grade_single_step(judge: Judge, training: TrainingFacts, seed: int) -> Outcome:
    if training.attacked is None:
        return make_outcome("D23", "not applicable", "nothing is known about the training attack")
    if not training.attacked:  # there, a single step is just the weaker attack
        return make_outcome("D23", "not applicable", "the training used no attack to overfit to")
    there = Judge(judge.net, training.images, training.threat, judge.batch_size, judge.progress)
    clean, net, threat = there.classify_clean().correct, judge.net, training.threat
    single = int(
        there.run_attack(
            "masking: training, a single step", make_single_step(net, threat), clean
        ).robust.sum()
    )
    several = int(
        there.run_attack(
            f"masking: training, PGD-{SEVERAL}", make_pgd(net, threat, SEVERAL, seed), clean
        ).robust.sum()
    )
    n = len(clean)
    return grade_share(
        "D23",
        max(single - several, 0),
        n,
        f"of {n} training images {single} are classified correctly after a single step and "
        f"{several} after PGD-{SEVERAL}",
    )
