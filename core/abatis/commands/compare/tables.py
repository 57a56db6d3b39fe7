"""A comparison as Markdown, as LaTeX and on the terminal.

All are made from what :func:`~abatis.commands.compare.ranking.rank_methods` returns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from abatis.commands.compare.transfer_table import (
    explain_transfer,
    list_headings,
    list_transfer_rows,
)
from abatis.report.numbers import ROBUST, Number, find_number, is_bound, list_compared
from abatis.report.verdicts import format_verdict

if TYPE_CHECKING:
    from rich.console import Console

GAP = 2  # characters between two columns of the terminal
LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}

Compared = Mapping[str, Any]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Args:
        heading: Its heading.
        needed: When a narrow terminal leaves it out: the largest first, 0 never.
        text: The cell of a row.
        left: Whether it is aligned to the left.
    """

    heading: str
    needed: int
    text: Callable[[Row], str]
    left: bool = False


def make_columns(compared: Compared, digits: int = 2) -> list[Column]:
    """All columns, from left to right; digits: decimals of an accuracy in percent."""
    return [
        Column("rank", 0, lambda row: str(row["rank"] or "-")),
        Column("method", 0, lambda row: row["method"], left=True),
        Column("seeds", 6, _seeds),
        *(_accuracy(number, compared["headline"], digits) for number in list_compared()),
        Column("verdict", 0, partial(_verdict, compared["judged"].get("ladder")), left=True),
        Column(
            f"vs {compared['baseline']} [95 %]",
            2,
            lambda row: _difference(row, compared["baseline"], digits),
        ),
        Column("logit margin", 7, lambda row: _spread(row["logit_margin"], 2)),
        Column("L2 margin", 8, lambda row: _spread(row["input_margin_L2"], 3)),
        Column("train s", 9, lambda row: _spread(row["seconds"], 1)),
        Column("MB", 10, lambda row: _spread(row["peak_memory_mb"], 0)),
    ]


def _verdict(ladder: object, row: Row) -> str:
    return format_verdict(row["verdict"], ladder) if row["runs"] else "failed"


def _accuracy(number: Number, headline: str, digits: int) -> Column:
    """The column of a number; that of the robust accuracy shows what the methods are ranked by."""
    key, needed = headline if number == ROBUST else number.key, number.column or 0
    return Column(f"{number.short} %", needed, lambda row: _show_accuracy(row, key, digits))


def _show_accuracy(row: Row, key: str, digits: int) -> str:
    """Mean and deviation; an upper bound, ``at most``, where the verdict is FAIL."""
    text = _spread(row[key], digits, 100)
    return f"at most {text}" if row[key] and is_bound(row["verdict"], find_number(key)) else text


def _seeds(row: Row) -> str:
    """How many runs succeeded, and of how many if some failed."""
    done, failed = len(row["runs"]), len(row["failed"])
    return f"{done} of {done + failed}" if failed else str(done)


def _spread(numbers: Mapping[str, Any] | None, digits: int, factor: float = 1) -> str:
    if numbers is None:
        return "-"
    deviation = "" if numbers["sd"] is None else f" ± {factor * numbers['sd']:.{digits}f}"
    return f"{factor * numbers['mean']:.{digits}f}{deviation}"


def _difference(row: Row, baseline: str, digits: int) -> str:
    found = row["difference"]
    if found is None:
        return "baseline" if row["method"] == baseline else "-"
    points, low, high = (f"{value:+.{digits}f}" for value in (found["points"], *found["interval"]))
    return f"{points} [{low}, {high}]{' *' if found['excludes_zero'] else ''}"


def write_legend(compared: Compared) -> list[str]:
    """What the numbers of the table are, in whole sentences, and the notes."""
    judged = {
        key: "unknown" if value is None else value for key, value in compared["judged"].items()
    }
    said = [
        f"Evaluated on {judged['n']} test images of {judged['data']}, threat {judged['threat']}, "
        f"{judged['ladder']} ladder; mean ± standard deviation over seeds.",
        f"Ranked by {find_number(compared['headline']).described}, shown as robust %.",
    ]
    if any(row["verdict"] == "FAIL" for row in compared["rows"]):
        said.append("at most: the masking verdict is FAIL, so the number is not to be believed.")
    if compared["paired_on"]:
        under = "" if compared["paired_on"] == "robust" else f" under {compared['paired_on']}"
        said.append(
            f"vs {compared['baseline']}: difference of robust accuracy{under} "
            "in percentage points, averaged over seeds, with its 95 % interval from a paired "
            f"bootstrap over the test images ({compared['resamples']:,} resamples); "
            "* marks intervals without 0. The variation between training seeds is not included."
        )
    return [*said, *compared["notes"]]


def to_markdown(compared: Compared) -> str:
    """A heading, the table and a list of notes."""
    shown = make_columns(compared)
    lines = [
        [column.heading for column in shown],
        ["---" if column.left else "---:" for column in shown],
        *_cells(compared),
    ]
    table = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    remarks = [f"- {text}" for text in write_legend(compared)]
    swapped = _write_transfer(compared)
    return "\n".join(
        [f"# Comparison on {compared['judged']['data']}", "", *table, "", *remarks, "", *swapped]
    )


def _write_transfer(compared: Compared) -> list[str]:
    """The transfer matrix in Markdown, where it was measured."""
    if "transfer" not in compared:
        return []
    transfer = compared["transfer"]
    headings = list_headings(transfer)
    rows = [headings, ["---", *("---:" for _ in headings[1:])], *list_transfer_rows(transfer)]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return ["## Transfer", "", explain_transfer(transfer), "", *lines, ""]


def to_latex(compared: Compared) -> str:
    """A booktabs tabular, with the notes as comments."""
    shown = make_columns(compared)
    table = [[column.heading for column in shown], *_cells(compared)]
    lines = [" & ".join(_escape(cell) for cell in line) + r" \\" for line in table]
    kinds = "".join("l" if column.left else "r" for column in shown)
    remarks = [f"% {text}" for text in (r"needs \usepackage{booktabs}", *write_legend(compared))]
    top, bottom = (
        (rf"\begin{{tabular}}{{{kinds}}}", r"\toprule"),
        (r"\bottomrule", r"\end{tabular}"),
    )
    return "\n".join([*remarks, *top, lines[0], r"\midrule", *lines[1:], *bottom, ""])


def _escape(text: str) -> str:
    return "".join(LATEX.get(letter, letter) for letter in text)


def _cells(compared: Compared) -> list[list[str]]:
    return [[column.text(row) for column in make_columns(compared)] for row in compared["rows"]]


def show(compared: Compared, console: Console) -> None:
    """Print the table and the notes.

    Columns that do not fit the width are left out, the least important first.
    """
    from rich.markup import escape
    from rich.table import Table

    texts = {
        column: [column.heading, *(column.text(row) for row in compared["rows"])]
        for column in make_columns(compared, 1)
    }
    texts = {
        column: cells
        for column, cells in texts.items()
        if not column.needed or {*cells[1:]} != {"-"}
    }
    widths = {column: max(map(len, cells)) + GAP for column, cells in texts.items()}
    kept: list[Column] = []
    for column in sorted(texts, key=lambda column: column.needed):
        if (
            not column.needed
            or sum(widths[one] for one in kept) + widths[column] <= console.width + GAP
        ):
            kept.append(column)
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
    shown = [column for column in texts if column in kept]
    for column in shown:
        table.add_column(
            escape(column.heading), justify="left" if column.left else "right", overflow="fold"
        )
    for cells in zip(*(texts[column][1:] for column in shown), strict=True):
        table.add_row(*(escape(cell) for cell in cells))
    console.print(table)
    left = [column.heading for column in texts if column not in kept]
    for text in [
        *write_legend(compared),
        *([f"Not shown, because the terminal is too narrow: {', '.join(left)}."] if left else []),
    ]:
        console.print(escape(text), soft_wrap=not console.is_terminal)
    if "transfer" in compared:
        _show_transfer(compared["transfer"], console)


def _show_transfer(transfer: Mapping[str, Any], console: Console) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="transfer", title_justify="left", box=None, pad_edge=False)
    for place, heading in enumerate(list_headings(transfer)):
        table.add_column(
            escape(heading),
            justify="right" if place else "left",
            overflow="fold",
            no_wrap=place > 0,
        )
    for row in list_transfer_rows(transfer):
        table.add_row(*map(escape, row))
    console.print(table)
    console.print(escape(explain_transfer(transfer)), soft_wrap=not console.is_terminal)
