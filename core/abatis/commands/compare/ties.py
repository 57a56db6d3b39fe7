"""Which methods a comparison cannot tell apart, and what is no better than chance.

Two methods are tied where the lead of the better one is not larger than the larger of their
standard deviations over seeds, or where 0 is inside the 95 % interval of the paired bootstrap over
the test images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from abatis.commands.compare.finished_runs import JudgedRun
from abatis.report.intervals import find_chance, wilson_interval
from abatis.report.json_part import Part

OVER_SEEDS = "one standard deviation over seeds"
OVER_IMAGES = "the 95 % interval over test images"
ROUNDING = 1e-12  # two means that are equal on paper may differ by their last bits

Row = Mapping[str, Any]
Bootstrap = Callable[[Row, Row], Mapping[str, Any] | None]
"""The paired bootstrap of two rows; None where they have no outcomes by image."""


def find_tie(better: Row, worse: Row, headline: str, images: int, bootstrap: Bootstrap) -> str:
    """Return within what two methods are equal, in words; empty where one is ahead.

    Args:
        better: The row with the higher mean, or an equal one.
        worse: The other row.
        headline: The key of the accuracy by which they are ranked.
        images: The number of test images.
        bootstrap: Compares the two rows image by image.
    """
    first, second = better[headline], worse[headline]
    lead = first["mean"] - second["mean"]
    spread = max(first["sd"] or 0, second["sd"] or 0)
    if spread and lead <= spread + ROUNDING:
        return OVER_SEEDS
    difference = bootstrap(better, worse)
    if difference is not None:
        return "" if difference["excludes_zero"] else OVER_IMAGES
    low = find_interval(better, headline, images)[0]
    return OVER_IMAGES if low <= find_interval(worse, headline, images)[1] else ""


def find_interval(row: Row, headline: str, images: int) -> tuple[float, float]:
    """Return the 95 % Wilson interval over the test images of a mean over seeds."""
    return wilson_interval(round(row[headline]["mean"] * images), images)


def list_ties(
    ranked: Sequence[Row], headline: str, images: int, bootstrap: Bootstrap
) -> dict[str, list[dict[str, str]]]:
    """Return, for each method, the better ones that it is tied with, and within what.

    Args:
        ranked: The rows that have a rank, best first.
        headline: The key of the accuracy by which they are ranked.
        images: The number of test images.
        bootstrap: Compares two rows image by image.
    """
    return {
        worse["method"]: [
            {"method": better["method"], "within": within}
            for better in ranked[:place]
            if (within := find_tie(better, worse, headline, images, bootstrap))
        ]
        for place, worse in enumerate(ranked)
    }


def measure_chance(runs: Sequence[JudgedRun]) -> float | None:
    """Return the accuracy of always answering the most common class; None where it is unknown."""
    for record in (Part(run.record) for run in runs):
        per_class, classes = record["per_class"]["n"].numbers(), record["num_classes"].number
        if sum(per_class) > 0:
            return find_chance(per_class)
        if classes:
            return 1 / classes
    return None


def list_at_chance(
    ranked: Sequence[Row], headline: str, images: int, chance: float | None
) -> list[str]:
    """Return the methods whose robust accuracy is not above chance by its 95 % interval."""
    if chance is None or not images:
        return []
    return [row["method"] for row in ranked if find_interval(row, headline, images)[0] <= chance]


def list_equals(compared: Mapping[str, Any]) -> tuple[list[str], str]:
    """Return the methods that are tied with the first one, itself included, and within what.

    No method where the first one is ahead of all others.
    """
    first = compared["rows"][0]["method"]
    tied = {
        row["method"]: tie["within"]
        for row in compared["rows"]
        for tie in row["tied_with"]
        if tie["method"] == first
    }
    return ([first, *tied] if tied else []), " or ".join(dict.fromkeys(tied.values()))


def describe_ties(compared: Mapping[str, Any]) -> list[str]:
    """Say which methods the comparison cannot tell apart, and which are no better than chance."""
    notes = []
    for row in compared["rows"]:
        if row["tied_with"]:
            within = " or ".join(dict.fromkeys(tie["within"] for tie in row["tied_with"]))
            others = ", ".join(tie["method"] for tie in row["tied_with"])
            differ = "difference is" if len(row["tied_with"]) == 1 else "differences are"
            notes.append(f"{row['method']} is tied with {others}: the {differ} within {within}")
    if low := compared["at_chance"]:
        notes.append(
            f"not above chance ({100 * compared['chance']:.1f} %, the accuracy of always answering "
            f"the most common class) by the 95 % interval over test images: {', '.join(low)}"
        )
    return notes
