"""``defense compare``: ranks methods, finished runs or any networks in one table."""

from __future__ import annotations

from collections.abc import Sequence


def command(words: Sequence[str]) -> int:
    """Compare methods, finished runs or any networks in one ranked table."""
    from abatis.commands.compare.options import parse

    asked = parse(words, "defense compare")
    if asked.methods:
        from abatis.commands.compare.train_methods import compare_methods

        return compare_methods(asked)
    from abatis.commands.compare.evaluations import needs_networks

    if needs_networks(asked):
        from abatis.commands.compare.networks import compare_networks

        return compare_networks(asked)
    from abatis.commands.compare.compare_runs import compare_finished

    return compare_finished(asked)
