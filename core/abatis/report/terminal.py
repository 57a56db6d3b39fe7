"""What a run writes to the terminal: plan, progress, remaining time, results.

Where the output is piped, these are plain lines.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from abatis.config.plan_row import PlanRow
from abatis.config.run_config import RunConfig
from abatis.report.console import SafeConsole
from abatis.report.corruptions_table import HEADINGS as CORRUPTION_HEADINGS
from abatis.report.corruptions_table import (
    KEY,
    SUMMARY,
    describe_corruptions,
    list_corruption_rows,
    list_summary,
)
from abatis.report.epoch_lines import is_term, write_epoch
from abatis.report.eval_record import split_threats
from abatis.report.numbers import CLEAN, ROBUST, UPPER, find_headline, format_share, list_measured
from abatis.report.threats_table import HEADINGS, describe_union, list_threat_rows
from abatis.report.verdicts import STYLES, format_verdict
from abatis.report.words import format_count, format_duration, format_percent

TEXTS = (HEADINGS[0], HEADINGS[-1])  # columns that are no numbers
FORECAST_AFTER = 3  # steps; the first one includes the warm-up


OnEpoch = Callable[[Mapping[str, Any]], None]
"""Called with the row of each epoch."""


class Reporter:
    """Writes one run to the terminal."""

    def __init__(self, quiet: bool = False, on_epoch: OnEpoch | None = None) -> None:
        self.on_epoch = on_epoch
        self.console = SafeConsole(quiet=quiet)
        # else a reader that leaves would end the run
        self.console.on_broken_pipe = self._silence  # type: ignore[method-assign]
        self._epochs = 0
        self._heading = ""
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._steps = 0
        self._first = 0  # steps that were done before
        self._began: float | None = None

    def _silence(self) -> None:
        """Continue without output: nobody reads it any more."""
        self.console.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def note(self, text: str) -> None:
        """Write one line; wrapped between words on a terminal, left whole where it is piped."""
        shown = self.console.is_terminal or self.console.is_jupyter
        self.console.print(escape(text), soft_wrap=not shown)

    def plan(self, rows: Sequence[PlanRow], notes: Sequence[str], config: RunConfig) -> None:
        """Write the plan: who provides what, with versions and options."""
        table = Table(
            title="plan", title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0)
        )
        for heading in ("role", "provider", "version", "options"):
            table.add_column(heading, overflow="fold", no_wrap=heading != "options")
        for row in rows:
            options = ", ".join(f"{key} {_format(value)}" for key, value in row.options.items())
            version = row.version[:19] if row.version.startswith("sha256:") else row.version
            table.add_row(row.role, escape(row.provider), escape(version), escape(options))
        self.console.print(table)
        self._epochs = config.epochs
        optim = config.optim
        updates = f" of {config.epoch_updates} updates" if config.epoch_updates else ""
        self.note(
            f"epochs {config.epochs}{updates}, batch {config.batch_size}, "
            f"threat {' and '.join([config.threat, *config.also_train])}, "
            f"{optim.name} lr {optim.lr:g} {optim.schedule}, "
            f"weight decay {optim.weight_decay:g}, {config.precision}, seed {config.seed}"
        )
        for text in notes:
            self.note(f"note: {text}")

    @contextmanager
    def training(self, steps: int, done: int) -> Iterator[None]:
        """Show progress while training.

        Args:
            steps: of the whole training.
            done: steps that were done before.
        """
        self._steps, self._first = steps, done
        with self._bars("training", steps, done):
            yield

    @contextmanager
    def _bars(self, title: str, total: int, done: int = 0) -> Iterator[None]:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=18),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[state]}"),
        )
        shown = self.console.shows_progress and not self.console.quiet
        with Progress(*columns, console=self.console, disable=not shown) as self._progress:
            self._task = self._progress.add_task(title, total=total, completed=done, state="")
            yield
        self._progress = None

    def step(self, done: int, epoch: int, averages: Mapping[str, float]) -> None:
        """Update the progress bar after some steps; once, estimate the time."""
        now = time.perf_counter()
        made = done - self._first
        if made == 1:
            self._began = now
        if made == FORECAST_AFTER and self._began is not None and self._steps > done:
            each, left = (now - self._began) / (made - 1), self._steps - done
            self.note(
                f"estimated time: {format_duration(each * left)} for {format_count(left, 'step')} "
                f"of {each:.3g} s, without validation; Ctrl-C saves and stops"
            )
        if self._progress is not None:
            state = f"loss {averages['loss']:.3f}"
            if "train_robust_acc" in averages:
                state += f" robust {100 * averages['train_robust_acc']:.1f} %"
            if "train_clean_acc" in averages:
                state += f" clean {100 * averages['train_clean_acc']:.1f} %"
            self._progress.update(
                self._task, completed=done, state=state, description=f"epoch {epoch + 1}"
            )

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Write one line after an epoch: in columns on a terminal, in words where it is piped."""
        if self.console.is_terminal:
            self._add_columns(row)
        else:
            self._add_words(row)
        if self.on_epoch is not None:
            self.on_epoch(row)
        if self._progress is not None:
            self._progress.update(
                self._task, completed=row["step"], description=f"epoch {row['epoch']}"
            )

    def _add_columns(self, row: Mapping[str, Any]) -> None:
        heading, line = write_epoch(row, self._epochs, self.console.width)
        if heading != self._heading:  # also where the terminal has become wider
            self._heading = heading
            if "val_clean_acc" in row:
                self.note("clean and robust accuracy are on held-out images")
            self.console.print(heading, markup=False, style="bold")
        self.console.print(line, markup=False)

    def _add_words(self, row: Mapping[str, Any]) -> None:
        terms = ", ".join(f"{name} {value:.4g}" for name, value in row.items() if is_term(name))
        parts = [f"loss {row.get('loss', float('nan')):.4g} ({terms})"]
        if "val_clean_acc" in row:
            clean, robust = row["val_clean_acc"], row["val_robust_acc"]
            parts.append(
                f"held out: clean {format_percent(clean)}, robust {format_percent(robust)}"
            )
        parts.append(format_duration(row["seconds"]))
        self.note(f"epoch {row['epoch']}/{self._epochs}: {'; '.join(parts)}")

    @contextmanager
    def judging(self) -> Iterator[Callable[[str, int, int], None]]:
        """Show progress during the evaluation; yields its progress callback."""
        named = ""

        def progress(name: str, done: int, total: int) -> None:
            nonlocal named
            if self._progress is not None:
                self._progress.update(self._task, description=name, completed=done, total=total)
            if name != named and total and not self.console.shows_progress:
                self.note(f"evaluation: {name} on {format_count(total, 'image')}")
            named = name

        with self._bars("evaluation", 1):
            yield progress
            if self._progress is not None:  # the bar of the last attack says nothing any more
                self._progress.update(self._task, description="evaluation", completed=1, total=1)

    def evaluation(self, record: Mapping[str, Any]) -> None:
        """Write the numbers of an evaluation, and how far they can be trusted."""
        for one in split_threats(record):
            self._add_evaluation(one)
        if KEY in record:
            self._add_corruptions(record)
        rows = list_threat_rows(record)
        if rows:
            table = Table(title=describe_union(record), title_justify="left")
            for heading in HEADINGS:
                table.add_column(heading, justify="left" if heading in TEXTS else "right")
            for row in rows[:-1]:
                table.add_row(*row)
            table.add_section()
            table.add_row(*rows[-1])
            self.console.print(table)

    def _add_evaluation(self, record: Mapping[str, Any]) -> None:
        threat = f", threat {record['threat']}" if "threat" in record else ""
        layout = ", attacks in contiguous memory" if record.get("layout") == "contiguous" else ""
        self.note(f"{record['data']}, test set: {record['n']} images{threat}{layout}")
        if record.get("ladder") == "clean":
            self._add_clean(record)
            return
        table = Table()
        table.add_column("measure")
        table.add_column("result", justify="right")
        for number in list_measured(record):
            if number not in (ROBUST, UPPER):
                shown = format_share(record[number.key], record["verdict"], number)
                table.add_row(number.label, shown)
        self._add_headline(table, record)
        style, verdict = STYLES[record["verdict"]], record["verdict"]
        words = format_verdict(verdict, record.get("ladder"))
        table.add_row("masking verdict", f"[{style}]{words}[/]")
        self.console.print(table)
        for finding in record["findings"]:
            self.note(f"finding: {finding}")
        masking = record["masking"]
        tests = sum(test["status"] != "not applicable" for test in masking["tests"])
        if verdict == "PASS":
            self.note(f"{tests} tests on {masking['points']} test images found no sign of masking")
        adaptive = record["adaptive_attack"]
        self.note(f"adaptive attack: {adaptive}" if adaptive else "no adaptive attack supplied")

    def _add_corruptions(self, record: Mapping[str, Any]) -> None:
        for headings, rows in (
            (CORRUPTION_HEADINGS, list_corruption_rows(record)),
            (SUMMARY, list_summary(record)),
        ):
            table = Table()
            table.add_column(headings[0])
            for heading in headings[1:]:
                table.add_column(heading, justify="right")
            for row in rows:
                table.add_row(*row)
            self.console.print(table)
        for text in describe_corruptions(record):
            self.note(text)

    def _add_clean(self, record: Mapping[str, Any]) -> None:
        low, high = record["interval"][CLEAN.key]
        self.note(
            f"clean accuracy {format_percent(record[CLEAN.key])} (95 % interval {100 * low:.1f} "
            f"to {100 * high:.1f} %)"
        )
        for finding in record["findings"]:
            self.note(f"finding: {finding}")

    def _add_headline(self, table: Table, record: Mapping[str, Any]) -> None:
        headline = format_share(find_headline(record), record["verdict"], ROBUST)
        intervals = record["interval"]
        low, high = intervals.get(UPPER.key) or intervals[ROBUST.key]
        table.add_section()
        table.add_row("robust accuracy (withstood every attack)", headline)
        table.add_row("  95 % interval", f"{100 * low:.1f} to {100 * high:.1f} %")
        abstained = record.get("abstained")
        if abstained is not None:
            counts = f"{abstained['adversarial']} of {record['n']}"
            table.add_row("broken by abstentions alone", counts)

    def closing(self, folder: Path, note: str = "") -> None:
        """Write what to know about the data, and where the results are."""
        if note:
            self.note(f"note: {note}")
        kind = "run folder" if (folder / "run.toml").is_file() else "evaluation"
        self.note(f"{kind}: {folder} (open report.html in a browser)")


def _format(value: object) -> str:
    if isinstance(value, tuple | list):
        return "/".join(str(part) for part in value) or "none"
    return "none" if value is None else str(value)
