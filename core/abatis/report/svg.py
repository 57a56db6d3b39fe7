"""Plots as inline SVG, for a page that may run no script and load nothing.

Shapes carry classes that the page's CSS variables colour, so one plot fits both themes. Series differ in dashes, markers or
filling as well as in colour, and ``<desc>`` says what a plot shows. Values that are not finite are left out; where nothing
is left the plot says "not measured".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from math import ceil, floor, log10

from markupsafe import Markup

WIDTH = (
    400.0  # in user units; small, so that the text can still be read when a phone shrinks the plot
)
DEPTH = 150.0  # height of the area between the axes
LETTER = 7.0  # width of a letter, roughly
COLOURS = 6
DASHES = ("none", "6 3", "2 2", "8 3 2 3", "10 4", "1 3")
MARKERS = (
    "M-3 0a3 3 0 1 0 6 0a3 3 0 1 0-6 0z",
    "M-3-3h6v6h-6z",
    "M0-4l4 7h-8z",
    "M0-4l4 4-4 4-4-4z",
)
FILLS = (0.3, 1.0, 0.6)
MARKERS_A_CURVE = 12  # at most; a curve of more points has one at every second, third, ...
LARGEST = 1e300
Point = tuple[float, float]
Values = Mapping[str, Sequence[float]]
Mark = tuple[float, str]
"""A place on the x axis and what is there."""


def lines(
    series: Mapping[str, Sequence[Point]],
    *,
    x_label: str,
    y_label: str,
    title: str,
    percent: bool = False,
    mark: Mark | None = None,
) -> Markup:
    """Curves through (x, y) points, in their order; a point that is not finite leaves a gap. ``percent``: y is a share."""
    pieces = {
        name: [
            list(run)
            for finite, run in groupby(points, lambda point: all(map(_finite, point)))
            if finite
        ]
        for name, points in series.items()
    }
    drawn = {
        name: [point for piece in found for point in piece]
        for name, found in pieces.items()
        if found
    }
    if not drawn:
        return _nothing(title)
    xs, ys = zip(*(point for points in drawn.values() for point in points), strict=True)
    legend, top = _legend(
        drawn, lambda place: _path("line", "M0-4h22", place) + _marker(place, 11, -4)
    )
    x, y = (
        _scale(xs, 46, WIDTH - 12),
        _scale(_with_zero(ys, percent), top + DEPTH, top, outward=True, percent=percent),
    )
    body = [legend, _axes(x, y, x_label, y_label, percent)]
    for place, (name, points) in enumerate(drawn.items()):
        for piece in pieces[name]:
            body.append(
                _path("line", "M" + "L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in piece), place)
            )
            body += [
                _marker(place, x(a), y(b)) for a, b in piece[:: ceil(len(points) / MARKERS_A_CURVE)]
            ]
    ends = {
        name: [f"{_value(b, percent)} at {a:.4g}" for a, b in (points[0], points[-1])]
        for name, points in drawn.items()
    }
    told = "; ".join(f"{name}: {first} to {last}" for name, (first, last) in ends.items())
    return _svg(
        top + DEPTH + 40, title, f"{y_label} by {x_label}. {told}", [*body, _marked(mark, x, y)]
    )


def histogram(
    edges: Sequence[float],
    counts: Values,
    *,
    x_label: str,
    y_label: str = "points",
    title: str,
    mark: Mark | None = None,
) -> Markup:
    """Outlines of counts over bins, laid over each other; there is one edge more than counts."""
    pairs = list(pairwise(edges))
    bins = {
        name: [
            (*pair, count)
            for pair, count in zip(pairs, row, strict=False)
            if all(map(_finite, (*pair, count)))
        ]
        for name, row in counts.items()
    }
    bins = {name: found for name, found in bins.items() if found}
    if not bins:
        return _nothing(title)
    every = [one for found in bins.values() for one in found]
    legend, top = _legend(bins, lambda place: _path("area", "M0 0v-9h22v9z", place))
    x = _scale([edge for low, high, _ in every for edge in (low, high)], 46, WIDTH - 12)
    y = _scale([0.0, *(count for *_, count in every)], top + DEPTH, top, outward=True)
    body = [legend, _axes(x, y, x_label, y_label, False)]
    for place, found in enumerate(bins.values()):
        steps = "".join(f"V{y(count):.1f}H{x(high):.1f}" for _, high, count in found)
        body.append(_path("area", f"M{x(found[0][0]):.1f} {y(0):.1f}{steps}V{y(0):.1f}z", place))
    peaks = {name: max(found, key=lambda one: one[2]) for name, found in bins.items()}
    told = "; ".join(
        f"{name}: most {y_label} ({peak[2]:g}) from {peak[0]:.3g} to {peak[1]:.3g}"
        for name, peak in peaks.items()
    )
    return _svg(
        top + DEPTH + 40, title, f"{y_label} by {x_label}. {told}", [*body, _marked(mark, x, y)]
    )


def bars(
    labels: Sequence[str], series: Values, *, x_label: str, title: str, percent: bool = False
) -> Markup:
    """Horizontal bars from zero: a group a label, in it the series in the order of the legend. ``percent``: shares."""
    found = [
        (number, place, value)
        for place, row in enumerate(series.values())
        for number, value in enumerate(row[: len(labels)])
        if _finite(value)
    ]
    if not found:
        return _nothing(title)
    legend, top = _legend(series, lambda place: _bar(place, 0, -9, 22))
    pitch = 13 * len(series) + 6
    x, frame = _rows(
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
            _bar(place, min(x(0), x(value)), y, abs(x(value) - x(0))),
            _text(WIDTH, y + 9, _value(value, percent), "end"),
        ]
    names = list(series)
    told = "; ".join(
        f"{labels[number]}, {names[place]}: {_value(value, percent)}"
        for number, place, value in sorted(found)
    )
    return _svg(top + len(labels) * pitch + 18, title, f"{x_label}. {told}", body)


def points_with_error(
    rows: Sequence[tuple[str, float, float]], *, x_label: str, title: str, percent: bool = False
) -> Markup:
    """A row each (label, mean, deviation): a point, and a whisker of one deviation to each side where that is finite."""
    found = [
        (label, mean, deviation if _finite(deviation) else 0.0)
        for label, mean, deviation in rows
        if _finite(mean)
    ]
    if not found:
        return _nothing(title)
    reach = [mean + side * deviation for _, mean, deviation in found for side in (-1, 1)]
    x, frame = _rows([label for label, *_ in found], 4, 24, reach, x_label, percent)
    body = [frame]
    for number, (_, mean, deviation) in enumerate(found):
        y = 24 * number + 16
        left, right = x(mean - deviation), x(mean + deviation)
        if deviation:
            body.append(_path("line", f"M{left:.1f} {y - 4}v8m0-4H{right:.1f}m0-4v8"))
        body += [_marker(0, x(mean), y), _text(WIDTH, y + 4, _value(mean, percent), "end")]
    told = "; ".join(
        f"{label}: {_value(mean, percent)} ± {_value(spread, percent)}"
        for label, mean, spread in found
    )
    return _svg(24 * len(found) + 42, title, f"{x_label}. {told}", body)


@dataclass(frozen=True)
class _Scale:
    """Values from low to high on the way from start to end, in user units."""

    low: float
    high: float
    ticks: tuple[float, ...]
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def names(self, percent: bool) -> list[tuple[float, str]]:
        """Of the ticks: where they are, and what they say."""
        return [
            (self(tick), f"{100 * tick:.6g} %" if percent else f"{tick:.6g}") for tick in self.ticks
        ]


def _scale(
    values: Sequence[float],
    start: float,
    end: float,
    *,
    outward: bool = False,
    percent: bool = False,
    count: int = 5,
) -> _Scale:
    """A scale with about ``count`` steps of 1, 2 or 5; ``outward``: it ends on ticks. Whole values get no fractions."""
    low, high = min(values), max(values)
    largest = max(abs(low), abs(high))
    if high - low <= 1e-9 * largest or largest < 1 / LARGEST:
        pad = largest / 2 if largest > 1 / LARGEST else 1.0
        low, high = low - pad, high + pad
    rough = (high - low) / count
    power = 10.0 ** floor(log10(rough))
    step = next(
        factor * power for factor in (1, 2, 5, 10, 20) if factor * power >= rough * (1 - 1e-9)
    )
    if not percent and all(value == floor(value) for value in values):
        step = max(step, 1.0)
    if outward:
        low, high = floor(low / step + 1e-9) * step, ceil(high / step - 1e-9) * step
    numbers = range(ceil(low / step - 1e-9), floor(high / step + 1e-9) + 1)
    return _Scale(
        low, high, tuple(float(f"{number * step:.12g}") for number in numbers), start, end
    )


def _with_zero(values: Sequence[float], percent: bool) -> list[float]:
    """The values, and the ends that an honest axis has: 0 and 1 for shares, 0 where it is near."""
    near = 0 <= min(values) < max(values) / 2
    return [*values, *([0.0, 1.0] if percent else [0.0] if near else [])]


def _finite(value: float) -> bool:
    return abs(value) < LARGEST


def _value(value: float, percent: bool) -> str:
    return f"{100 * value:.1f} %" if percent else f"{value:.4g}"


def _svg(height: float, title: str, desc: str, body: Iterable[Markup]) -> Markup:
    frame = Markup(
        '<svg class="plot" viewBox="0 0 {:g} {:g}" role="img"><title>{}</title><desc>{}</desc>{}</svg>'
    )
    return frame.format(WIDTH, height, title, desc, Markup("").join(body))


def _nothing(title: str) -> Markup:
    return _svg(60, title, "not measured", [_text(WIDTH / 2, 34, "not measured", "middle")])


def _text(x: float, y: float, text: str, anchor: str = "start", room: float = WIDTH) -> Markup:
    """A line of text, cut and pressed where it is too long for its room."""
    cut = len(text) * LETTER > room
    pressed = (
        Markup(' textLength="{:.0f}" lengthAdjust="spacingAndGlyphs"').format(room) if cut else ""
    )
    shown = text[: int(room / LETTER) - 1] + "…" if cut else text
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}"{}>{}</text>').format(
        x, y, anchor, pressed, shown
    )


def _path(kind: str, d: str, place: int = 0) -> Markup:
    path = Markup('<path class="{} s{}" d="{}" stroke-dasharray="{}"/>')
    return path.format(kind, place % COLOURS, d, DASHES[place % COLOURS])


def _bar(place: int, x: float, y: float, width: float) -> Markup:
    bar = Markup(
        '<rect class="bar s{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="10" fill-opacity="{}"/>'
    )
    return bar.format(place % COLOURS, x, y, width, FILLS[place % len(FILLS)])


def _marker(place: int, x: float, y: float) -> Markup:
    marker = Markup('<path class="marker s{}" transform="translate({:.1f} {:.1f})" d="{}"/>')
    return marker.format(place % COLOURS, x, y, MARKERS[place % len(MARKERS)])


def _legend(names: Iterable[str], sample: Callable[[int], Markup]) -> tuple[Markup, float]:
    """The key to the series, in as many rows as it needs, and where the area below it and the y label begins."""
    x, y, body = 0.0, 12.0, []
    for place, name in enumerate(names):
        width = 40 + LETTER * len(name)
        if x and x + width > WIDTH:
            x, y = 0.0, y + 16
        body.append(
            Markup('<g transform="translate({:.1f} {:.1f})">{}</g>').format(x + 1, y, sample(place))
        )
        body.append(_text(x + 28, y, name, room=WIDTH - 28))
        x += width
    return Markup("").join(body), y + 40


def _axes(x: _Scale, y: _Scale, x_label: str, y_label: str, percent: bool) -> Markup:
    body = [_text(0, y.end - 18, y_label)]
    for at, name in y.names(percent):
        body += [
            _path("grid", f"M{x.start:.1f} {at:.1f}H{x.end:.1f}"),
            _text(x.start - 6, at + 4, name, "end"),
        ]
    body += [_text(at, y.start + 16, name, "middle") for at, name in x.names(False)]
    body.append(_path("axis", f"M{x.start:.1f} {y.start:.1f}H{x.end:.1f}"))
    return Markup("").join(
        [*body, _text((x.start + x.end) / 2, y.start + 34, x_label, "middle", x.end - x.start)]
    )


def _marked(mark: Mark | None, x: _Scale, y: _Scale) -> Markup:
    """A vertical line with its name beside it, where the place is on the axis."""
    if mark is None or not x.low <= mark[0] <= x.high:
        return Markup("")
    at, right = x(mark[0]), x(mark[0]) < (x.start + x.end) / 2
    name = _text(
        at + 4 if right else at - 4, y.end - 5, mark[1], "start" if right else "end", WIDTH / 2 - 40
    )
    return _path("mark", f"M{at:.1f} {y.end - 14:.1f}V{y.start:.1f}") + name


def _rows(
    labels: Sequence[str],
    top: float,
    pitch: float,
    values: Sequence[float],
    x_label: str,
    percent: bool,
) -> tuple[_Scale, Markup]:
    """Scale and frame of a plot with one row a label; at the right there is room for a number."""
    left = min(10 + LETTER * max(map(len, labels)), 150.0)
    bottom = top + pitch * len(labels)
    x = _scale(values, left, WIDTH - 56, outward=True, percent=percent, count=4)
    body = [
        _text(left - 6, top + pitch * (place + 0.5) + 4, name, "end", left - 6)
        for place, name in enumerate(labels)
    ]
    for at, name in x.names(percent):
        body += [
            _path("grid", f"M{at:.1f} {top:.1f}V{bottom:.1f}"),
            _text(at, bottom + 15, name, "middle"),
        ]
    return x, Markup("").join(
        [*body, _text((x.start + x.end) / 2, bottom + 32, x_label, "middle", x.end - x.start)]
    )
