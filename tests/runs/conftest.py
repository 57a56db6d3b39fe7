"""What several tests of runs need."""

from __future__ import annotations

import pytest

from abatis.report.terminal import Reporter


@pytest.fixture
def plan(monkeypatch):
    """The rows and the notes of the last plan that was printed."""
    seen = {}
    monkeypatch.setattr(
        Reporter, "plan", lambda self, rows, notes, config: seen.update(rows=rows, notes=notes)
    )
    return seen
