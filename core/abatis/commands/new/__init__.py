"""``defense new``: creates a plugin from a tested template."""

from __future__ import annotations

from collections.abc import Sequence


def command(words: Sequence[str]) -> int:
    """Create a plugin of your own from a tested template."""
    from abatis.commands.new.make_plugin import run_new

    return run_new(words, "defense new")
