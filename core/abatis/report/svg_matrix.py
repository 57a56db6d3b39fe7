"""A matrix of shares as inline SVG: the darker a cell, the larger its number."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from abatis.report.svg import LETTER, WIDTH, draw_text, is_finite, make_svg

HEIGHT, CELL = 34, 14  # of a row, and of the coloured part of a cell
TOP = 24


def matrix(
    rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float]], *, title: str
) -> Markup:
    """Draw a cell for every value, with its percentage below.

    Args:
        rows: labels.
        columns: short labels.
        values: shares in [0, 1], by row; one that is not finite is left empty.
        title: what the plot shows.
    """
    left = min(12 + LETTER * max(map(len, rows)), 150.0)
    width = (WIDTH - left) / len(columns)
    body = [
        draw_text(left + width * (place + 0.5), TOP - 8, name, "middle", width)
        for place, name in enumerate(columns)
    ]
    said = []
    for number, (name, row) in enumerate(zip(rows, values, strict=True)):
        y = TOP + HEIGHT * number
        body.append(draw_text(left - 8, y + 12, name, "end", left - 8))
        for place, value in enumerate(row):
            if not is_finite(value):
                continue
            x = left + width * place
            cell = Markup(
                '<rect class="bar s0" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{}" '
                'fill-opacity="{:.2f}"/>'
            )
            body.append(cell.format(x + 1, y, width - 2, CELL, value))
            body.append(draw_text(x + width / 2, y + CELL + 12, f"{100 * value:.1f}", "middle"))
            said.append(f"{name}, {columns[place]}: {100 * value:.1f} %")
    return make_svg(TOP + HEIGHT * len(rows), title, "; ".join(said), body)
