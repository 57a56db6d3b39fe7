"""Is there enough to judge? What a PASS needs besides tests that found nothing."""

from __future__ import annotations

from abatis.evaluate.judge import Clean
from abatis.report.intervals import find_chance, wilson_interval

MIN_RIGHT = 50
"""Points that must be right without an attack before nothing found can mean PASS."""


def find_shortage(clean: Clean) -> str:
    """Return why the points do not suffice for a PASS, in words; empty where they do.

    Attacks can fail only on points that are right without one. So there must be enough of these,
    and the network must be better than a constant answer, which withstands every attack.
    """
    right, of = int(clean.correct.sum()), len(clean.correct)
    points = f"{of} point" if of == 1 else f"{of} points"
    if not right:
        return f"none of {points} is right without an attack, so nothing is left to attack"
    if right < MIN_RIGHT:
        return (
            f"only {right} of {points} {'is' if right == 1 else 'are'} right without an attack; "
            f"{MIN_RIGHT} are needed for a verdict"
        )
    chance = find_chance(clean.labels.bincount(minlength=clean.classes).tolist())
    low, high = wilson_interval(right, of)
    if low <= chance:
        return (
            f"the clean accuracy, {100 * right / of:.1f} % (95 % interval {100 * low:.1f} to "
            f"{100 * high:.1f} %), is not above chance: always answering the most common class "
            f"gives {100 * chance:.1f} %"
        )
    return ""
