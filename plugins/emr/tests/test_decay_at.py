"""Shares of the training at which the weight falls, and epochs that a run does not reach."""

from __future__ import annotations

import pytest

from abatis_emr import EmrConfig
from abatis_emr.penalty import EffectiveMarginPenalty


def test_shares_fall_at_the_same_place_in_runs_of_any_length():
    """3 until 0.6 of the training, 0.3 until 0.9, then 0.03."""
    penalty = EffectiveMarginPenalty(EmrConfig(decay_at=(0.6, 0.9)))
    for steps in (10, 20, 1000):
        found = [penalty.weight(0, number / steps) for number in range(steps)]
        expected = [3.0] * (6 * steps // 10) + [0.3] * (3 * steps // 10) + [0.03] * (steps // 10)
        assert found == pytest.approx(expected)


def test_epochs_count_where_no_shares_are_given():
    penalty = EffectiveMarginPenalty(EmrConfig())
    assert [penalty.weight(epoch, 0.99) for epoch in (58, 59, 89)] == pytest.approx([3, 0.3, 0.03])
    assert EmrConfig().dated_epochs == {"decay_epochs": (60, 90)}
    assert EmrConfig(decay_at=(0.5,)).dated_epochs == {}
