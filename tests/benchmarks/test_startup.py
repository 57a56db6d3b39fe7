"""What start-up costs beside importing torch."""

from __future__ import annotations

import pytest
from benchmarks import startup
from benchmarks.side_by_side import ratio


@pytest.mark.long
def test_help_and_listing_take_a_small_share_of_importing_torch():
    commands = startup.COMMANDS | {startup.TORCH: startup.OTHERS[startup.TORCH]}
    cpu, _ = startup.measure(commands, rounds=5)
    for name in startup.COMMANDS:
        assert ratio(cpu, name, startup.TORCH) <= startup.SHARE, name


@pytest.mark.long  # on a busy machine the shares are not those of the commands
def test_a_plan_and_a_network_of_ours_take_little_more_than_torch():
    startup.write_weights()
    cpu, _ = startup.measure(startup.NETWORKS | {startup.TORCH: startup.OTHERS[startup.TORCH]}, 5)
    startup.WEIGHTS.unlink()
    for name in startup.NETWORKS:
        assert ratio(cpu, name, startup.TORCH) <= startup.NETWORK_SHARE, name
