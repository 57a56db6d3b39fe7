"""Learning rates as functions of the step."""

from __future__ import annotations

import pytest

from abatis.config.run_config import OptimConfig
from abatis.train.optimizer import factor


@pytest.mark.parametrize(
    ("epoch", "expected"), [(0, 1), (59, 1), (60, 0.1), (89, 0.1), (90, 0.01), (99, 0.01)]
)
def test_piecewise_drops_after_60_and_90_of_100_epochs(epoch, expected):
    per_epoch = 375
    config = OptimConfig()
    assert factor(config, epoch * per_epoch, 100 * per_epoch) == pytest.approx(expected)
    assert factor(config, (epoch + 1) * per_epoch - 1, 100 * per_epoch) == pytest.approx(expected)


def test_cosine_and_one_cycle_and_constant():
    cosine, cycle, constant = (
        OptimConfig(schedule=name) for name in ("cosine", "one-cycle", "constant")
    )
    assert [factor(cosine, step, 100) for step in (0, 50)] == pytest.approx([1, 0.5])
    assert [factor(cycle, step, 100) for step in (0, 30, 65)] == pytest.approx([0.01, 1, 0.5])
    assert max(factor(cycle, step, 100) for step in range(100)) <= 1
    assert factor(constant, 99, 100) == 1
