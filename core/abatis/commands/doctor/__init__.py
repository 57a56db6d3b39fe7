"""``defense doctor``: checks this installation."""

from __future__ import annotations

from collections.abc import Sequence


def command(words: Sequence[str]) -> int:
    """Check whether a run can start here, and how to fix what is broken."""
    from abatis.commands.doctor.checks import check_all

    return check_all(words, "defense doctor")
