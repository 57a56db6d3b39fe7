"""The kill loop knows the plan that a run prints, and its help starts no run."""

from __future__ import annotations

import pytest
from benchmarks import kill_loop

from abatis.cli import run as defense_run


def test_the_plan_of_a_run_ends_with_the_line_that_is_waited_for(capsys):
    assert defense_run(["--data", "digits", "--backbone", "cnn", "--dry-run"]) == 0
    assert kill_loop.PLAN.search(capsys.readouterr().out)


def test_help_starts_no_run(monkeypatch, capsys):
    monkeypatch.setattr(kill_loop, "start", None)
    with pytest.raises(SystemExit, match="0"):
        kill_loop.main(["--help"])
    assert "--kills" in capsys.readouterr().out
