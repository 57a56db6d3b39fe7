"""``defense run`` and ``defense-run``: train and evaluate a model."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def command(words: Sequence[str], prog: str = "defense run") -> int:
    """Train and evaluate a model (the same as defense-run)."""
    from abatis.config.command_line import parse_run
    from abatis.system.printable import make_printable

    notes: list[str] = []
    config = parse_run(words, prog, notes)
    if config.nproc > 1 and not config.dry_run and "WORLD_SIZE" not in os.environ:
        from abatis.runs.launch import launch, launch_elastic

        return launch_elastic(config, words) if config.max_restarts else launch(config.nproc, words)
    from abatis.runs.run import run as train

    first = os.environ.get("RANK", "0") == "0"
    for note in notes if first and not config.quiet else ():
        print(make_printable(note), file=sys.stderr)
    train(config)
    return 0
