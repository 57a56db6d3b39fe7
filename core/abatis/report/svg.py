"""Plots as inline SVG, for a page that may run no script and load nothing.

Shapes have classes that the page's CSS variables colour, so one plot fits both themes. Series
differ in dashes, markers or filling as well as in colour, and ``<desc>`` says what a plot shows.
Values that are not finite are left out; where nothing is left, the plot says "not measured".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby, pairwise
from math import ceil

from markupsafe import Markup

from abatis.report.scale import Scale, add_zero, make_scale
from abatis.report.words import LARGEST

WIDTH = 400.0  # in user units; small, so that text stays readable where a phone shrinks the plot
DEPTH = 150.0  # height of the area between the axes
LETTER = 7.0  # approximate width of a letter
COLOURS = 6
DASHES = ("none", "6 3", "2 2", "8 3 2 3", "10 4", "1 3")
MARKERS = (
    "M-3 0a3 3 0 1 0 6 0a3 3 0 1 0-6 0z",
    "M-3-3h6v6h-6z",
    "M0-4l4 7h-8z",
    "M0-4l4 4-4 4-4-4z",
)
FILLS = (0.3, 1.0, 0.6)
MARKERS_PER_CURVE = 12  # at most; a curve with more points has one at every second, third, ...
Point = tuple[float, float]
Values = Mapping[str, Sequence[float]]
Mark = tuple[float, str]
"""A place on the x axis and its name."""


def lines(
    series: Mapping[str, Sequence[Point]],
    *,
    x_label: str,
    y_label: str,
    title: str,
    percent: bool = False,
    mark: Mark | None = None,
) -> Markup:
    """Draw curves through (x, y) points.

    Args:
        series: the points of each curve, in their order; one that is not finite leaves a gap.
        x_label: label of the x axis.
        y_label: label of the y axis.
        title: what the plot shows.
        percent: is y a fraction, shown as a percentage?
        mark: a vertical line.
    """
    pieces = {name: _cut_at_gaps(points) for name, points in series.items()}
    drawn = {
        name: [point for piece in found for point in piece]
        for name, found in pieces.items()
        if found
    }
    if not drawn:
        return _draw_nothing(title)
    xs, ys = zip(*(point for points in drawn.values() for point in points), strict=True)
    legend, top = _draw_legend(
        drawn, lambda place: _draw_path("line", "M0-4h22", place) + _draw_marker(place, 11, -4)
    )
    x, y = (
        make_scale(xs, 46, WIDTH - 12),
        make_scale(add_zero(ys, percent), top + DEPTH, top, outward=True, percent=percent),
    )
    body = [legend, _draw_axes(x, y, x_label, y_label, percent)]
    for place, (name, points) in enumerate(drawn.items()):
        every = ceil(len(points) / MARKERS_PER_CURVE)
        for piece in pieces[name]:
            way = "L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in piece)
            body.append(_draw_path("line", f"M{way}", place))
            body += [_draw_marker(place, x(a), y(b)) for a, b in piece[::every]]
    ends = {
        name: [f"{_format_value(b, percent)} at {a:.4g}" for a, b in (points[0], points[-1])]
        for name, points in drawn.items()
    }
    summary = "; ".join(f"{name}: {first} to {last}" for name, (first, last) in ends.items())
    return make_svg(
        top + DEPTH + 40,
        title,
        f"{y_label} by {x_label}. {summary}",
        [*body, _draw_mark(mark, x, y)],
    )


def _cut_at_gaps(points: Sequence[Point]) -> list[list[Point]]:
    """The stretches of a curve between points that are not finite."""
    runs = groupby(points, lambda point: all(map(is_finite, point)))
    return [list(run) for finite, run in runs if finite]


def histogram(
    edges: Sequence[float],
    counts: Values,
    *,
    x_label: str,
    y_label: str = "points",
    title: str,
    mark: Mark | None = None,
) -> Markup:
    """Draw the outlines of histograms over the same bins; there is one edge more than counts."""
    pairs = list(pairwise(edges))
    bins = {
        name: [
            (*pair, count)
            for pair, count in zip(pairs, row, strict=False)
            if all(map(is_finite, (*pair, count)))
        ]
        for name, row in counts.items()
    }
    bins = {name: found for name, found in bins.items() if found}
    if not bins:
        return _draw_nothing(title)
    every = [one for found in bins.values() for one in found]
    legend, top = _draw_legend(bins, lambda place: _draw_path("area", "M0 0v-9h22v9z", place))
    x = make_scale([edge for low, high, _ in every for edge in (low, high)], 46, WIDTH - 12)
    y = make_scale([0.0, *(count for *_, count in every)], top + DEPTH, top, outward=True)
    body = [legend, _draw_axes(x, y, x_label, y_label, False)]
    for place, found in enumerate(bins.values()):
        steps = "".join(f"V{y(count):.1f}H{x(high):.1f}" for _, high, count in found)
        body.append(
            _draw_path("area", f"M{x(found[0][0]):.1f} {y(0):.1f}{steps}V{y(0):.1f}z", place)
        )
    peaks = {name: max(found, key=lambda one: one[2]) for name, found in bins.items()}
    summary = "; ".join(
        f"{name}: most {y_label} ({peak[2]:g}) from {peak[0]:.3g} to {peak[1]:.3g}"
        for name, peak in peaks.items()
    )
    return make_svg(
        top + DEPTH + 40,
        title,
        f"{y_label} by {x_label}. {summary}",
        [*body, _draw_mark(mark, x, y)],
    )


def bars(
    labels: Sequence[str], series: Values, *, x_label: str, title: str, percent: bool = False
) -> Markup:
    """Draw horizontal bars from zero, a group for each label.

    Args:
        labels: the names of the groups.
        series: the values of each series, one for each label.
        x_label: label of the axis.
        title: what the plot shows.
        percent: are the values fractions, shown as percentages?
    """
    found = [
        (number, place, value)
        for place, row in enumerate(series.values())
        for number, value in enumerate(row[: len(labels)])
        if is_finite(value)
    ]
    if not found:
        return _draw_nothing(title)
    legend, top = _draw_legend(series, lambda place: _draw_bar(place, 0, -9, 22))
    pitch = 13 * len(series) + 6
    x, frame = _draw_rows(
        labels,
        top - 20,
        pitch,
        [0.0, float(percent), *(value for *_, value in found)],
        x_label,
        percent,
    )
    body = [legend, frame]
    for number, place, value in found:
        y = top - 20 + number * pitch + 4 + 13 * place
        body += [
            _draw_bar(place, min(x(0), x(value)), y, abs(x(value) - x(0))),
            draw_text(WIDTH, y + 9, _format_value(value, percent), "end"),
        ]
    names = list(series)
    summary = "; ".join(
        f"{labels[number]}, {names[place]}: {_format_value(value, percent)}"
        for number, place, value in sorted(found)
    )
    return make_svg(top + len(labels) * pitch + 18, title, f"{x_label}. {summary}", body)


def scatter(points: Sequence[Point], *, x_label: str, y_label: str, title: str) -> Markup:
    """Draw points on two axes of one scale, with the line on which both are equal.

    Args:
        points: (x, y) each.
        x_label: label of the x axis.
        y_label: label of the y axis.
        title: what the plot shows.
    """
    found = [point for point in points if all(map(is_finite, point))]
    if not found:
        return _draw_nothing(title)
    both = [value for point in found for value in point]
    top, side = 32.0, WIDTH - 58
    x, y = (
        make_scale(both, 46, WIDTH - 12, outward=True),
        make_scale(both, top + side, top, outward=True),
    )
    low, high = max(x.low, y.low), min(x.high, y.high)
    equal = _draw_path("mark", f"M{x(low):.1f} {y(low):.1f}L{x(high):.1f} {y(high):.1f}")
    dots = "".join(f"M{x(a) - 2:.1f} {y(b):.1f}a2 2 0 1 0 4 0a2 2 0 1 0-4 0" for a, b in found)
    drawn = Markup('<path class="dots" d="{}"/>').format(dots)
    above = sum(b > a for a, b in found)
    return make_svg(
        top + side + 40,
        title,
        f"{y_label} by {x_label}. {above} of {len(found)} points lie above the line of equality.",
        [_draw_axes(x, y, x_label, y_label, False), equal, drawn],
    )


def points_with_error(
    rows: Sequence[tuple[str, float, float]], *, x_label: str, title: str, percent: bool = False
) -> Markup:
    """Draw a point with an error bar of one standard deviation to each side, in a row for each.

    Args:
        rows: (label, mean, standard deviation); without a bar where the last is not finite.
        x_label: label of the axis.
        title: what the plot shows.
        percent: are the values fractions, shown as percentages?
    """
    found = [
        (label, mean, deviation if is_finite(deviation) else 0.0)
        for label, mean, deviation in rows
        if is_finite(mean)
    ]
    if not found:
        return _draw_nothing(title)
    reach = [mean + side * deviation for _, mean, deviation in found for side in (-1, 1)]
    x, frame = _draw_rows([label for label, *_ in found], 4, 24, reach, x_label, percent)
    body = [frame]
    for number, (_, mean, deviation) in enumerate(found):
        y = 24 * number + 16
        left, right = x(mean - deviation), x(mean + deviation)
        if deviation:
            body.append(_draw_path("line", f"M{left:.1f} {y - 4}v8m0-4H{right:.1f}m0-4v8"))
        body += [
            _draw_marker(0, x(mean), y),
            draw_text(WIDTH, y + 4, _format_value(mean, percent), "end"),
        ]
    summary = "; ".join(
        f"{label}: {_format_value(mean, percent)} ± {_format_value(spread, percent)}"
        for label, mean, spread in found
    )
    return make_svg(24 * len(found) + 42, title, f"{x_label}. {summary}", body)


def is_finite(value: float) -> bool:
    """Is it a number that can be drawn?"""
    return abs(value) < LARGEST


def _format_value(value: float, percent: bool) -> str:
    return f"{100 * value:.1f} %" if percent else f"{value:.4g}"


def make_svg(height: float, title: str, desc: str, body: Iterable[Markup]) -> Markup:
    """A whole plot; its description says in words what it shows."""
    frame = Markup(
        '<svg class="plot" viewBox="0 0 {:g} {:g}" role="img">'
        "<title>{}</title><desc>{}</desc>{}</svg>"
    )
    return frame.format(WIDTH, height, title, desc, Markup("").join(body))


def _draw_nothing(title: str) -> Markup:
    return make_svg(60, title, "not measured", [draw_text(WIDTH / 2, 34, "not measured", "middle")])


def draw_text(x: float, y: float, text: str, anchor: str = "start", room: float = WIDTH) -> Markup:
    """A line of text, cut and condensed where it is too long for its room."""
    cut = len(text) * LETTER > room
    pressed = (
        Markup(' textLength="{:.0f}" lengthAdjust="spacingAndGlyphs"').format(room) if cut else ""
    )
    shown = text[: int(room / LETTER) - 1] + "…" if cut else text
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}"{}>{}</text>').format(
        x, y, anchor, pressed, shown
    )


def _draw_path(kind: str, d: str, place: int = 0) -> Markup:
    path = Markup('<path class="{} s{}" d="{}" stroke-dasharray="{}"/>')
    return path.format(kind, place % COLOURS, d, DASHES[place % COLOURS])


def _draw_bar(place: int, x: float, y: float, width: float) -> Markup:
    bar = Markup(
        '<rect class="bar s{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="10" fill-opacity="{}"/>'
    )
    return bar.format(place % COLOURS, x, y, width, FILLS[place % len(FILLS)])


def _draw_marker(place: int, x: float, y: float) -> Markup:
    marker = Markup('<path class="marker s{}" transform="translate({:.1f} {:.1f})" d="{}"/>')
    return marker.format(place % COLOURS, x, y, MARKERS[place % len(MARKERS)])


def _draw_legend(names: Iterable[str], sample: Callable[[int], Markup]) -> tuple[Markup, float]:
    """The legend in as many rows as it needs, and where the area below it begins."""
    x, y, body = 0.0, 12.0, []
    for place, name in enumerate(names):
        width = 40 + LETTER * len(name)
        if x and x + width > WIDTH:
            x, y = 0.0, y + 16
        body.append(
            Markup('<g transform="translate({:.1f} {:.1f})">{}</g>').format(x + 1, y, sample(place))
        )
        body.append(draw_text(x + 28, y, name, room=WIDTH - 28))
        x += width
    return Markup("").join(body), y + 40


def _draw_axes(x: Scale, y: Scale, x_label: str, y_label: str, percent: bool) -> Markup:
    body = [draw_text(0, y.end - 18, y_label)]
    for at, name in y.names(percent):
        body += [
            _draw_path("grid", f"M{x.start:.1f} {at:.1f}H{x.end:.1f}"),
            draw_text(x.start - 6, at + 4, name, "end"),
        ]
    body += [draw_text(at, y.start + 16, name, "middle") for at, name in x.names(False)]
    body.append(_draw_path("axis", f"M{x.start:.1f} {y.start:.1f}H{x.end:.1f}"))
    return Markup("").join(
        [*body, draw_text((x.start + x.end) / 2, y.start + 34, x_label, "middle", x.end - x.start)]
    )


def _draw_mark(mark: Mark | None, x: Scale, y: Scale) -> Markup:
    """A vertical line with its name beside it; nothing where the place is outside of the axis."""
    if mark is None or not x.low <= mark[0] <= x.high:
        return Markup("")
    at, right = x(mark[0]), x(mark[0]) < (x.start + x.end) / 2
    name = draw_text(
        at + 4 if right else at - 4, y.end - 5, mark[1], "start" if right else "end", WIDTH / 2 - 40
    )
    return _draw_path("mark", f"M{at:.1f} {y.end - 14:.1f}V{y.start:.1f}") + name


def _draw_rows(
    labels: Sequence[str],
    top: float,
    pitch: float,
    values: Sequence[float],
    x_label: str,
    percent: bool,
) -> tuple[Scale, Markup]:
    """Scale and frame of a plot with one row per label; on the right is room for a number."""
    left = min(10 + LETTER * max(map(len, labels)), 150.0)
    bottom = top + pitch * len(labels)
    x = make_scale(values, left, WIDTH - 56, outward=True, percent=percent, count=4)
    body = [
        draw_text(left - 6, top + pitch * (place + 0.5) + 4, name, "end", left - 6)
        for place, name in enumerate(labels)
    ]
    for at, name in x.names(percent):
        body += [
            _draw_path("grid", f"M{at:.1f} {top:.1f}V{bottom:.1f}"),
            draw_text(at, bottom + 15, name, "middle"),
        ]
    return x, Markup("").join(
        [*body, draw_text((x.start + x.end) / 2, bottom + 32, x_label, "middle", x.end - x.start)]
    )
