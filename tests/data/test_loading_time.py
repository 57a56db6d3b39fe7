"""Images in memory are loaded in a small share of the time of a PIL DataLoader."""

from __future__ import annotations

import pytest
from benchmarks import loading
from benchmarks.side_by_side import ratio


@pytest.mark.slow
def test_augmented_loading_takes_a_small_share_of_a_pil_loader():
    times = loading.measured(count=2000, rounds=5)
    assert ratio(times, loading.OURS, loading.PIL) <= loading.LIMIT
