"""Plots: where the marks lie, what is said of them, and that no number breaks them."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import pytest
from markupsafe import Markup

from abatis.report.svg import bars, histogram, lines, points_with_error

NAN, INF = math.nan, math.inf
PLOTS: dict[str, Callable[..., Markup]] = {
    "lines": lambda values, name="a": lines(
        {name: list(enumerate(values)), "b": [(v, v) for v in values]},
        x_label=name,
        y_label=name,
        title=name,
        mark=(1, name),
    ),
    "histogram": lambda values, name="a": histogram(
        sorted(values), {name: [*map(abs, values)]}, x_label=name, title=name
    ),
    "bars": lambda values, name="a": bars(
        [name] * len(values), {name: values, "b": values}, x_label=name, title=name
    ),
    "points": lambda values, name="a": points_with_error(
        [(name, v, v) for v in values], x_label=name, title=name
    ),
}


def drawn(svg: Markup) -> ElementTree.Element:
    """The plot, parsed; it would not parse were anything in it not escaped."""
    return ElementTree.fromstring(str(svg))


def shapes(svg: Markup, kind: str) -> list[Any]:
    """Those outside the legend, in the order in which they are drawn."""
    return [shape for shape in drawn(svg) if (shape.get("class") or "").startswith(f"{kind} ")]


def texts(svg: Markup) -> list[str]:
    return [text.text or "" for text in drawn(svg).iter("text")]


def test_a_line_goes_through_its_points():
    svg = lines(
        {"a": [(0, 0.0), (10, 1.0), (5, 0.5)]}, x_label="x", y_label="y", title="t", percent=True
    )
    (curve,) = shapes(svg, "line")
    assert curve.get("d") == "M46.0 202.0L388.0 52.0L217.0 127.0"
    assert len(shapes(svg, "marker")) == 3


def test_ticks_are_round_and_cover_the_axis():
    svg = lines(
        {"a": [(0, 0.2), (10, 0.7)]}, x_label="epoch", y_label="accuracy", title="t", percent=True
    )
    found = texts(svg)
    assert [text for text in found if text.endswith("%")] == [
        "0 %",
        "20 %",
        "40 %",
        "60 %",
        "80 %",
        "100 %",
    ]
    assert [text for text in found if text.isdigit()] == ["0", "2", "4", "6", "8", "10"]


def test_epochs_have_no_fractions():
    svg = lines({"a": [(1, 0.5), (2, 0.25)]}, x_label="epoch", y_label="loss", title="t")
    assert "1.5" not in texts(svg)
    assert {"1", "2"} <= set(texts(svg))


def test_what_is_not_finite_is_a_gap():
    svg = lines(
        {"a": [(1, 1.0), (2, 2.0), (3, NAN), (4, 4.0), (5, 5.0)]},
        x_label="x",
        y_label="y",
        title="t",
    )
    assert [curve.get("d").count("L") for curve in shapes(svg, "line")] == [1, 1]


def test_a_mark_stands_at_its_place_and_only_on_the_axis():
    def marks(at: float) -> list[Any]:
        return shapes(
            lines({"a": [(0, 1), (10, 2)]}, x_label="x", y_label="y", title="t", mark=(at, "here")),
            "mark",
        )

    assert [mark.get("d").split(".")[0] for mark in marks(5)] == ["M217"]
    assert marks(11) == marks(NAN) == []


def test_bins_are_as_high_as_their_counts():
    svg = histogram([0, 1, 2], {"clean": [1, 2]}, x_label="margin", title="t")
    (area,) = shapes(svg, "area")
    assert area.get("d") == "M46.0 202.0V127.0H217.0V52.0H388.0V202.0z"


def test_bars_are_as_long_as_their_values():
    svg = bars(
        ["cat", "dog"],
        {"clean": [1.0, 0.5], "robust": [0.25, NAN]},
        x_label="accuracy",
        title="t",
        percent=True,
    )
    widths = [float(bar.get("width")) for bar in shapes(svg, "bar")]
    assert widths == pytest.approx([widths[0], widths[0] / 2, widths[0] / 4], abs=0.1)
    assert [text for text in texts(svg) if text.endswith(".0 %")] == ["100.0 %", "50.0 %", "25.0 %"]


def test_a_whisker_reaches_one_deviation_to_each_side():
    svg = points_with_error([("a", 5.0, 5.0), ("b", 2.0, NAN)], x_label="x", title="t")
    left, right = (
        float(drawn(svg).findall("path[@class='grid s0']")[end].get("d", "")[1:].split()[0])
        for end in (0, -1)
    )
    (whisker,) = shapes(svg, "line")
    assert [float(number) for number in re.findall(r"[MH]([\d.]+)", whisker.get("d"))] == [
        left,
        right,
    ]
    at = [float(marker.get("transform")[10:].split()[0]) for marker in shapes(svg, "marker")]
    assert at == pytest.approx([left + 0.5 * (right - left), left + 0.2 * (right - left)], abs=0.1)


def test_series_differ_in_more_than_colour():
    points = {name: [(0, 1), (1, 2)] for name in "abcdef"}
    curves = shapes(lines(points, x_label="x", y_label="y", title="t"), "line")
    assert len({curve.get("stroke-dasharray") for curve in curves}) == 6
    rectangles = shapes(bars(["a"], {"clean": [1], "robust": [1]}, x_label="x", title="t"), "bar")
    assert len({bar.get("fill-opacity") for bar in rectangles}) == 2
    areas = shapes(
        histogram([0, 1], {"clean": [1], "adversarial": [1]}, x_label="x", title="t"), "area"
    )
    assert len({area.get("stroke-dasharray") for area in areas}) == 2


@pytest.mark.parametrize("plot", PLOTS.values(), ids=PLOTS)
def test_a_plot_says_in_words_what_it_shows(plot):
    svg = drawn(plot([1.0, 2.0, 3.0], "the name"))
    title, desc = list(svg)[:2]
    assert (svg.get("role"), title.tag, title.text, desc.tag) == (
        "img",
        "title",
        "the name",
        "desc",
    )
    assert desc.text is not None
    assert "the name" in desc.text
    assert re.search(r"\b[23]\b", desc.text)


@pytest.mark.parametrize("plot", PLOTS.values(), ids=PLOTS)
def test_foreign_text_stays_text(plot):
    evil = "</text><script>x</script>&\"'"
    svg = plot([1.0, 2.0], evil)
    assert "<script" not in svg
    assert {element.tag for element in drawn(svg).iter()} <= {
        "svg",
        "title",
        "desc",
        "text",
        "path",
        "rect",
        "g",
    }


@pytest.mark.parametrize("plot", PLOTS.values(), ids=PLOTS)
@pytest.mark.parametrize("values", [[], [NAN], [INF, -INF]], ids=str)
def test_nothing_to_show_is_said(plot, values):
    assert texts(plot(values)) == ["not measured"]


@pytest.mark.parametrize("plot", PLOTS.values(), ids=PLOTS)
def test_no_number_breaks_a_plot(plot):
    numbers = [
        0,
        1,
        -1,
        1,
        0.1 + 0.2,
        0.3,
        1e15,
        1e15 + 1,
        1e299,
        -1e299,
        1e-320,
        5e-324,
        NAN,
        INF,
        -INF,
    ]
    draw = random.Random(0)
    for values in [draw.choices(numbers, k=draw.randint(1, 6)) for _ in range(80)]:
        svg = plot(values)
        geometry = [
            value
            for shape in drawn(svg).iter()
            for key, value in shape.items()
            if key not in ("class", "text-anchor")
        ]
        assert not re.search("nan|inf", " ".join(geometry).replace("none", "")), values
        assert len(list(drawn(svg).iter("text"))) < 60, values
