"""``defense export``: a finished run in a form that other programs read. Nothing here imports torch until it must."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from abatis.errors import UsageError, did_you_mean
from abatis.parser import Parser


def command(words: Sequence[str], prog: str) -> int:
    """``defense export RUN --to FORMAT --out DIR``; returns the exit code."""
    parser = Parser(prog=prog, description="Write a finished run in a form that others read.", allow_abbrev=False)
    parser.add_argument("run", metavar="RUN", type=Path, help="run folder")
    parser.add_argument("--to", metavar="FORMAT", required=True, help=", ".join(FORMATS))
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder to write into")
    parser.add_argument("--allow-fail", action="store_true", help="export even where the masking verdict is FAIL")
    _leaderboard_options(parser)
    asked = parser.parse_args(list(words))
    if asked.to not in FORMATS:
        raise UsageError(f"unknown format '{asked.to}': {did_you_mean(asked.to, FORMATS)}", fix=f"--to {' or '.join(FORMATS)}")
    for line in FORMATS[asked.to](asked):
        print(line)
    return 0


def _leaderboard_options(parser: Parser) -> None:
    """What only the authors know."""
    group = parser.add_argument_group("for the entry of a leaderboard")
    group.add_argument("--name", metavar="NAME", help="of the entry, such as Doe2026Sample (default: the run folder's)")
    group.add_argument("--dataset", metavar="NAME", help="of the leaderboard, such as cifar10 (default: the run's data)")
    for option in ("paper-title", "authors", "venue", "link"):
        group.add_argument(f"--{option}", metavar="TEXT", default="N/A")
    group.add_argument("--additional-data", action=argparse.BooleanOptionalAction,
                       help="were other images used than the training set? (default: yes for pretrained networks)")  # fmt: skip


def _robustbench(asked: argparse.Namespace) -> list[str]:
    from abatis.export.robustbench import Entry, export

    entry = Entry(asked.name, asked.dataset, asked.paper_title, asked.authors, asked.venue, asked.link, asked.additional_data)
    exported = export(asked.run, asked.out, entry, allow_fail=asked.allow_fail)
    return [f"written: {exported.info}, and the network beside it", *(f"note: {note}" for note in exported.notes)]


FORMATS: dict[str, Callable[[argparse.Namespace], list[str]]] = {"robustbench": _robustbench}
"""By name: writes, and returns the lines to show."""
