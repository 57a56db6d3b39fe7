"""Wilson's interval against numbers worked out by hand."""

from __future__ import annotations

import pytest
from scipy.stats import binomtest

from abatis.report.intervals import wilson_interval


@pytest.mark.parametrize(
    ("count", "of", "expected"),
    [
        (
            8,
            10,
            (0.49016, 0.94332),
        ),  # centre (0.8 + 0.19207) / 1.38415, half width 1.95996 sqrt(0.025604) / 1.38415
        (0, 10, (0.0, 0.27753)),  # 3.84146 / 13.84146
        (10, 10, (0.72247, 1.0)),
        (0, 0, (0.0, 1.0)),
    ],
)
def test_by_hand(count, of, expected):
    assert wilson_interval(count, of) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("of", [1, 7, 50, 10_000])
def test_equals_scipy_s(of):
    for count in {0, 1, of // 3, of - 1, of}:
        expected = binomtest(count, of).proportion_ci(method="wilson")
        assert wilson_interval(count, of) == pytest.approx(tuple(expected), abs=1e-12)


def test_narrows_with_points_and_widens_with_z():
    few, many, sure = (
        wilson_interval(5, 10),
        wilson_interval(500, 1000),
        wilson_interval(5, 10, z=2.58),
    )
    assert sure[0] < few[0] < many[0] < 0.5 < many[1] < few[1] < sure[1]
