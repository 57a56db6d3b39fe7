"""``defense new``: something of your own from a tested template."""

from __future__ import annotations

from collections.abc import Sequence


def command(words: Sequence[str]) -> int:
    """Make a plugin of your own from a tested template."""
    from abatis.commands.new.make_plugin import make

    return make(words, "defense new")
