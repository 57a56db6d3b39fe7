"""What holds for all tests: an evaluation starts no other process unless a test is about that."""

from __future__ import annotations

from typing import Any

import pytest

from abatis.evaluate.stranger import process

WHY = "a test does without"
START = process._start


def _do_without(*_: Any) -> str:
    return WHY


process._start = _do_without  # before the fixtures of whole sessions evaluate


@pytest.fixture(autouse=True)
def _meets_strangers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test with the mark ``stranger`` has one."""
    if request.node.get_closest_marker("stranger") is not None:
        monkeypatch.setattr(process, "_start", START)
