"""The terminal: the plan, progress with the time left, a forecast, and the table at the end. Plain lines when piped."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
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

FORECAST_AFTER = 3  # steps; the first one also pays for warming up
JUDGE_LABELS = {
    "clean_acc": "clean accuracy",
    "pgd20_acc": "PGD-20 accuracy",
    "margin_pgd20_acc": "margin-PGD-20 accuracy",
    "autoattack_acc": "AutoAttack accuracy",
    "autoattack_fast_acc": "AutoAttack accuracy, Square in bf16",
}


def duration(seconds: float) -> str:
    """``2 h 05 min``, ``3 min 20 s`` or ``45 s``."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


def percent(share: float | None) -> str:
    """A fraction as people read it."""
    return "-" if share is None else f"{100 * share:.2f} %"


class Reporter:
    """Writes one run to the terminal."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(quiet=quiet, highlight=False)
        self.console.on_broken_pipe = self._go_on_unread  # type: ignore[method-assign]  # else the run would end with it
        self._epochs = 0
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._steps = self._first = 0
        self._began: float | None = None

    def _go_on_unread(self) -> None:
        """Nobody reads any more: the run goes on in silence."""
        self.console.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def note(self, text: str) -> None:
        """One line; wrapped at words on a terminal, left whole where it is piped."""
        self.console.print(escape(text), soft_wrap=not self.console.is_terminal)

    def plan(self, rows: Sequence[PlanRow], notes: Sequence[str], config: RunConfig) -> None:
        """Who provides what, with versions and options."""
        table = Table(
            title="plan", title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0)
        )
        for heading in ("role", "provider", "version", "options"):
            table.add_column(heading, overflow="fold", no_wrap=heading != "options")
        for row in rows:
            options = ", ".join(f"{key} {_shown(value)}" for key, value in row.options.items())
            version = row.version[:19] if row.version.startswith("sha256:") else row.version
            table.add_row(row.role, escape(row.provider), version, escape(options))
        self.console.print(table)
        self._epochs = config.epochs
        self.note(
            f"epochs {config.epochs}, batch {config.batch_size}, {config.optim.name} lr {config.optim.lr:g} "
            f"{config.optim.schedule}, weight decay {config.optim.weight_decay:g}, {config.precision}, seed {config.seed}"
        )
        for text in notes:
            self.note(f"note: {text}")

    @contextmanager
    def training(self, steps: int, done: int) -> Iterator[None]:
        """Around the training loop."""
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
        shown = self.console.is_terminal and not self.console.quiet
        with Progress(*columns, console=self.console, disable=not shown) as self._progress:
            self._task = self._progress.add_task(title, total=total, completed=done, state="")
            yield
        self._progress = None

    def step(self, done: int, epoch: int, averages: Mapping[str, float]) -> None:
        """After some steps: the bar, and once the forecast."""
        now = time.perf_counter()
        made = done - self._first
        if made == 1:
            self._began = now
        if made == FORECAST_AFTER and self._began is not None and self._steps > done:
            each = (now - self._began) / (made - 1)
            self.note(
                f"forecast: {duration(each * (self._steps - done))} for {self._steps} steps of {each:.3g} s, "
                "without validation; Ctrl-C saves and stops"
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
        """After an epoch: one line."""
        terms = ", ".join(f"{name} {value:.4g}" for name, value in row.items() if _is_term(name))
        held_out = ""
        if "val_clean_acc" in row:
            held_out = f"; held out: clean {percent(row['val_clean_acc'])}, robust {percent(row['val_robust_acc'])}"
        self.note(
            f"epoch {row['epoch']}/{self._epochs}: loss {row.get('loss', float('nan')):.4g} ({terms}){held_out}; "
            f"{duration(row['seconds'])}"
        )
        if self._progress is not None:
            self._progress.update(
                self._task, completed=row["step"], description=f"epoch {row['epoch']}"
            )

    @contextmanager
    def judging(self) -> Iterator[Callable[[str, int, int], None]]:
        """Around the evaluation; yields its progress callback."""
        named = ""

        def progress(name: str, done: int, total: int) -> None:
            nonlocal named
            if self._progress is not None:
                self._progress.update(self._task, description=name, completed=done, total=total)
            if name != named and total and not self.console.is_terminal:
                self.note(f"evaluation: {name} on {total} images")
            named = name

        with self._bars("evaluation", 1):
            yield progress

    def evaluation(self, record: Mapping[str, Any]) -> None:
        """The numbers of one evaluation, and how far they can be trusted."""
        self.note(f"{record['data']}, test set: {record['n']} images, threat {record['threat']}")
        table = Table()
        table.add_column("measure")
        table.add_column("result", justify="right")
        for key, label in JUDGE_LABELS.items():
            if record.get(key) is not None:
                table.add_row(label, percent(record[key]))
        low, high = record["interval"]["robust_acc"]
        table.add_section()
        table.add_row("robust accuracy (no attack broke it)", percent(record["robust_acc"]))
        table.add_row("  95 % interval", f"{100 * low:.1f} to {100 * high:.1f} %")
        style = {"PASS": "green", "WARN": "yellow", "FAIL": "bold red"}[record["verdict"]]
        table.add_row("masking verdict", f"[{style}]{record['verdict']}[/]")
        self.console.print(table)
        for finding in record["findings"]:
            self.note(f"finding: {finding}")
        tests = sum(test["status"] != "not applicable" for test in record["masking"]["tests"])
        if not tests:
            self.note("no point is right without an attack: there was no robustness to doubt")
        elif record["verdict"] == "PASS":
            self.note(
                f"no sign of masking found by {tests} tests on the first {record['masking']['points']} points"
            )
        adaptive = record["adaptive_attack"]
        self.note(f"adaptive attack: {adaptive}" if adaptive else "no adaptive attack supplied")

    def closing(self, folder: Path, note: str = "") -> None:
        """What to know about the data, and where everything lies."""
        if note:
            self.note(f"note: {note}")
        kind = "run folder" if (folder / "run.toml").is_file() else "evaluation"
        self.note(f"{kind}: {folder} (report.html is for reading)")


def _shown(value: object) -> str:
    return "/".join(str(part) for part in value) if isinstance(value, tuple | list) else str(value)


def _is_term(name: str) -> bool:
    return name not in (
        "epoch",
        "step",
        "lr",
        "loss",
        "seconds",
        "peak_memory_mb",
    ) and not name.endswith("_acc")
