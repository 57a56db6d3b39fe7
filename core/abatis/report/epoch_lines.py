"""The line of each epoch on a terminal, in columns that fit its width."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from abatis.api.batch import SHOWN
from abatis.report.words import format_duration

NUMBER, PERCENT, DURATION = 8, 7, 11  # widths of columns
GAP = "  "
NO_TERMS = ("epoch", "step", "lr", "loss", "seconds", "peak_memory_mb")


def is_term(name: str) -> bool:
    """Is a metric the mean of a term of the loss?"""
    return name not in NO_TERMS and not name.endswith("_acc") and not name.startswith(SHOWN)


def write_epoch(row: Mapping[str, Any], epochs: int, width: int) -> tuple[str, str]:
    """The heading and the line of an epoch, both at most ``width`` wide.

    Terms that do not fit are left out; they are in ``metrics.jsonl``, as all others are.

    Args:
        row: the metrics of the epoch.
        epochs: of the whole run.
        width: of the terminal, in letters.
    """
    epoch = int(row["epoch"])
    first = max(len(f"{epochs}/{epochs}"), len("epoch"))
    columns = [("epoch", f"{epoch}/{epochs}", first), ("loss", _write(row.get("loss")), NUMBER)]
    accuracies = [("clean", "val_clean_acc"), ("robust", "val_robust_acc")]
    last = [(title, f"{100 * row[key]:.1f} %", PERCENT) for title, key in accuracies if key in row]
    left = row["seconds"] / epoch * (epochs - epoch)
    last += [("lr", _write(row.get("lr")), NUMBER), ("left", format_duration(left), DURATION)]
    terms = [(_cut(name), _write(row[name]), NUMBER) for name in row if is_term(name)]
    room = width - sum(size + len(GAP) for *_, size in (*columns, *last)) + len(GAP)
    shown = terms[: max(0, room // (NUMBER + len(GAP)))] if len(terms) > 1 else []
    found = [*columns, *shown, *last]
    heading = GAP.join(f"{title:>{size}}" for title, _, size in found)
    return heading[:width], GAP.join(f"{text:>{size}}" for _, text, size in found)[:width]


def _write(value: float | None) -> str:
    """A number in at most NUMBER letters."""
    if value is None:
        return "-"
    plain = value == 0 or 0.01 <= abs(value) < 10_000
    return f"{value:.4g}" if plain else f"{value:.1e}"


def _cut(name: str) -> str:
    return name if len(name) <= NUMBER else f"{name[: NUMBER - 1]}…"
