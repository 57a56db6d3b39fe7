"""The table of an evaluation under several threats: a row for each, and one for their union."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from abatis.report.eval_record import UNION, split_threats
from abatis.report.numbers import ROBUST, find_headline, find_number, format_share
from abatis.report.verdicts import format_verdict

COLUMNS = tuple(find_number(key) for key in ("pgd20_acc", "autoattack_acc"))
HEADINGS = ("threat", *(number.short for number in COLUMNS), "robust accuracy", "masking verdict")
ALL = "all of them"
EXPLANATION = "A point counts as robust under all threats only if it withstood every one of them."


def list_threat_rows(record: Mapping[str, Any], space: str = " ") -> list[list[str]]:
    """Return a row of texts for every threat, and the union last; none for a single threat.

    Args:
        record: an evaluation.
        space: between a number and its percent sign.
    """
    if not record.get(UNION):
        return []
    rows = []
    for one in split_threats(record):
        verdict = one.get("verdict")
        measured = [format_share(one.get(number.key), verdict, number, space) for number in COLUMNS]
        headline = format_share(find_headline(one), verdict, ROBUST, space)
        rows.append([str(one["threat"]), *measured, headline, _format_verdict(one)])
    union = record[UNION]
    share = format_union(union, space)
    rows.append([ALL, *("-" for _ in COLUMNS), share, _format_verdict({**record, **union})])
    return rows


def format_union(union: Mapping[str, Any], space: str = " ") -> str:
    """Return the share of points that withstood all threats, as people read it."""
    return format_share(find_headline(union), union["verdict"], ROBUST, space)


def describe_union(record: Mapping[str, Any]) -> str:
    """Return ``12 of 50 images withstood ...``, with the interval of the share."""
    union: Mapping[str, Any] = record[UNION]
    low, high = (f"{100 * end:.1f}" for end in union["interval"])
    threats: Sequence[str] = union["threats"]
    return (
        f"{union['count']} of {record['n']} images withstood every attack under "
        f"{' and '.join(threats)} (95 % interval {low} to {high} %)"
    )


def _format_verdict(record: Mapping[str, Any]) -> str:
    return format_verdict(record["verdict"], record.get("ladder"))
