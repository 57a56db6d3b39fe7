"""The accuracies of an evaluation: one line each, from which records, tables and pages are made.

To add a number, add its line to :data:`NUMBERS` and let a ladder run the attack that it names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from abatis.report.words import format_percent


@dataclass(frozen=True)
class Number:
    """One accuracy: the share of all images that are classified correctly.

    Args:
        key: its name in eval.json and compare.json.
        verdicts: whose verdicts it counts, by their name in ``per_point`` of eval.json: an attack,
            or ``clean`` or ``robust``.
        label: its name in a sentence or in a table of one evaluation.
        short: its name at the head of a column.
        column: how soon a narrow terminal leaves its column out of a comparison, the largest
            first; None for no column.
        ranked: may methods be ranked by it? The last of the table that all records have is used.
        optional: is it left out of eval.json where it was not measured, instead of null?
        meaning: what it is, where the label does not say it.
    """

    key: str
    verdicts: str
    label: str
    short: str
    column: int | None = None
    ranked: bool = False
    optional: bool = False
    meaning: str = ""

    @property
    def described(self) -> str:
        """The label with its meaning."""
        return f"{self.label}, {self.meaning}" if self.meaning else self.label


CLEAN = Number("clean_acc", "clean", "clean accuracy", "clean", column=3)
ROBUST = Number(
    "robust_acc",
    "robust",
    "robust accuracy",
    "robust",
    column=1,
    ranked=True,
    meaning="the share of images that no attack broke",
)
UPPER = Number(
    "robust_acc_upper",
    "robust",
    "robust accuracy",
    "robust",
    optional=True,
    meaning="an upper bound: the masking verdict is FAIL",
)
"""Stands in the place of :data:`ROBUST` where the verdict is FAIL."""

NUMBERS = (
    CLEAN,
    Number("pgd20_acc", "PGD-20", "PGD-20 accuracy", "PGD-20", column=5, ranked=True),
    Number("margin_pgd20_acc", "margin-PGD-20", "margin-PGD-20 accuracy", "margin-PGD-20"),
    Number(
        "autoattack_acc",
        "AutoAttack",
        "AutoAttack accuracy",
        "AutoAttack",
        column=4,
        ranked=True,
    ),
    Number(
        "autoattack_fast_acc",
        "AutoAttack fast",
        "AutoAttack accuracy, Square in bf16",
        "AutoAttack fast",
        optional=True,
    ),
    Number(
        "autoattack_rand_acc",
        "AutoAttack rand",
        "AutoAttack rand accuracy",
        "AutoAttack rand",
        optional=True,
        meaning="gradients averaged over draws",
    ),
    ROBUST,
    UPPER,
)
"""In the order of eval.json, from the weakest attack to all of them."""


def find_number(key: str) -> Number:
    """The number of this key. Raises KeyError."""
    return {number.key: number for number in NUMBERS}[key]


def list_compared() -> tuple[Number, ...]:
    """The numbers that have a column in a comparison, from left to right."""
    return tuple(number for number in NUMBERS if number.column is not None)


def list_ranked() -> tuple[Number, ...]:
    """The numbers that methods may be ranked by, the strongest first."""
    return tuple(number for number in reversed(NUMBERS) if number.ranked)


def list_measured(record: Mapping[str, Any]) -> tuple[Number, ...]:
    """The numbers that a record holds."""
    return tuple(number for number in NUMBERS if record.get(number.key) is not None)


def is_bound(verdict: object, number: Number) -> bool:
    """Is a number no more than an upper bound under this masking verdict?"""
    return verdict == "FAIL" and number != CLEAN


def find_headline(record: Mapping[str, Any]) -> float | None:
    """The robust accuracy of a record, or its upper bound; None where it was not measured.

    Where the verdict is FAIL it is an upper bound; see :func:`is_bound`.
    """
    known = (record.get(number.key) for number in (ROBUST, UPPER))
    return next((value for value in known if value is not None), None)


def format_share(share: float | None, verdict: object, number: Number, space: str = " ") -> str:
    """An accuracy as people read it: ``45.40 %``, or ``at most 45.40 %`` where it is a bound."""
    text = format_percent(share, space)
    if share is None or not is_bound(verdict, number):
        return text
    headline = number in (ROBUST, UPPER)
    return f"at most{space}{text}{', not to be believed' if headline else ''}"
