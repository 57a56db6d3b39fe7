"""Numbers as people read them."""

from __future__ import annotations

import pytest

from abatis.report.html import percent
from abatis.report.words import format_count, format_duration, format_number, format_percent


def test_percentages_have_two_digits_and_stay_in_one_piece_on_a_page():
    assert format_percent(0.454) == "45.40 %"
    assert percent(0.454) == "45.40\N{NO-BREAK SPACE}%"
    assert format_percent(None) == percent(None) == "-"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (45, "45 s"), (200, "3 min 20 s"), (7500, "2 h 05 min"), (59.6, "1 min 00 s")],
)
def test_durations_have_two_units(seconds, text):
    assert format_duration(seconds) == text


def test_numbers_have_four_digits_and_counts_their_noun():
    assert [format_number(value) for value in (1.00449, 12345.0, None)] == [
        "1.004",
        "1.234e+04",
        "-",
    ]
    assert [format_count(count, "step") for count in (0, 1, 2)] == ["0 steps", "1 step", "2 steps"]
