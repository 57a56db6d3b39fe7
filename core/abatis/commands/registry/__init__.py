"""``defense registry``: the registry of methods."""

from __future__ import annotations

from collections.abc import Sequence


def command(words: Sequence[str]) -> int:
    """List, show, check and add the known methods."""
    from abatis.commands.registry.actions import act

    return act(words, "defense registry")
