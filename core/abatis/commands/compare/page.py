"""A comparison as one HTML page.

The best method, or those tied for it, and the verdict come first, then the ranking, plots and every
run.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import nan

from abatis.commands.compare.pictures import show_gradients, show_margins, show_pictures
from abatis.commands.compare.tables import Column, Compared, Row, make_columns, write_legend
from abatis.commands.compare.ties import list_equals
from abatis.commands.compare.transfer_table import show_transfer
from abatis.report.html import Badge, Block, Figure, Items, Lead, Section, Table, page, percent
from abatis.report.numbers import CLEAN, find_number, format_share, list_compared
from abatis.report.svg import points_with_error
from abatis.report.verdicts import format_verdict
from abatis.report.words import NO_BREAK_SPACE, format_count

VERDICT_TEXTS = {
    "PASS": "no sign of gradient masking in any of its runs",
    "UNDECIDED": "at least one of its runs has too few points, or a network too weak, for a "
    "verdict on gradient masking: see their reports",
    "WARN": "a masking test warned in at least one of its runs: see their reports",
    "-": "not all of its runs were tested for gradient masking",
}
SECOND_TABLE = 3  # columns from this Column.needed on are in the second table


def make_page(compared: Compared) -> str:
    """The whole page."""
    first = [column for column in make_columns(compared) if column.needed < SECOND_TABLE]
    others = [
        column
        for column in make_columns(compared)
        if column.needed >= SECOND_TABLE or column.heading == "method"
    ]
    sections = [
        Section("Ranking", [_table(compared, first), Items(write_legend(compared))]),
        Section("All measures", [_table(compared, others)]),
        Section("Accuracy", _plots(compared)),
        Section("The same images", show_pictures(compared)),
        Section("Input gradients", show_gradients(compared)),
        Section("Margins", show_margins(compared)),
        Section("Transfer", show_transfer(compared["transfer"]) if "transfer" in compared else []),
        Section("Runs", _runs(compared)),
    ]
    return page(f"Comparison on {compared['judged']['data']}", _lead(compared), sections)


def _table(compared: Compared, shown: Sequence[Column]) -> Table:
    """A table of some columns; a known verdict is shown as a badge."""
    rows = [[_cell(column, row) for column in shown] for row in compared["rows"]]
    headings = [column.heading for column in shown]
    numeric = frozenset(place for place, column in enumerate(shown) if not column.left)
    return Table(headings, rows, numeric=numeric, header=headings.index("method"))


def _cell(column: Column, row: Row) -> str | Badge:
    text = column.text(row)
    return Badge(text) if column.heading == "verdict" and text != "-" else text


def _lead(compared: Compared) -> Lead | None:
    """The first method; None if no method has a rank.

    It is called the best only if it is ahead of all others, above chance, and has a verdict.
    """
    best = compared["rows"][0]
    if best["rank"] is None:
        return None
    found, judged, seeds = best[compared["headline"]], compared["judged"], len(best["runs"])
    headline = find_number(compared["headline"])
    facts = [f"{headline.described}; mean of {format_count(seeds, 'run')} of {best['method']}"]
    if found["sd"] is not None:
        facts.append(f"standard deviation over seeds {percent(found['sd'])}")
    facts.append(
        f"{judged['n']} test images of {judged['data']}, threat {judged['threat']}, "
        f"{judged['ladder']} ladder"
    )
    says = [
        VERDICT_TEXTS[best["verdict"]],
        *([] if best["adaptive_attack"] else ["no adaptive attack supplied"]),
    ]
    if best["method"] in compared["at_chance"]:
        says.append(f"not above chance ({percent(compared['chance'])})")
    verdict = format_verdict(best["verdict"], judged["ladder"])
    return Lead(_name_first(compared), percent(found["mean"]), facts, verdict, says)


def _name_first(compared: Compared) -> str:
    """``best of 3: a``, or in other words where the numbers do not say that one is the best."""
    first = compared["rows"][0]
    ranks = sum(row["rank"] is not None for row in compared["rows"])
    equals, within = list_equals(compared)
    if equals:
        return f"tied: {', '.join(equals)} (differences within {within})"
    if ranks == 1:
        return f"the only method with a rank: {first['method']}"
    doubtful = first["verdict"] == "UNDECIDED" or first["method"] in compared["at_chance"]
    return f"{'highest' if doubtful else 'best'} of {ranks}: {first['method']}"


def _plots(compared: Compared) -> list[Block]:
    """Clean and robust accuracy, one point per method."""
    plots: list[Block] = []
    for number in (CLEAN, find_number(compared["headline"])):
        key, title = number.key, number.label
        rows = [
            (_label(row), row[key]["mean"], row[key]["sd"] or nan)
            for row in compared["rows"]
            if row[key]
        ]
        svg = points_with_error(rows, x_label=title, title=f"{title} by method", percent=True)
        plots.append(Figure(svg, f"{title}: mean over seeds, with bars of one standard deviation"))
    return plots


def _label(row: Row) -> str:
    return f"{row['method']} (FAIL, at most)" if row["verdict"] == "FAIL" else str(row["method"])


def _runs(compared: Compared) -> list[Block]:
    """The numbers of every single run."""
    rows, shown = [], list_compared()
    for row in compared["rows"]:
        for place, (seed, folder) in enumerate(zip(row["seeds"], row["runs"], strict=True)):
            numbers = [
                format_share(
                    row[number.key]["values"][place] if row[number.key] else None,
                    row["verdict"],
                    number,
                    NO_BREAK_SPACE,
                )
                for number in shown
            ]
            rows.append([row["method"], "-" if seed is None else str(seed), *numbers, folder])
    headings = ["method", "seed", *(number.short for number in shown), "folder"]
    return [Table(headings, rows, numeric=frozenset(range(1, len(headings) - 1)))] if rows else []
