"""The words of the masking verdict: their order, their colours, and what people read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

Verdict = Literal["PASS", "UNDECIDED", "WARN", "FAIL"]

UNKNOWN = "-"
"""Stands for the verdict of a record that has none."""

ORDER = ("PASS", UNKNOWN, "UNDECIDED", "WARN", "FAIL")
"""From best to worst. What the tests could not judge is worse than what was never tested: of the
first it is known that the points do not suffice.
"""

TOO_LITTLE = "too little to judge"
NOTHING_FOUND = "no masking found"
"""What people read for PASS after the quick ladder."""

STYLES: dict[str, str] = {
    "PASS": "green",
    "UNDECIDED": "dim",
    "WARN": "yellow",
    "FAIL": "bold red",
}
"""Colours of the terminal, in the words of rich."""


def find_worst(verdicts: Iterable[object]) -> str:
    """Return the worst of several verdicts; :data:`UNKNOWN` where there are none.

    A verdict that is missing, or is no word of :data:`ORDER`, is unknown.
    """
    known = (one if isinstance(one, str) and one in ORDER else UNKNOWN for one in verdicts)
    return max(known, key=ORDER.index, default=UNKNOWN)


def format_verdict(verdict: str, ladder: object = None) -> str:
    """Return what people read for a verdict; other words are left as they are.

    Args:
        verdict: the word of the record.
        ladder: the ladder of attacks; the quick one is too short for the word PASS.
    """
    if verdict == "UNDECIDED":
        return TOO_LITTLE
    return NOTHING_FOUND if verdict == "PASS" and ladder == "quick" else verdict
