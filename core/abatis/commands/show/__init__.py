"""``defense show``: shows one run, or an evaluation, in the terminal."""

from __future__ import annotations

from collections.abc import Sequence


def command(words: Sequence[str]) -> int:
    """Show a run's state, numbers and curves, or the numbers of an evaluation."""
    from abatis.api.options import read_path
    from abatis.config.parser import Parser
    from abatis.errors import UsageError
    from abatis.report.eval_record import RECORD
    from abatis.report.run_shown import show_evaluation, show_run

    parser = Parser(prog="defense show", description=command.__doc__, allow_abbrev=False)
    parser.add_argument(
        "run", metavar="RUN", type=read_path, help="the run folder, or one that defense eval wrote"
    )
    folder = parser.parse_args(words).run
    if (folder / "run.toml").is_file():
        show_run(folder)
    elif (folder / RECORD).is_file():
        show_evaluation(folder)
    else:
        raise UsageError(
            f"{folder} is neither a run nor an evaluation: it has no run.toml and no {RECORD}",
            fix="name a run folder; defense runs lists them",
        )
    return 0
