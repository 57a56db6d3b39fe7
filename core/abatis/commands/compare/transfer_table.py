"""The transfer matrix of a comparison: as rows of texts, a table and a plot."""

from __future__ import annotations

from collections.abc import Mapping
from math import nan
from typing import Any

from abatis.report.html import Block, Figure, Table
from abatis.report.svg_matrix import matrix
from abatis.report.words import NO_BREAK_SPACE, format_percent

CLEAN = "none (clean images)"


def list_transfer_rows(transfer: Mapping[str, Any], space: str = " ") -> list[list[str]]:
    """Return a row for clean images, and one for the images that were made for each network.

    Args:
        transfer: what :mod:`abatis.evaluate.transfer` measured.
        space: between a number and its percent sign.
    """
    names, n = transfer["networks"], transfer["n"]
    counts = zip([CLEAN, *_number(names)], [transfer["clean"], *transfer["right"]], strict=True)
    return [
        [
            name,
            *(
                format_percent(None if row is None else row[place] / n, space)
                for place in range(len(names))
            ),
        ]
        for name, row in counts
    ]


def list_headings(transfer: Mapping[str, Any]) -> list[str]:
    """Return the heading of each column: networks have the numbers of their rows."""
    return [
        "images made for",
        *(f"[{number}]" for number in range(1, 1 + len(transfer["networks"]))),
    ]


def explain_transfer(transfer: Mapping[str, Any]) -> str:
    """Return what the matrix shows, in sentences."""
    blind = [
        name
        for name, row in zip(transfer["networks"], transfer["right"], strict=True)
        if row is None
    ]
    text = (
        f"Accuracy of each network (column) on images made for another (row), threat "
        f"{transfer['threat']}, {transfer['n']} images, by {transfer['attack']}. The diagonal is "
        "the attack on the network itself; a number below it in the same column means that another "
        "network's images are stronger, a sign of gradient masking."
    )
    return text + (f" No gradient: {', '.join(blind)}." if blind else "")


def show_transfer(transfer: Mapping[str, Any]) -> list[Block]:
    """Return the matrix as a table and a plot."""
    headings, n = list_headings(transfer), transfer["n"]
    rows = list_transfer_rows(transfer, NO_BREAK_SPACE)
    table = Table(headings, rows, explain_transfer(transfer), frozenset(range(1, len(headings))))
    shares = [
        [nan] * len(transfer["networks"]) if row is None else [count / n for count in row]
        for row in [transfer["clean"], *transfer["right"]]
    ]
    labels = [row[0] for row in rows]
    plot = matrix(labels, headings[1:], shares, title="Accuracy on images made for others")
    return [table, Figure(plot, "Accuracy in percent; rows and columns as in the table.")]


def _number(names: list[str]) -> list[str]:
    return [f"[{number}] {name}" for number, name in enumerate(names, 1)]
