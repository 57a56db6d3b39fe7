"""``defense show``: shows one run in the terminal."""

from __future__ import annotations

from collections.abc import Sequence


def command(words: Sequence[str]) -> int:
    """Show a run's state, numbers and curves."""
    from abatis.api.options import read_path
    from abatis.config.parser import Parser
    from abatis.errors import UsageError
    from abatis.report.run_shown import show_run

    parser = Parser(prog="defense show", description=command.__doc__, allow_abbrev=False)
    parser.add_argument("run", metavar="RUN", type=read_path, help="the run folder")
    folder = parser.parse_args(words).run
    if not (folder / "run.toml").is_file():
        raise UsageError(
            f"{folder} is not a run folder: it has no run.toml",
            fix="name a run folder; defense runs lists them",
        )
    show_run(folder)
    return 0
