"""All diagnostic tests, in order, and what they found together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from torch import Tensor

from abatis.api.randomness import seeded
from abatis.evaluate.curves import STEPS, Curve, measure_curve
from abatis.evaluate.gradient_access import GradientAccess, find_gradient_access
from abatis.evaluate.judge import Attack, Clean, Judge, compute_share
from abatis.evaluate.masking.attacks import (
    AttackTally,
    WhiteBox,
    run_cheap_attack_tests,
    run_gradient_attack_tests,
    run_other_attack_tests,
    run_white_box,
)
from abatis.evaluate.masking.doubts import SEARCHES, run_searches
from abatis.evaluate.masking.gradients import grade_access, run_gradient_tests
from abatis.evaluate.masking.outputs import run_mode_test, run_output_tests
from abatis.evaluate.masking.radii import (
    grade_radii,
    grade_whole_box,
    list_radii,
    list_two_radii,
)
from abatis.evaluate.masking.record import GATES, NOTHING_CORRECT, Outcome, make_outcome
from abatis.evaluate.masking.sufficiency import find_shortage
from abatis.evaluate.masking.training import TrainingFacts, grade_transfer, run_training_tests
from abatis.evaluate.masking.unseen import grade_unseen
from abatis.evaluate.pgd import Objective
from abatis.report.verdicts import TOO_LITTLE, Verdict

CLAIM = 0.1
"""The share of points that must stand for a search to be worth its cost: so few claim nothing."""

COSTLY = tuple(f"D{number}" for number in (10, 11, 12, 13, 14, 15, 16, 19, 22, 23, 26, 27, 28))
"""The tests that the quick ladder leaves out: all that take more than 20 steps, queries, or images
of the training."""

LEFT_OUT = "the quick ladder leaves it out"
"""What the cheap tests leave unknown: searches, and what stands of the training images."""

NO_CLAIM = f"at most {100 * CLAIM:g} % of the points stand, which is no claim of robustness"
UNKNOWN_TRAINING = "nothing is known about the training"
REASONS = {
    "D25": "no stranger was asked",
    "D26": "no training images are known, so nobody can tell a memorised test set",
    "D27": "the other tests raise no doubt",
    "D28": "the other tests raise no doubt",
}
"""Why a test did not run, where it is another reason than the usual one."""


@dataclass(frozen=True)
class Diagnosis:
    """What the tests found.

    Args:
        verdict: the worst status of all. Where no test warned or failed, UNDECIDED if the points
            are too few, or the network too weak, for a PASS.
        tests: the outcomes of all tests, in order.
        robust: (n,) bool on the CPU, correct without an attack and after all attacks that ran at
            the threat's own radius.
        curve: accuracy over the radius.
        lack: why the points do not suffice for a PASS, in words; empty where they do.
        breakers: by name, the attacks that broke a point that the ladder had left.
        searches: the tests whose search broke such a point.
        unseen: the share of training images that stand, if a test says that the test images were
            memorised.
    """

    verdict: Verdict
    tests: tuple[Outcome, ...]
    robust: Tensor
    curve: Curve
    lack: str = ""
    breakers: Mapping[str, Attack] = field(default_factory=dict)
    searches: tuple[str, ...] = ()
    unseen: float | None = None

    def __str__(self) -> str:
        raised = [test.id for test in self.tests if test.status in ("warn", "fail")]
        if not raised and self.shortage:
            return f"{TOO_LITTLE}: {self.shortage}"
        made = sum(test.status != "not applicable" for test in self.tests)
        return (
            f"signs of masking: {', '.join(raised)}"
            if raised
            else f"no sign of masking found by {made} tests"
        )

    def list_findings(self) -> list[str]:
        """Return one sentence for each test that warned or failed, or why there is no verdict."""
        found = [
            f"{test.id} {test.status}: {test.says}"
            for test in self.tests
            if test.status in ("warn", "fail")
        ]
        return [*found, f"{TOO_LITTLE}: {self.shortage}"] if self.shortage else found

    @property
    def shortage(self) -> str:
        """Why the verdict is UNDECIDED, in words; empty where it is another one."""
        return self.lack if self.verdict == "UNDECIDED" else ""

    @property
    def doubtful(self) -> bool:
        """Did any test warn or fail?"""
        return _find_alarm(self.tests) is not None

    def add(self, outcomes: Sequence[Outcome]) -> Diagnosis:
        """Return the diagnosis with the outcomes of more tests, in place of earlier ones."""
        found = {test.id: test for test in (*self.tests, *outcomes)}
        tests = tuple(found[name] for name in GATES)
        return replace(self, tests=tests, verdict=_find_verdict(tests, self.lack))


def describe_left_out() -> str:
    """Return what the quick ladder leaves out, in words."""
    return (
        f"the quick ladder left out AutoAttack, {len(COSTLY)} of {len(GATES)} diagnostic tests "
        f"({', '.join(COSTLY)}), the margins and most of the curve; --ladder standard runs them"
    )


def diagnose(
    judge: Judge,
    clean: Clean,
    *,
    seed: int,
    known: Mapping[Objective, Tensor] | None = None,
    training: TrainingFacts | None = None,
    standing: Tensor | None = None,
    access: GradientAccess | None = None,
    cheap: bool = False,
) -> Diagnosis:
    """Run all tests on the judge's points, or only the cheap ones.

    If the images have no gradient, only the tests that need none run, and the verdict is FAIL.
    A verdict is PASS only where there is enough to judge (``sufficiency.find_shortage``).

    Args:
        judge: inside :func:`~abatis.evaluate.isolation.isolate`.
        clean: results on the clean images of these points.
        seed: of the attacks.
        known: which points withstood PGD-20 with this seed, (n,) bool by its loss.
        training: needed by D11, D23 and D26.
        standing: which points the ladder left, (n,) bool; all that are correct where not given.
        access: how far autograd reaches the images; found out where not given.
        cheap: leave out the tests of :data:`COSTLY`.

    Raises:
        DataError: the training images are not in [0, 1].
        NotFiniteError: a logit of a clean training image is NaN or infinite.
        OutOfMemoryError: the device has no memory for a single image.
    """
    lack = find_shortage(clean)
    with seeded(seed, "masking"):
        if not clean.correct.any():  # no robustness is claimed, and a large network takes long
            none = tuple(make_outcome(test, "not applicable", NOTHING_CORRECT) for test in GATES)
            curve = measure_curve(judge, clean.correct, [0.0], seed)
            return Diagnosis("UNDECIDED", none, clean.correct, curve, lack)
        tally = AttackTally(judge, clean.correct, seed)
        if standing is not None:
            tally.open = standing.clone()
        access = access or find_gradient_access(judge, seed)
        tests = [*run_output_tests(judge, bool(clean.distribution.all())), grade_access(access)]
        if access.kind == "none":
            left, curve = _run_blind_tests(tally, None if cheap else training, tests)
        else:
            white = run_white_box(tally, known or {})
            left = white.standing
            curve = _run_tests_with_gradients(tally, white, clean.classes, training, tests, cheap)
        rest = None if cheap else left
        searches, unseen = _follow_up(tally, clean, training, rest, access.kind != "none", tests)
        tests.append(tally.grade_budget())
    ordered = _order(tests, access.kind == "none", training, cheap)
    verdict = _find_verdict(ordered, lack)
    return Diagnosis(verdict, ordered, tally.robust, curve, lack, tally.breakers, searches, unseen)


def _run_blind_tests(
    tally: AttackTally, training: TrainingFacts | None, tests: list[Outcome]
) -> tuple[Tensor, Curve]:
    """Add what speaks of a network without gradients; return all right points, and the curve."""
    if training is not None:
        tests.append(grade_transfer(tally, tally.correct, training))
    return tally.correct, measure_curve(tally.judge, tally.correct, [0.0], tally.seed)


def _follow_up(
    tally: AttackTally,
    clean: Clean,
    training: TrainingFacts | None,
    left: Tensor | None,
    gradients: bool,
    tests: list[Outcome],
) -> tuple[tuple[str, ...], float | None]:
    """Run what needs no gradients, what doubts call for, and D26; none of it if cheap.

    The outcomes are added to those of the other tests.

    Args:
        tally: of all attacks so far.
        clean: results on the clean images.
        training: needed by D26.
        left: the points that the white-box attacks left, (n,) bool; None for a cheap diagnosis.
        gradients: does autograd reach the images?
        tests: the outcomes so far.

    Returns:
        The searches that broke more than the ladder, and see ``unseen`` of :class:`Diagnosis`.
    """
    searches: tuple[str, ...] = ()
    if left is None:
        return searches, None
    tests += run_other_attack_tests(tally, left)
    if _find_alarm(tests) is not None:
        if compute_share(tally.robust) > CLAIM:
            others = None if training is None else training.images
            found, searches = run_searches(tally, clean, others)
        else:
            found = [make_outcome(test, "not applicable", NO_CLAIM) for test in SEARCHES]
        tests += found
    unseen = None
    if training is not None:
        doubtful = _find_alarm(tests) is not None
        outcome, unseen = grade_unseen(tally, training, gradients, doubtful)
        tests.append(outcome)
    return searches, unseen


def _order(
    tests: Sequence[Outcome], blind: bool, training: TrainingFacts | None, cheap: bool
) -> tuple[Outcome, ...]:
    """The outcomes of all tests; those that did not run say why."""
    found = {test.id: test for test in tests}
    unknown = UNKNOWN_TRAINING if training is None or not blind else ""
    usual = "the images have no gradient" if blind else unknown
    reasons = REASONS | (dict.fromkeys(COSTLY, LEFT_OUT) if cheap else {})
    return tuple(
        found.get(test) or make_outcome(test, "not applicable", reasons.get(test, usual))
        for test in GATES
    )


def _find_verdict(tests: Sequence[Outcome], lack: str) -> Verdict:
    return _find_alarm(tests) or ("UNDECIDED" if lack else "PASS")


def _find_alarm(tests: Sequence[Outcome]) -> Literal["WARN", "FAIL"] | None:
    """Return the worst that any test said, whatever the number of points; None for no alarm."""
    found = {test.status for test in tests}
    return "FAIL" if "fail" in found else "WARN" if "warn" in found else None


def _run_tests_with_gradients(
    tally: AttackTally,
    white: WhiteBox,
    num_classes: int,
    training: TrainingFacts | None,
    tests: list[Outcome],
    cheap: bool,
) -> Curve:
    """Add the outcomes of all tests that need gradients, without those of :data:`COSTLY` if cheap.

    Returns:
        The curve that they use.
    """
    judge, seed = tally.judge, tally.seed
    tests += run_gradient_tests(judge, seed)
    tests += (run_cheap_attack_tests if cheap else run_gradient_attack_tests)(tally, white)
    known = {judge.threat.eps: white.standing}
    radii = list_two_radii(judge) if cheap else list_radii(judge)
    curve = measure_curve(judge, tally.correct, radii, seed, known)
    if cheap:
        tests.append(grade_whole_box(judge, curve, num_classes))
        return curve
    tests += grade_radii(judge, curve, num_classes)
    tests.append(run_mode_test(judge, tally.correct, white.entropy.robust, STEPS, seed))
    if training is not None:
        tests += run_training_tests(tally, white.standing, training)
    return curve
