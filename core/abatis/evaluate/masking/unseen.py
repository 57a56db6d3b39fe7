"""D26: are the test images more robust than training images? Then they were memorised."""

from __future__ import annotations

from abatis.evaluate.curves import STEPS
from abatis.evaluate.judge import Attack, Judge
from abatis.evaluate.masking.attacks import QUERIES, AttackTally, fits_square
from abatis.evaluate.masking.probes import make_random_noise, make_square
from abatis.evaluate.masking.record import Outcome, Status, make_outcome
from abatis.evaluate.masking.training import TrainingFacts
from abatis.evaluate.pgd import cross_entropy, make_pgd, margin
from abatis.report.intervals import wilson_interval

WARN, FAIL = 0.1, 0.2
FEWEST = 20  # right images of either kind that a comparison needs


def grade_unseen(
    tally: AttackTally, training: TrainingFacts, gradients: bool, doubtful: bool
) -> tuple[Outcome, float | None]:
    """Attack training images, and compare with the test images.

    Compared are the shares of right images that stand. Training makes training images more robust,
    not less, so that test images far above them can only have been memorised. A difference counts
    where the 95 % intervals do not overlap.

    Args:
        tally: of the test images, after all other attacks.
        training: its images are attacked, under the threat of the test images.
        gradients: does autograd reach the images?
        doubtful: did another test warn or fail? Then attacks that need no gradient run, too.

    Returns:
        The outcome; and if it fails, the share of all training images that stand.
    """
    judge = tally.judge
    there = Judge(judge.net, training.images, judge.threat, judge.batch_size, judge.progress)
    there.single = judge.single
    correct = there.classify_clean().correct
    left = correct
    for attack in (*_list_attacks(tally, gradients, doubtful), *tally.breakers.values()):
        left = there.run_attack("masking: training images", attack, left).robust
    test, right = int(tally.robust.sum()), int(tally.correct.sum())
    train, of = int(left.sum()), int(correct.sum())
    if min(right, of) < FEWEST:
        says = f"fewer than {FEWEST} test or training images are right without an attack"
        return make_outcome("D26", "not applicable", says), None
    gap = test / right - train / of
    apart = wilson_interval(test, right)[0] > wilson_interval(train, of)[1]
    status: Status = "pass"
    if apart and gap > WARN:
        status = "fail" if gap > FAIL else "warn"
    says = f"{test} of {right} right test images stand, and {train} of {of} right training images"
    if status != "pass":
        says += ": the test images may have been memorised"
    share = train / len(correct) if status == "fail" else None
    return make_outcome("D26", status, says, max(gap, 0.0), test, right), share


def _list_attacks(tally: AttackTally, gradients: bool, doubtful: bool) -> list[Attack]:
    judge, seed = tally.judge, tally.seed
    attacks: list[Attack] = []
    if gradients:
        attacks = [
            make_pgd(judge.net, judge.threat, STEPS, seed, objective)
            for objective in (cross_entropy, margin)
        ]
    if doubtful or not gradients:
        attacks.append(make_random_noise(judge.net, judge.threat, seed))
        if fits_square(judge):
            attacks.append(make_square(judge.net, judge.threat, QUERIES, seed, judge.steady))
    return attacks
