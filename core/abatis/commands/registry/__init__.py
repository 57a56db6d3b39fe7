"""``defense registry``: the known methods."""

from __future__ import annotations

from collections.abc import Sequence


def command(words: Sequence[str]) -> int:
    """The known methods: list, show, check, add."""
    from abatis.commands.registry.actions import act

    return act(words, "defense registry")
