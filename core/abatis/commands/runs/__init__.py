"""``defense runs``: lists the runs of a folder."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from abatis.report.run_summary import RunSummary

COLUMNS = ("run", "method", "threat", "clean", "robust", "verdict", "age", "state")
VERDICT_WIDTH = 10  # "no masking found" in two lines, in a narrow terminal


def command(words: Sequence[str]) -> int:
    """List all runs with their numbers, verdict and state."""
    import json

    from abatis.api.options import read_path
    from abatis.config.parser import Parser
    from abatis.report.run_summary import find_runs, summarise_run

    parser = Parser(prog="defense runs", description=command.__doc__, allow_abbrev=False)
    parser.add_argument(
        "dir",
        metavar="DIR",
        nargs="?",
        type=read_path,
        default=read_path("runs"),
        help="folder, searched with all below it (default: runs)",
    )
    parser.add_argument(
        "--sort",
        choices=COLUMNS,
        default="age",
        help="column to sort by: numbers from the largest, age from the newest (default: age)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, with more facts")
    asked: argparse.Namespace = parser.parse_args(words)
    found = [summarise_run(folder) for folder in find_runs(asked.dir)]
    found.sort(key=lambda one: _sort_key(one, asked.sort))
    if asked.json:
        print(json.dumps([_describe(one) for one in found], indent=1))
    elif found:
        _print_table(found, asked)
    else:
        print(f"no runs in {asked.dir}")
    return 0


def _sort_key(one: RunSummary, column: str) -> tuple[bool, Any, str]:
    """Runs without a value come last; equal ones by name."""
    value: Any = {
        "run": str(one.folder),
        "method": one.method,
        "threat": one.threat,
        "clean": None if one.clean_acc is None else -one.clean_acc,
        "robust": None if one.robust_acc is None else -one.robust_acc,
        "verdict": one.verdict,
        "age": -one.changed,
        "state": one.state,
    }[column]
    return value is None, value or 0 if value is None else value, str(one.folder)


def _describe(one: RunSummary) -> dict[str, Any]:
    """A run as JSON: times in UTC."""
    from dataclasses import asdict
    from datetime import UTC, datetime

    changed = datetime.fromtimestamp(one.changed, UTC).isoformat(timespec="seconds")
    return {**asdict(one), "folder": str(one.folder), "changed": changed}


def _print_table(found: Sequence[RunSummary], asked: argparse.Namespace) -> None:
    from abatis.report.console import SafeConsole

    console = SafeConsole()
    rows = [_make_row(one, asked) for one in found]
    unlimited = console.options.update(width=10_000)  # else a table has at most the width there is
    for gap, verdict_width in ((2, None), (1, None), (1, VERDICT_WIDTH)):
        table = _make_table(rows, gap, verdict_width)
        if console.measure(table, options=unlimited).maximum <= console.width:
            break
    console.print(table)
    for one in found:
        if one.why and one.state != "stopped":
            console.print(f"{one.folder}: {one.state}: {one.why}", markup=False)


def _make_table(rows: Sequence[Sequence[str]], gap: int, verdict_width: int | None) -> Table:
    """The table with so many spaces between its columns; only the names of runs may be folded."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0))
    for heading in COLUMNS:
        table.add_column(
            heading,
            justify="right" if heading in ("clean", "robust", "age") else "left",
            overflow="fold",
            no_wrap=heading not in ("run", "verdict"),
            width=verdict_width if heading == "verdict" else None,
        )
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def _make_row(one: RunSummary, asked: argparse.Namespace) -> list[str]:
    from abatis.report.verdicts import format_verdict
    from abatis.report.words import format_age

    below = one.folder != asked.dir and one.folder.is_relative_to(asked.dir)
    bound = "<= " if one.robust_acc is None and one.robust_acc_upper is not None else ""
    state = f"{one.state} {one.epoch}/{one.epochs}" if one.state == "running" else one.state
    return [
        str(one.folder.relative_to(asked.dir) if below else one.folder),
        one.method,
        one.threat,
        "-" if one.clean_acc is None else f"{100 * one.clean_acc:.1f}",
        "-" if one.headline is None else f"{bound}{100 * one.headline:.1f}",
        format_verdict(one.verdict, one.ladder) if one.verdict else "-",
        format_age(one.age),
        state,
    ]
