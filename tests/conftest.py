"""What holds for all tests, but those about it: an evaluation starts no other process, and layouts
are not timed, so that two equal runs have the same one whatever else the machine does.
"""

from __future__ import annotations

import math
from typing import Any

import pytest

from abatis.evaluate.stranger import process
from abatis.nets import layout_timing

WHY = "a test does without"
START = process._start
LONG = layout_timing.LONG


def _do_without(*_: Any) -> str:
    return WHY


process._start = _do_without  # before the fixtures of whole sessions evaluate
layout_timing.LONG = math.inf


@pytest.fixture(autouse=True)
def _times_layouts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test with the mark ``layout_timing`` does."""
    if request.node.get_closest_marker("layout_timing") is not None:
        monkeypatch.setattr(layout_timing, "LONG", LONG)


@pytest.fixture(autouse=True)
def _meets_strangers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test with the mark ``stranger`` has one."""
    if request.node.get_closest_marker("stranger") is not None:
        monkeypatch.setattr(process, "_start", START)
