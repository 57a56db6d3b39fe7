"""``defense compare``: ranks methods or finished runs in one table."""

from __future__ import annotations

from collections.abc import Sequence


def command(words: Sequence[str]) -> int:
    """Compare methods or finished runs in one ranked table."""
    from abatis.commands.compare.options import parse

    asked = parse(words, "defense compare")
    if asked.methods:
        from abatis.commands.compare.train_methods import compare_methods

        return compare_methods(asked)
    from abatis.commands.compare.compare_runs import compare_finished

    return compare_finished(asked)
