"""Is the robustness real? Twenty-four tests that a network with masked gradients does not pass unnoticed.

After Athalye et al. (ICML 2018), Carlini et al. (arXiv 1902.06705) and the indicators of attack failure of Pintor et al.
(NeurIPS 2022). Passing them proves nothing; it says that nothing was found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from abatis.api.randomness import seeded
from abatis.evaluate.curves import STEPS, Curve, accuracy_curve
from abatis.evaluate.judge import Clean, Judge
from abatis.evaluate.masking.attacks import (
    Bench,
    White,
    gradient_attack_tests,
    other_attack_tests,
    white_box,
)
from abatis.evaluate.masking.gradients import gradient_tests, unreachable
from abatis.evaluate.masking.outputs import mode_test, output_tests
from abatis.evaluate.masking.radii import grid, radius_tests
from abatis.evaluate.masking.record import GATES, Test, told
from abatis.evaluate.masking.training import Training, training_tests
from abatis.evaluate.pgd import Objective

__all__ = ["Diagnosis", "Test", "Training", "diagnose"]


@dataclass(frozen=True)
class Diagnosis:
    """What the tests found.

    verdict: the worst of them; tests: D1 to D24 in order; robust: (n,) bool on the CPU, right without an attack and after every
    one that ran at the threat's own radius; curve: what is left at other radii too.
    """

    verdict: Literal["PASS", "WARN", "FAIL"]
    tests: tuple[Test, ...]
    robust: Tensor
    curve: Curve

    def __str__(self) -> str:
        spoke = [test.id for test in self.tests if test.status in ("warn", "fail")]
        made = sum(test.status != "not applicable" for test in self.tests)
        return (
            f"signs of masking: {', '.join(spoke)}"
            if spoke
            else f"no sign of masking found by {made} tests"
        )

    def findings(self) -> list[str]:
        """One sentence for each test that warned or failed."""
        return [
            f"{test.id} {test.status}: {test.says}"
            for test in self.tests
            if test.status in ("warn", "fail")
        ]


def diagnose(
    judge: Judge,
    clean: Clean,
    *,
    seed: int,
    known: Mapping[Objective, Tensor] | None = None,
    training: Training | None = None,
) -> Diagnosis:
    """Run all tests on the judge's points, which lie in its ``judging`` context; D11 and D23 need ``training``.

    clean: what these points showed; known: which of them PGD-20 with this seed left, (n,) bool, where every image it made held.
    Where no gradient reaches the images, only what needs none is run, and the verdict is FAIL. The global generators are left
    as found. Raises DataError, UsageError, NotFiniteError or OutOfMemoryError.
    """
    with seeded(seed, "masking"):
        if (
            not clean.correct.any()
        ):  # nothing is claimed that could be masked, and a large network takes its time
            why = "no point is right without an attack"
            none = tuple(told(test, "not applicable", why) for test in GATES)
            return Diagnosis(
                "PASS", none, clean.correct, accuracy_curve(judge, clean.correct, [0.0], seed)
            )
        bench = Bench(judge, clean.correct, seed)
        tests = output_tests(judge, bool(clean.distribution.all()))
        reason = unreachable(judge)
        if reason is None:
            white = white_box(bench, known or {})
            standing, curve = (
                white.standing,
                _by_gradients(bench, white, clean.classes, training, tests),
            )
        else:
            tests.append(told("D1", "fail", f"no gradient reaches the images ({reason})"))
            standing, curve = clean.correct, accuracy_curve(judge, clean.correct, [0.0], seed)
        tests += other_attack_tests(bench, standing)
        tests.append(bench.budget_test())
    found = {test.id: test for test in tests}
    why = "no gradient reaches the images" if reason else "nothing is known of the training"
    ordered = tuple(found.get(test) or told(test, "not applicable", why) for test in GATES)
    return Diagnosis(_worst(ordered), ordered, bench.robust, curve)


def _worst(tests: Sequence[Test]) -> Literal["PASS", "WARN", "FAIL"]:
    found = {test.status for test in tests}
    return "FAIL" if "fail" in found else "WARN" if "warn" in found else "PASS"


def _by_gradients(
    bench: Bench, white: White, num_classes: int, training: Training | None, tests: list[Test]
) -> Curve:
    """Add everything that needs gradients."""
    judge, seed = bench.judge, bench.seed
    tests += gradient_tests(judge, seed)
    tests += gradient_attack_tests(bench, white)
    curve = accuracy_curve(
        judge, bench.correct, grid(judge), seed, {judge.threat.eps: white.standing}
    )
    tests += radius_tests(judge, curve, num_classes)
    tests.append(mode_test(judge, bench.correct, white.entropy.robust, STEPS, seed))
    if training is not None:
        tests += training_tests(bench, white.standing, training)
    return curve
