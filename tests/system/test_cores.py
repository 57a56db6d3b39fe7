"""The cores that a process may use: by its affinity and by its container's quota."""

from __future__ import annotations

import os

import pytest

from abatis.runs import launch
from abatis.system import cores


@pytest.fixture
def allowed(monkeypatch, tmp_path):
    """Eight cores, of which six are allowed, under a quota."""

    def allow(quota):
        monkeypatch.setattr(os, "cpu_count", lambda: 8)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
        monkeypatch.setattr(cores, "QUOTA", tmp_path / "cpu.max")
        if quota is not None:
            cores.QUOTA.write_text(quota)

    return allow


@pytest.mark.parametrize(
    ("quota", "count"),
    [
        (None, 6),
        ("max 100000\n", 6),
        ("250000 100000\n", 2),
        ("50000 100000\n", 1),
        ("900000 100000\n", 6),
    ],
)
def test_affinity_and_quota_limit_the_cores(allowed, quota, count):
    allowed(quota)
    assert cores.count_cores() == count


def test_processes_of_a_run_share_the_cores_that_are_allowed(allowed):
    allowed("400000 100000\n")
    assert launch._count_threads(2) == "2"
