"""Learning rates as functions of the step."""

from __future__ import annotations

import pytest

from abatis.config.option_groups import OptimConfig
from abatis.train.optimizer import schedule_rate


@pytest.mark.parametrize(
    ("epoch", "expected"), [(0, 1), (59, 1), (60, 0.1), (89, 0.1), (90, 0.01), (99, 0.01)]
)
def test_piecewise_drops_after_60_and_90_of_100_epochs(epoch, expected):
    per_epoch = 375
    config = OptimConfig()
    assert schedule_rate(config, epoch * per_epoch, 100 * per_epoch) == pytest.approx(expected)
    assert schedule_rate(config, (epoch + 1) * per_epoch - 1, 100 * per_epoch) == pytest.approx(
        expected
    )


def test_cosine_and_one_cycle_and_constant():
    cosine, cycle, constant = (
        OptimConfig(schedule=name) for name in ("cosine", "one-cycle", "constant")
    )
    assert [schedule_rate(cosine, step, 100) for step in (0, 50)] == pytest.approx([1, 0.5])
    assert [schedule_rate(cycle, step, 100) for step in (0, 30, 65)] == pytest.approx(
        [0.01, 1, 0.5]
    )
    assert max(schedule_rate(cycle, step, 100) for step in range(100)) <= 1
    assert schedule_rate(constant, 99, 100) == 1


def test_a_schedule_read_at_the_end_of_a_step_drops_one_step_earlier():
    start, end = OptimConfig(), OptimConfig(rate_at="end")
    assert [schedule_rate(start, step, 100) for step in (58, 59, 60)] == pytest.approx([1, 1, 0.1])
    assert [schedule_rate(end, step, 100) for step in (58, 59, 60)] == pytest.approx([1, 0.1, 0.1])
    for name in ("cosine", "one-cycle", "constant", "piecewise"):
        start, end = (OptimConfig(schedule=name, warmup=0.2, rate_at=at) for at in ("start", "end"))
        assert [schedule_rate(end, step, 50) for step in range(49)] == [
            schedule_rate(start, step, 50) for step in range(1, 50)
        ]
        assert schedule_rate(end, 49, 50) >= 0
