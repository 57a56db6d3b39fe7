"""A comparison as Markdown, LaTeX, JSON and on the terminal; all of them from the numbers of ``ranking.ranked``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

GAP = 2  # letters between two columns of the terminal
HEADLINES = {
    "robust_acc": "robust accuracy, the share of points that no attack broke",
    "autoattack_acc": "AutoAttack accuracy",
    "pgd20_acc": "PGD-20 accuracy",
}
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
    """A column; ``needed`` says how soon a narrow terminal goes without it: the largest first."""

    heading: str
    needed: int
    text: Callable[[Row], str]
    left: bool = False


def columns(compared: Compared, digits: int = 2) -> list[Column]:
    """All columns, from left to right; digits: of an accuracy in percent, behind the point."""
    return [
        Column("rank", 0, lambda row: str(row["rank"] or "-")),
        Column("method", 0, lambda row: row["method"], left=True),
        Column("seeds", 6, _seeds),
        Column("clean %", 3, lambda row: _spread(row["clean_acc"], digits, 100)),
        Column("PGD-20 %", 5, lambda row: _spread(row["pgd20_acc"], digits, 100)),
        Column("AutoAttack %", 4, lambda row: _spread(row["autoattack_acc"], digits, 100)),
        Column("robust %", 1, lambda row: _spread(row[compared["headline"]], digits, 100)),
        Column("verdict", 0, lambda row: row["verdict"] if row["runs"] else "failed", left=True),
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


def _seeds(row: Row) -> str:
    """How many runs count, and of how many."""
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


def legend(compared: Compared) -> list[str]:
    """What the table's numbers are, and what must be said about them: whole sentences."""
    judged = {
        key: "unknown" if value is None else value for key, value in compared["judged"].items()
    }
    said = [
        f"Judged on {judged['data']}, test set: {judged['n']} images, threat {judged['threat']}, {judged['ladder']} ladder; "
        "mean ± standard deviation over seeds.",
        f"Ranked by {HEADLINES[compared['headline']]}, shown as robust %.",
    ]
    if compared["paired_on"]:
        under = "" if compared["paired_on"] == "robust" else f" under {compared['paired_on']}"
        said.append(
            f"vs {compared['baseline']}: difference of robust accuracy{under} in points, "
            f"averaged over seeds, with the 95 % interval of {compared['resamples']:,} paired resamples of the test points; "
            "* excludes 0. It does not cover the choice of the training seeds."
        )
    return [*said, *compared["notes"]]


def markdown(compared: Compared) -> str:
    """A heading, the table, and a list of remarks."""
    shown = columns(compared)
    lines = [
        [column.heading for column in shown],
        ["---" if column.left else "---:" for column in shown],
        *_cells(compared),
    ]
    table = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    remarks = [f"- {text}" for text in legend(compared)]
    return "\n".join(
        [f"# Comparison on {compared['judged']['data']}", "", *table, "", *remarks, ""]
    )


def latex(compared: Compared) -> str:
    """A booktabs tabular, with the remarks as comments."""
    shown = columns(compared)
    table = [[column.heading for column in shown], *_cells(compared)]
    lines = [" & ".join(_escaped(cell) for cell in line) + r" \\" for line in table]
    kinds = "".join("l" if column.left else "r" for column in shown)
    remarks = [f"% {text}" for text in (r"needs \usepackage{booktabs}", *legend(compared))]
    top, bottom = (
        (rf"\begin{{tabular}}{{{kinds}}}", r"\toprule"),
        (r"\bottomrule", r"\end{tabular}"),
    )
    return "\n".join([*remarks, *top, lines[0], r"\midrule", *lines[1:], *bottom, ""])


def _escaped(text: str) -> str:
    return "".join(LATEX.get(letter, letter) for letter in text)


def _cells(compared: Compared) -> list[list[str]]:
    return [[column.text(row) for column in columns(compared)] for row in compared["rows"]]


def show(compared: Compared, console: Console) -> None:
    """The table and the remarks; columns that the width has no room for are left out, the least important first."""
    from rich.markup import escape
    from rich.table import Table

    texts = {
        column: [column.heading, *(column.text(row) for row in compared["rows"])]
        for column in columns(compared, 1)
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
        *legend(compared),
        *([f"Not shown here for want of room: {', '.join(left)}."] if left else []),
    ]:
        console.print(escape(text), soft_wrap=not console.is_terminal)
