"""``defense sweep``: searches options by held-out accuracy, with Optuna."""

from __future__ import annotations

from collections.abc import Sequence


def command(words: Sequence[str]) -> int:
    """Search the best options by the accuracy on held-out images, with Optuna."""
    from abatis.commands.sweep.options import parse

    asked = parse(words, "defense sweep")
    from abatis.commands.sweep.search import sweep

    return sweep(asked)
