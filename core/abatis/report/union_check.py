"""Whether the union of several threats agrees with the evaluations under each of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from abatis.report import numbers
from abatis.report.intervals import wilson_interval
from abatis.report.verdicts import find_worst

EXACT = 1e-9  # as for the accuracies of one threat
ROUNDED = 1e-3


def check_union(record: Mapping[str, Any], under: Mapping[str, Any]) -> Iterator[str]:
    """Say what is wrong with the union in a record of several threats.

    Args:
        record: with the evaluation under its first threat.
        under: the evaluations under the others, by threat.
    """
    union = record.get("union")
    if not isinstance(union, dict) or not under:
        yield "the union of its threats is missing"
        return
    all_of = {str(record.get("threat")): record, **under}
    marks = [(one.get("per_point") or {}).get("robust") for one in all_of.values()]
    n = record.get("n")
    if not all(isinstance(one, list) and len(one) == n for one in marks):
        yield "the results by point under its threats are missing, or not of all points"
        return
    expected = [int(all(column)) for column in zip(*marks, strict=True)]
    if union.get("threats") != list(all_of):
        yield f"the union is not of its threats: {union.get('threats')!r:.40}"
    if union.get("per_point") != expected or union.get("count") != sum(expected):
        yield "the union is not that of the points under each threat"
    yield from _check_share(union, all_of, sum(expected) / len(expected))


def _check_share(
    union: Mapping[str, Any], all_of: Mapping[str, Any], expected: float
) -> Iterator[str]:
    """The share is the smallest of that of the points and those of each threat."""
    verdict = find_worst(one.get("verdict") for one in all_of.values())
    if union.get("verdict") != verdict:
        yield f"the verdict of the union is {union.get('verdict')!r:.40}, not {verdict}"
    right, wrong = numbers.ROBUST.key, numbers.UPPER.key
    if verdict == "FAIL":
        right, wrong = wrong, right
    share = union.get(right)
    if union.get(wrong) is not None or not isinstance(share, int | float):
        yield f"the union has no {right}, or a {wrong}, but its verdict is {verdict}"
        return
    heads = [numbers.find_headline(one) for one in all_of.values()]
    most = min([expected, *(head for head in heads if head is not None)])
    drawn = any(one.get("draws") for one in all_of.values())
    if share > most + EXACT or (not drawn and abs(share - most) > EXACT):
        yield f"{right} of the union is {share!r:.40}, but its points give {most:.6g}"
    ends, n = union.get("interval"), len(union.get("per_point") or [])
    if not isinstance(ends, list) or len(ends) != 2 or not n:
        yield "the union has no interval"
    elif any(
        abs(one - other) > ROUNDED
        for one, other in zip(ends, wilson_interval(share * n, n), strict=True)
    ):
        yield "the interval of the union is not that of its points"
