"""D9, D10, D12 to D18, D21 and D24: are the gradient attacks strong, and do they converge?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from abatis.evaluate.curves import STEPS
from abatis.evaluate.judge import Attack, Judge, Verdicts
from abatis.evaluate.masking.probes import (
    DRAWS,
    make_random_noise,
    make_single_step,
    make_square,
    make_traced_pgd,
)
from abatis.evaluate.masking.record import Outcome, grade_share, make_outcome
from abatis.evaluate.pgd import Objective, cross_entropy, make_pgd, margin
from abatis.system import distributed

MORE_STEPS = 100
RESTARTS = 5
QUERIES = 1000
SMALLEST = 5  # pixels a side that Square needs in L2


@dataclass
class AttackTally:
    """Runs the attacks of the diagnostics and keeps count of their results.

    Args:
        judge: of the network and the points.
        correct: (n,) bool, correct without an attack.
        seed: of the attacks.

    Attributes:
        robust: (n,) bool, correct without an attack and after all attacks so far.
        open: (n,) bool, the points that neither the ladder nor an attack so far has broken.
        breakers: the attacks that broke an open point, by name.
        made: number of adversarial images so far.
        stray: how many of them lie outside the ball or [0, 1], or lost their label.
    """

    judge: Judge
    correct: Tensor
    seed: int
    robust: Tensor = field(init=False)
    open: Tensor = field(init=False)
    breakers: dict[str, Attack] = field(default_factory=dict)
    made: int = 0
    stray: int = 0

    def __post_init__(self) -> None:
        self.robust, self.open = self.correct.clone(), self.correct.clone()

    def run(self, name: str, attack: Attack, points: Tensor) -> Verdicts:
        """Run an attack on some points, (n,) bool."""
        verdicts = self.judge.run_attack(name, attack, points, f"masking: {name}")
        broken = self.open & points & ~verdicts.robust
        if broken.any():
            self.breakers.setdefault(name, attack)
        return self.count(verdicts, points)

    def count(self, verdicts: Verdicts, points: Tensor) -> Verdicts:
        """Count the verdicts of an attack on some points, (n,) bool, wherever it ran."""
        self.made += verdicts.facts["attacked"]
        self.stray += verdicts.stray
        self.robust &= verdicts.robust | ~points
        self.open &= self.robust
        return verdicts

    def grade_exclusive(
        self, test: str, name: str, attacks: list[Attack], standing: Tensor
    ) -> Outcome:
        """Grade the share of correct points that only these attacks break.

        standing: (n,) bool, the points that all white-box attacks left.
        """
        left = standing
        for attack in attacks:
            # by another draw, what is wrong by most draws may be right
            asked = standing if self.judge.random else left
            left = left & self.run(name, attack, asked).robust
        count, of = int((standing & ~left).sum()), int(self.correct.sum())
        return grade_share(
            test, count, of, f"{name} broke {count} of {of} points that PGD-{STEPS} did not"
        )

    def grade_budget(self) -> Outcome:
        """D24, over all attacks so far."""
        return grade_share(
            "D24",
            self.stray,
            self.made,
            f"{self.stray} of {self.made} adversarial images lie outside the ball or [0, 1], "
            "contain NaN, or came back with another label",
        )


@dataclass(frozen=True)
class WhiteBox:
    """The verdicts of PGD-20 on the cross-entropy, and of PGD-20 on the margin after it."""

    entropy: Verdicts
    margin: Verdicts

    @property
    def standing(self) -> Tensor:
        """The points that withstood both, (n,) bool."""
        return self.margin.robust


def run_white_box(tally: AttackTally, known: Mapping[Objective, Tensor]) -> WhiteBox:
    """Run PGD-20 on both losses, the second on the points that the first left.

    known: results of the ladder, (n,) bool by loss, which need not be found again.
    """

    def left(name: str, objective: Objective, points: Tensor) -> Verdicts:
        if objective in known:
            facts = {"attacked": int(points.sum()), "rejected": 0}
            return tally.count(Verdicts(name, points & known[objective], facts), points)
        return tally.run(
            name,
            make_pgd(tally.judge.net, tally.judge.threat, STEPS, tally.seed, objective),
            points,
        )

    entropy = left(f"PGD-{STEPS}", cross_entropy, tally.correct)
    return WhiteBox(entropy, left(f"margin PGD-{STEPS}", margin, entropy.robust))


def run_gradient_attack_tests(tally: AttackTally, white: WhiteBox) -> list[Outcome]:
    """Run D9, D13 to D18 and D21: the attacks that need gradients."""
    net, threat, seed = tally.judge.net, tally.judge.threat, tally.seed
    others = range(1, RESTARTS)  # the remaining points withstood the first start
    restarted = [
        make_pgd(net, threat, STEPS, seed, objective, others)
        for objective in (cross_entropy, margin)
    ]
    return [
        _grade_one_step(tally, white),
        *_grade_longer(tally, white),
        tally.grade_exclusive("D14", f"{RESTARTS} restarts", restarted, white.standing),
        _grade_claims(white),
        _grade_losses(tally, white),
        _grade_scale(tally, white),
    ]


def run_cheap_attack_tests(tally: AttackTally, white: WhiteBox) -> list[Outcome]:
    """Run D9, D17, D18 and D21: of the tests that need gradients, those of few steps."""
    return [
        _grade_one_step(tally, white),
        _grade_claims(white),
        _grade_losses(tally, white),
        _grade_scale(tally, white),
    ]


def _grade_one_step(tally: AttackTally, white: WhiteBox) -> Outcome:
    attack = make_single_step(tally.judge.net, tally.judge.threat)
    return tally.grade_exclusive("D9", "a single step", [attack], white.standing)


def _grade_longer(tally: AttackTally, white: WhiteBox) -> list[Outcome]:
    """D13, D15 and D16: the same paths, five times as long."""
    judge, trace = tally.judge, dict[int, tuple[bool, bool]]()
    attack = make_traced_pgd(judge.net, judge.threat, MORE_STEPS, tally.seed, trace)
    left = white.standing & tally.run(f"PGD-{MORE_STEPS}", attack, white.entropy.robust).robust
    of, gone = int(tally.correct.sum()), int((white.standing & ~left).sum())
    by_margin = make_pgd(judge.net, judge.threat, MORE_STEPS, tally.seed, margin)
    gone += int((left & ~tally.run(f"margin PGD-{MORE_STEPS}", by_margin, left).robust).sum())
    tests = [
        grade_share(
            "D13",
            gone,
            of,
            f"{MORE_STEPS} steps broke {gone} of {of} points that {STEPS} steps did not",
        )
    ]
    if not judge.threat.eps:
        return [
            *tests,
            *(make_outcome(test, "not applicable", "the radius is 0") for test in ("D15", "D16")),
        ]
    never, rising = (
        distributed.sum_count(sum(flags[which] for flags in trace.values())) for which in (0, 1)
    )
    # points that PGD-20 broke are no example of an attack that ran for longer
    ran = distributed.sum_count(len(trace)) or of
    return [
        *tests,
        grade_share(
            "D15", never, of, f"the loss of {never} of {of} points never rose in {MORE_STEPS} steps"
        ),
        grade_share(
            "D16",
            rising,
            ran,
            f"the loss of {rising} of {ran} points was still rising after {MORE_STEPS} steps",
        ),
    ]


def _grade_claims(white: WhiteBox) -> Outcome:
    """D17. PGD here keeps any iterate that fools, so only a claim can fail: the judge's check."""
    lost, made = (
        white.entropy.facts[key] + white.margin.facts[key] for key in ("rejected", "attacked")
    )
    return grade_share(
        "D17",
        lost,
        made,
        f"{lost} of {made} PGD-{STEPS} runs claimed a success that failed the final check",
    )


def _grade_losses(tally: AttackTally, white: WhiteBox) -> Outcome:
    gap, of = int((white.entropy.robust & ~white.standing).sum()), int(tally.correct.sum())
    return grade_share(
        "D18",
        gap,
        of,
        f"{gap} of {of} points withstand PGD-{STEPS} on the cross-entropy and not on the margin",
    )


def _grade_scale(tally: AttackTally, white: WhiteBox) -> Outcome:
    """D21: PGD on the cross-entropy of logits scaled to a standard deviation of 1 per point.

    It is an additional attack, not a better one.
    """

    def scaled(logits: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(logits / logits.detach().std(1, keepdim=True).clamp(min=1e-12), y)

    attack = make_pgd(tally.judge.net, tally.judge.threat, STEPS, tally.seed, scaled)
    after = int(tally.run(f"scaled PGD-{STEPS}", attack, tally.correct).robust.sum())
    before, of = int(white.entropy.robust.sum()), int(tally.correct.sum())
    return grade_share(
        "D21",
        max(before - after, 0),
        of,
        f"{before} of {of} points withstand PGD-{STEPS} on the cross-entropy, "
        f"{after} with logits scaled to a standard deviation of 1",
    )


def fits_square(judge: Judge) -> bool:
    """Are the images large enough for Square in the norm of the threat?"""
    sides = next(iter(judge.points.eval_batches(1))).x.shape[2:]
    return judge.threat.norm != "L2" or min(sides) >= SMALLEST


def run_other_attack_tests(tally: AttackTally, standing: Tensor) -> list[Outcome]:
    """Run D10 and D12 on the points that the gradient attacks left, (n,) bool."""
    net, threat = tally.judge.net, tally.judge.threat
    noise = tally.grade_exclusive(
        "D12", f"{2 * DRAWS} random draws", [make_random_noise(net, threat, tally.seed)], standing
    )
    if not fits_square(tally.judge):
        return [
            make_outcome(
                "D10",
                "not applicable",
                f"in L2 Square needs images of at least {SMALLEST} pixels a side",
            ),
            noise,
        ]
    attack = make_square(net, threat, QUERIES, tally.seed, tally.judge.steady)
    return [
        tally.grade_exclusive("D10", f"Square with {QUERIES} queries", [attack], standing),
        noise,
    ]
