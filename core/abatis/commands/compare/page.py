"""A comparison as one HTML page: the best method with its verdict first, then the ranking, plots and every run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import nan
from typing import Any

from abatis.commands.compare.tables import HEADLINES, Column, columns, legend
from abatis.report.html import Badge, Block, Figure, Items, Lead, Section, Table, page
from abatis.report.svg import points_with_error
from abatis.report.terminal import percent

SAYS = {
    "PASS": "no sign of masking found in any of its runs",
    "WARN": "a diagnostic warned in at least one of its runs: see their reports",
    "-": "not diagnosed in all of its runs",
}
MEASURES = 3  # columns less needed than these stand in a table of their own
ACCURACIES = {
    "clean_acc": "clean",
    "pgd20_acc": "PGD-20",
    "autoattack_acc": "AutoAttack",
    "robust_acc": "robust",
}

Compared = Mapping[str, Any]


def page_of(compared: Compared) -> str:
    """The whole page."""
    first = [column for column in columns(compared) if column.needed < MEASURES]
    others = [
        column
        for column in columns(compared)
        if column.needed >= MEASURES or column.heading == "method"
    ]
    sections = [
        Section("Ranking", [_table(compared, first), Items(legend(compared))]),
        Section("All measures", [_table(compared, others)]),
        Section("Accuracy", _plots(compared)),
        Section("Runs", _runs(compared)),
    ]
    return page(f"Comparison on {compared['judged']['data']}", _lead(compared), sections)


def _table(compared: Compared, shown: Sequence[Column]) -> Table:
    """Some of the columns; a verdict is a badge where it is known."""
    rows = [[_cell(column, row) for column in shown] for row in compared["rows"]]
    headings = [column.heading for column in shown]
    numeric = frozenset(place for place, column in enumerate(shown) if not column.left)
    return Table(headings, rows, numeric=numeric, header=headings.index("method"))


def _cell(column: Column, row: Mapping[str, Any]) -> str | Badge:
    text = column.text(row)
    return Badge(text) if column.heading == "verdict" and text != "-" else text


def _lead(compared: Compared) -> Lead | None:
    """The best method; None where no method has a rank."""
    best = compared["rows"][0]
    if best["rank"] is None:
        return None
    found, judged, seeds = best[compared["headline"]], compared["judged"], len(best["runs"])
    facts = [f"{HEADLINES[compared['headline']]}; mean of {seeds} run{'s' if seeds > 1 else ''}"]
    if found["sd"] is not None:
        facts.append(f"standard deviation over seeds {percent(found['sd'])}")
    facts.append(
        f"{judged['n']} test images of {judged['data']}, threat {judged['threat']}, {judged['ladder']} ladder"
    )
    says = [
        SAYS[best["verdict"]],
        *([] if best["adaptive_attack"] else ["no adaptive attack supplied"]),
    ]
    ranks = sum(row["rank"] is not None for row in compared["rows"])
    return Lead(
        f"best of {ranks}: {best['method']}", percent(found["mean"]), facts, best["verdict"], says
    )


def _plots(compared: Compared) -> list[Block]:
    """Clean and robust accuracy, a point a method."""
    plots: list[Block] = []
    headline = compared["headline"]
    for key, title in (
        ("clean_acc", "clean accuracy"),
        (headline, HEADLINES[headline].partition(",")[0]),
    ):
        rows = [
            (_label(row), row[key]["mean"], row[key]["sd"] or nan)
            for row in compared["rows"]
            if row[key]
        ]
        svg = points_with_error(rows, x_label=title, title=f"{title} by method", percent=True)
        plots.append(
            Figure(svg, f"{title}: mean, and one standard deviation over seeds to each side")
        )
    return plots


def _label(row: Mapping[str, Any]) -> str:
    return f"{row['method']} (FAIL)" if row["verdict"] == "FAIL" else str(row["method"])


def _runs(compared: Compared) -> list[Block]:
    """Every run's own numbers."""
    rows = []
    for row in compared["rows"]:
        for place, (seed, folder) in enumerate(zip(row["seeds"], row["runs"], strict=True)):
            numbers = [
                percent(row[key]["values"][place] if row[key] else None) for key in ACCURACIES
            ]
            rows.append([row["method"], "-" if seed is None else str(seed), *numbers, folder])
    headings = ["method", "seed", *ACCURACIES.values(), "folder"]
    return [Table(headings, rows, numeric=frozenset(range(1, len(headings) - 1)))] if rows else []
