"""D9, D10, D12 to D18, D21 and D24: do the gradient attacks find what others find, and do they come to an end?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from abatis.evaluate.curves import STEPS
from abatis.evaluate.judge import Attack, Judge, Verdicts
from abatis.evaluate.masking.probes import DRAWS, random_noise, single_step, square, traced
from abatis.evaluate.masking.record import Test, rated, told
from abatis.evaluate.pgd import Objective, cross_entropy, margin, pgd
from abatis.system import distributed

MORE_STEPS = 100
RESTARTS = 5
QUERIES = 1000
SMALLEST = 5  # pixels a side that Square needs in L2


@dataclass
class Bench:
    """Runs attacks for one judge, and keeps what none of them broke.

    correct: (n,) bool, right without an attack; robust: (n,) bool, right after all so far too; made, stray: images so far,
    and those that lie outside ball or box or lost their label.
    """

    judge: Judge
    correct: Tensor
    seed: int
    robust: Tensor = field(init=False)
    made: int = 0
    stray: int = 0

    def __post_init__(self) -> None:
        self.robust = self.correct.clone()

    def run(self, name: str, attack: Attack, points: Tensor) -> Verdicts:
        """The verdicts of an attack on some points, (n,) bool."""
        return self.counted(self.judge.attacked(name, attack, points, f"masking: {name}"), points)

    def counted(self, verdicts: Verdicts, points: Tensor) -> Verdicts:
        """The same, after an attack on some points, (n,) bool, that ran here or elsewhere."""
        self.made += verdicts.facts["attacked"]
        self.stray += verdicts.stray
        self.robust &= verdicts.robust | ~points
        return verdicts

    def exclusive(self, test: str, name: str, attacks: list[Attack], standing: Tensor) -> Test:
        """The share of the correct points that these attacks break of what the white-box union left, (n,) bool."""
        left = standing
        for attack in attacks:
            left = self.run(name, attack, left).robust
        count, of = int((standing & ~left).sum()), int(self.correct.sum())
        return rated(
            test, count, of, f"{name} broke {count} of {of} points that PGD-{STEPS} did not"
        )

    def budget_test(self) -> Test:
        """D24, over everything that ran here."""
        return rated(
            "D24",
            self.stray,
            self.made,
            f"{self.stray} of {self.made} adversarial images lie outside the ball or "
            "[0, 1], are not numbers, or came with another label",
        )


@dataclass(frozen=True)
class White:
    """What PGD-20 leaves: on the cross-entropy, and on the margin after it; standing: (n,) bool, their union's."""

    entropy: Verdicts
    margin: Verdicts

    @property
    def standing(self) -> Tensor:
        return self.margin.robust


def white_box(bench: Bench, known: Mapping[Objective, Tensor]) -> White:
    """PGD-20 on both losses, the second on what the first left; known: what it is known to leave, (n,) bool."""

    def left(name: str, objective: Objective, points: Tensor) -> Verdicts:
        if objective in known:
            facts = {"attacked": int(points.sum()), "rejected": 0}
            return bench.counted(Verdicts(name, points & known[objective], facts), points)
        return bench.run(
            name, pgd(bench.judge.net, bench.judge.threat, STEPS, bench.seed, objective), points
        )

    entropy = left(f"PGD-{STEPS}", cross_entropy, bench.correct)
    return White(entropy, left(f"margin PGD-{STEPS}", margin, entropy.robust))


def gradient_attack_tests(bench: Bench, white: White) -> list[Test]:
    """D9 and D13 to D18, D21: the attacks that need gradients."""
    net, threat, seed = bench.judge.net, bench.judge.threat, bench.seed
    others = range(1, RESTARTS)  # what is left withstands the first start
    restarted = [
        pgd(net, threat, STEPS, seed, objective, others) for objective in (cross_entropy, margin)
    ]
    return [
        bench.exclusive("D9", "a single step", [single_step(net, threat)], white.standing),
        *_longer(bench, white),
        bench.exclusive("D14", f"{RESTARTS} restarts", restarted, white.standing),
        _claims(white),
        _losses(bench, white),
        _scale(bench, white),
    ]


def _longer(bench: Bench, white: White) -> list[Test]:
    """D13, D15 and D16: the same paths, five times as long, on what the cross-entropy's left."""
    judge, trace = bench.judge, dict[int, tuple[bool, bool]]()
    attack = traced(judge.net, judge.threat, MORE_STEPS, bench.seed, trace)
    left = white.standing & bench.run(f"PGD-{MORE_STEPS}", attack, white.entropy.robust).robust
    of, gone = int(bench.correct.sum()), int((white.standing & ~left).sum())
    by_margin = pgd(judge.net, judge.threat, MORE_STEPS, bench.seed, margin)
    gone += int((left & ~bench.run(f"margin PGD-{MORE_STEPS}", by_margin, left).robust).sum())
    tests = [
        rated(
            "D13", gone, of, f"{MORE_STEPS} steps broke {gone} of {of} points that {STEPS} did not"
        )
    ]
    if not judge.threat.eps:
        return [
            *tests,
            *(told(test, "not applicable", "the radius is 0") for test in ("D15", "D16")),
        ]
    never, rising = (
        distributed.total(sum(flags[which] for flags in trace.values())) for which in (0, 1)
    )
    ran = (
        distributed.total(len(trace)) or of
    )  # the points that fell before are no example of an attack that went on
    return [
        *tests,
        rated(
            "D15", never, of, f"the loss of {never} of {of} points never rose in {MORE_STEPS} steps"
        ),
        rated(
            "D16",
            rising,
            ran,
            f"the loss of {rising} of {ran} points was still rising after {MORE_STEPS} steps",
        ),
    ]


def _claims(white: White) -> Test:
    """D17. Our PGD takes any iterate that fools, so none is lost; what remains is a claim that does not hold from outside."""
    lost, made = (
        white.entropy.facts[key] + white.margin.facts[key] for key in ("rejected", "attacked")
    )
    return rated(
        "D17",
        lost,
        made,
        f"{lost} of {made} PGD-{STEPS} runs claimed a success that did not hold when looked at again",
    )


def _losses(bench: Bench, white: White) -> Test:
    gap, of = int((white.entropy.robust & ~white.standing).sum()), int(bench.correct.sum())
    return rated(
        "D18",
        gap,
        of,
        f"{gap} of {of} points withstand PGD-{STEPS} on the cross-entropy and not on the margin",
    )


def _scale(bench: Bench, white: White) -> Test:
    """D21: PGD-CE on logits of standard deviation 1, point by point; an extra attack, not a better one."""

    def scaled(logits: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(logits / logits.detach().std(1, keepdim=True).clamp(min=1e-12), y)

    attack = pgd(bench.judge.net, bench.judge.threat, STEPS, bench.seed, scaled)
    after = int(bench.run(f"scaled PGD-{STEPS}", attack, bench.correct).robust.sum())
    before, of = int(white.entropy.robust.sum()), int(bench.correct.sum())
    return rated(
        "D21",
        max(before - after, 0),
        of,
        f"{before} of {of} points withstand PGD-{STEPS} on the cross-entropy, "
        f"{after} with logits scaled to a standard deviation of 1",
    )


def other_attack_tests(bench: Bench, standing: Tensor) -> list[Test]:
    """D10 and D12, on the points that gradients left, (n,) bool."""
    net, threat = bench.judge.net, bench.judge.threat
    noise = bench.exclusive(
        "D12", f"{2 * DRAWS} random draws", [random_noise(net, threat, bench.seed)], standing
    )
    sides = next(iter(bench.judge.split.eval_batches(1))).x.shape[2:]
    if threat.norm == "L2" and min(sides) < SMALLEST:
        return [
            told("D10", "not applicable", f"Square needs {SMALLEST} pixels a side in L2"),
            noise,
        ]
    attack = square(net, threat, QUERIES, bench.seed, bench.judge.steady)
    return [bench.exclusive("D10", f"Square with {QUERIES} queries", [attack], standing), noise]
