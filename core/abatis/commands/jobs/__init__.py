"""``defense jobs``: runs the commands that compare and sweep write with ``--jobs``."""

from __future__ import annotations

from collections.abc import Sequence


def command(words: Sequence[str]) -> int:
    """Run a file of commands, several at a time or on a cluster."""
    from abatis.commands.jobs.options import parse

    asked = parse(words, "defense jobs")
    from abatis.commands.jobs.run import run_file

    return run_file(asked)
