"""pyautoattack's version, logger and warnings: the only module that matches the package's texts.

``tests/evaluate/test_pyautoattack_messages.py`` provokes each of them in the installed version.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version

from pyautoattack import checks

TESTED = "0.2"
"""The minor version whose insides we replace: queries, Square's search and FAB's projections."""

LOGGER = "auto-attack"
CHECKED_HERE = "probability distribution"
"""Part of a warning that is dropped: the package looks at one batch, the judge at all points."""

POINTER = " See flags_doc.md"
"""Begins a sentence about a file that is not part of the package."""

ABOUT_CODE = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)
"""Warnings about Python code, not about the network."""


def is_tested() -> bool:
    """Is the installed version one whose insides are known?"""
    return version("pyautoattack").split(".")[:2] == TESTED.split(".")


def check_version() -> list[str]:
    """Return a finding if the installed version is another one than the tested one."""
    if is_tested():
        return []
    return [
        f"pyautoattack {version('pyautoattack')} is installed, but only {TESTED} is tested: its "
        "attacks run unchanged, without the saving of queries and without Square in bfloat16"
    ]


def reset_call_counts() -> None:
    """Set to zero what the package counts to find dynamic defenses.

    It never does so itself, and so would blame a network for the gradients of the one before.
    """
    counts = getattr(checks, "funcs", {})
    counts.update(dict.fromkeys(counts, 0))


@contextmanager
def collect_warnings() -> Iterator[list[str]]:
    """Collect what the package would print: its log and Python's warnings.

    The list is complete at the end of the block. The logger is left as it was.
    """
    messages: list[str] = []
    logger = logging.getLogger(LOGGER)
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    propagate, level = logger.propagate, logger.level
    logger.propagate = False
    logger.setLevel(logging.WARNING)
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            yield messages
            messages += [
                str(warning.message)
                for warning in caught
                if not issubclass(warning.category, ABOUT_CODE)
            ]
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


def summarize_warnings(messages: Sequence[str]) -> list[str]:
    """Return one finding for each kind of warning.

    Batches and target classes repeat a warning with other numbers.
    """
    kinds: dict[str, list[str]] = {}
    for message in messages:
        if CHECKED_HERE not in message:
            kind = kinds.setdefault(re.sub(r"\d+", "#", message), [])
            kind.append(message.partition(POINTER)[0])
    return [
        f"AutoAttack warns: {first}"
        + (f" (the first of {1 + len(more)} such warnings)" if more else "")
        for first, *more in kinds.values()
    ]
