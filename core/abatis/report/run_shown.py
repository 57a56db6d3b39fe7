"""One run in the terminal: its state, its numbers, and its curves as rows of bars."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import Any

from rich.table import Table

from abatis.errors import DataError
from abatis.report.eval_record import read_record
from abatis.report.json_part import Part
from abatis.report.run_summary import METRICS, RUNNING, RunSummary, summarise_run
from abatis.report.terminal import Reporter
from abatis.report.words import format_age, format_duration, format_percent

BARS, PLAIN_BARS = "▁▂▃▄▅▆▇█", "_.-=+*#@"
WIDTH = 32  # characters of a curve; of more epochs, each is a mean
CURVES = {
    "loss": "loss",
    "train_robust_acc": "training robust",
    "val_clean_acc": "held-out clean",
    "val_robust_acc": "held-out robust",
    "lr": "learning rate",
}


def show_run(folder: Path) -> None:
    """Print a run as far as it has come.

    Raises:
        DataError: its evaluation is damaged.
    """
    one, reporter = summarise_run(folder), Reporter()
    reporter.note(f"{folder}: {_describe_state(one)}")
    if one.why:
        reporter.note(f"  {one.why}")
    reporter.note(
        f"method {one.method}, backbone {one.backbone}, data {one.data}, threat {one.threat}, "
        f"seed {'-' if one.seed is None else one.seed}"
    )
    rows = Part.read_lines(folder / METRICS)
    if rows:
        reporter.console.print(_make_curves(rows, reporter.console.encoding))
        seconds = rows[-1]["seconds"].number
        if seconds is not None:
            reporter.note(f"trained for {format_duration(seconds)}")
    record = read_record(folder)
    if record:
        _show_record(record, folder, reporter)
    else:
        reporter.note("not evaluated yet" if one.state == RUNNING else "not evaluated")


def show_evaluation(folder: Path) -> None:
    """Print what an evaluation of something that is no run has found.

    Raises:
        DataError: it is damaged.
    """
    record, reporter = read_record(folder), Reporter()
    reporter.note(f"{folder}: an evaluation of {record.get('model', '?')}")
    _show_record(record, folder, reporter)


def _show_record(record: Mapping[str, Any], folder: Path, reporter: Reporter) -> None:
    """Print the numbers of an evaluation; DataError where something is missing."""
    try:
        reporter.evaluation(record)
    except (KeyError, TypeError) as error:
        raise DataError(
            f"the evaluation lacks {error}",
            where=str(folder),
            fix=str(record.get("command", f"defense eval {shlex.quote(str(folder))}")),
        ) from error


def _describe_state(one: RunSummary) -> str:
    """``finished, 20 of 20 epochs, 3 h ago``."""
    epochs = "?" if one.epochs is None else one.epochs
    return f"{one.state}, {one.epoch} of {epochs} epochs, last change {format_age(one.age)} ago"


def _make_curves(rows: Sequence[Part], encoding: str) -> Table:
    """A row for each metric: first value, curve, last value, and the best."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading, right in (("", False), ("first", True), ("by epoch", False), ("last", True)):
        table.add_column(heading, justify="right" if right else "left", no_wrap=True)
    table.add_column("best", no_wrap=True)
    levels = BARS if encoding.lower().startswith("utf") else PLAIN_BARS
    for key, name in CURVES.items():
        found = Part([row[key].value for row in rows]).numbers()
        known = [value for value in found if isfinite(value)]
        if known:
            best = _find_best(key, found)
            table.add_row(
                name,
                _format(key, found[0]),
                draw_bars(found, levels),
                _format(key, found[-1]),
                best,
            )
    return table


def _find_best(key: str, values: Sequence[float]) -> str:
    """The best value and its epoch; nothing of a learning rate."""
    if key == "lr":
        return ""
    choose = min if key == "loss" else max
    known = [(value, epoch) for epoch, value in enumerate(values, 1) if isfinite(value)]
    best = choose(value for value, _ in known)
    epoch = next(epoch for value, epoch in known if value == best)
    return f"{_format(key, best)} in epoch {epoch}"


def _format(key: str, value: float) -> str:
    """A value of one epoch; a dash where it has none, or none that is finite."""
    if not isfinite(value):
        return "-"
    return format_percent(value) if key.endswith("_acc") else f"{value:.4g}"


def draw_bars(values: Sequence[float], levels: str = BARS) -> str:
    """A curve in one line, from its smallest value to its largest; gaps are spaces."""
    groups = _group(values)
    known = [value for value in groups if isfinite(value)]
    if not known:
        return ""
    low, high = min(known), max(known)
    step = (high - low) / (len(levels) - 1)

    def draw(value: float) -> str:
        if not isfinite(value):
            return " "
        return levels[round((value - low) / step)] if step > 0 else levels[0]

    return "".join(map(draw, groups))


def _group(values: Sequence[float]) -> list[float]:
    """At most :data:`WIDTH` values: means over equal stretches."""
    if len(values) <= WIDTH:
        return list(values)
    ends = [round(place * len(values) / WIDTH) for place in range(WIDTH + 1)]
    parts = [values[start:end] for start, end in pairwise(ends)]
    finite = [[value for value in part if isfinite(value)] for part in parts]
    return [sum(part) / len(part) if part else float("nan") for part in finite]
