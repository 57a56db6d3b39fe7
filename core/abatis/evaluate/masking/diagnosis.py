"""All diagnostic tests, in order, and what they found together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from abatis.api.randomness import seeded
from abatis.evaluate.curves import STEPS, Curve, measure_curve
from abatis.evaluate.judge import Clean, Judge
from abatis.evaluate.masking.attacks import (
    AttackTally,
    WhiteBox,
    run_gradient_attack_tests,
    run_other_attack_tests,
    run_white_box,
)
from abatis.evaluate.masking.gradients import find_gradient_error, run_gradient_tests
from abatis.evaluate.masking.outputs import run_mode_test, run_output_tests
from abatis.evaluate.masking.radii import grade_radii, list_radii
from abatis.evaluate.masking.record import GATES, NOTHING_CORRECT, Outcome, make_outcome
from abatis.evaluate.masking.sufficiency import find_shortage
from abatis.evaluate.masking.training import TrainingFacts, run_training_tests
from abatis.evaluate.pgd import Objective
from abatis.report.verdicts import TOO_LITTLE, Verdict


@dataclass(frozen=True)
class Diagnosis:
    """What the tests found.

    Args:
        verdict: the worst status of all. Where no test warned or failed, UNDECIDED if the points
            are too few, or the network too weak, for a PASS.
        tests: the outcomes of D1 to D24, in order.
        robust: (n,) bool on the CPU, correct without an attack and after all attacks that ran at
            the threat's own radius.
        curve: accuracy over the radius.
        shortage: why the verdict is UNDECIDED, in words; empty otherwise.
    """

    verdict: Verdict
    tests: tuple[Outcome, ...]
    robust: Tensor
    curve: Curve
    shortage: str = ""

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


def diagnose(
    judge: Judge,
    clean: Clean,
    *,
    seed: int,
    known: Mapping[Objective, Tensor] | None = None,
    training: TrainingFacts | None = None,
) -> Diagnosis:
    """Run all tests on the judge's points.

    If the images have no gradient, only the tests that need none run, and the verdict is FAIL.
    A verdict is PASS only where there is enough to judge: see
    :func:`~abatis.evaluate.masking.sufficiency.find_shortage`.
    The global random generators are left as they were.

    Args:
        judge: inside :func:`~abatis.evaluate.isolation.isolate`.
        clean: results on the clean images of these points.
        seed: of the attacks.
        known: which points withstood PGD-20 with this seed, (n,) bool by its loss, if no image
            that it made was rejected.
        training: needed by D11 and D23.

    Raises:
        DataError: the training images are not in [0, 1].
        UsageError: the outputs have no gradient in one of the modes.
        NotFiniteError: a logit of a clean training image is NaN or infinite.
        OutOfMemoryError: the device has no memory for a single image.
    """
    with seeded(seed, "masking"):
        if not clean.correct.any():  # no robustness is claimed, and a large network takes long
            none = tuple(make_outcome(test, "not applicable", NOTHING_CORRECT) for test in GATES)
            curve = measure_curve(judge, clean.correct, [0.0], seed)
            shortage = find_shortage(clean)
            return Diagnosis("UNDECIDED", none, clean.correct, curve, shortage)
        tally = AttackTally(judge, clean.correct, seed)
        tests = run_output_tests(judge, bool(clean.distribution.all()))
        reason = find_gradient_error(judge)
        if reason is None:
            white = run_white_box(tally, known or {})
            standing = white.standing
            curve = _run_tests_with_gradients(tally, white, clean.classes, training, tests)
        else:
            says = f"the images have no gradient ({reason})"
            tests.append(make_outcome("D1", "fail", says))
            standing = clean.correct
            curve = measure_curve(judge, clean.correct, [0.0], seed)
        tests += run_other_attack_tests(tally, standing)
        tests.append(tally.grade_budget())
    found = {test.id: test for test in tests}
    why = "the images have no gradient" if reason else "nothing is known about the training"
    ordered = tuple(found.get(test) or make_outcome(test, "not applicable", why) for test in GATES)
    alarm = _find_alarm(ordered)
    shortage = "" if alarm else find_shortage(clean)
    verdict = alarm or ("UNDECIDED" if shortage else "PASS")
    return Diagnosis(verdict, ordered, tally.robust, curve, shortage)


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
) -> Curve:
    """Add the outcomes of all tests that need gradients; return the curve they use."""
    judge, seed = tally.judge, tally.seed
    tests += run_gradient_tests(judge, seed)
    tests += run_gradient_attack_tests(tally, white)
    known = {judge.threat.eps: white.standing}
    curve = measure_curve(judge, tally.correct, list_radii(judge), seed, known)
    tests += grade_radii(judge, curve, num_classes)
    tests.append(run_mode_test(judge, tally.correct, white.entropy.robust, STEPS, seed))
    if training is not None:
        tests += run_training_tests(tally, white.standing, training)
    return curve
