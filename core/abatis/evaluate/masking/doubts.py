"""D27 and D28: searches that trust no gradient, run where other tests raise doubt."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from abatis.evaluate.judge import Clean, Judge, Points
from abatis.evaluate.masking.attacks import AttackTally
from abatis.evaluate.masking.differences import climb_differences
from abatis.evaluate.masking.extraction import search_by_extraction
from abatis.evaluate.masking.record import Outcome, grade_share
from abatis.evaluate.masking.search import Search

RunSearch = Callable[[Judge, Clean, Tensor, int, Points | None], Search]


def _extract(
    judge: Judge, clean: Clean, standing: Tensor, seed: int, others: Points | None
) -> Search:
    return search_by_extraction(judge, clean, standing, seed=seed, others=others)


def _climb(
    judge: Judge, clean: Clean, standing: Tensor, seed: int, others: Points | None
) -> Search:
    return climb_differences(judge, clean, standing, seed=seed)


SEARCHES: Mapping[str, tuple[str, RunSearch]] = {
    "D28": ("an ascent along finite differences", _climb),
    "D27": ("a substitute of the network, and searches from its images", _extract),
}
"""By the test that counts what each of them breaks; the cheaper one first."""


def run_searches(
    tally: AttackTally, clean: Clean, others: Points | None
) -> tuple[list[Outcome], tuple[str, ...]]:
    """Run all searches on the points that stand.

    Args:
        tally: of the points, after all other attacks.
        clean: results on their clean images.
        others: further images that a substitute learns from.

    Returns:
        The outcomes, and the tests whose search broke a point that the ladder had left.
    """
    outcomes, broke = [], []
    for test, (name, search) in SEARCHES.items():
        before, stood = tally.robust.clone(), tally.open.clone()
        for verdict in search(tally.judge, clean, before, tally.seed, others).verdicts.values():
            tally.count(verdict, before)
        if (stood & ~tally.robust).any():
            broke.append(test)
        count, of = int((before & ~tally.robust).sum()), int(tally.correct.sum())
        says = f"{name} broke {count} of {of} points that no other attack did"
        outcomes.append(grade_share(test, count, of, says))
    return outcomes, tuple(broke)
