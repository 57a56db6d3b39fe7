"""F9 and what surrounds it: signals once, twice, and in the middle of a save."""

from __future__ import annotations

import os
import signal

import pytest

from abatis.train.checkpoint import load_checkpoint
from tests.faults import before_step, die, in_child, in_save, train
from tests.helpers import final_bytes


def ask(number=signal.SIGTERM):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_step_saves_and_asks_to_be_started_again(
    tmp_path, whole, number, capfd
):
    def work():
        before_step(4, lambda: ask(number))
        train(tmp_path)

    assert in_child(work) == 75
    assert "after step 5 of 8; the state is saved" in capfd.readouterr().out
    assert load_checkpoint(tmp_path / "r" / "checkpoints").step == 5
    assert final_bytes(train(tmp_path, resume=True)) == whole


@pytest.mark.parametrize("flush", [1, 4, 7])
def test_a_second_signal_stops_at_once_and_harms_no_checkpoint(tmp_path, whole, flush):
    """The first one in the step before a save, the second one inside it."""

    def work():
        before_step(5, ask)
        in_save(3, ask, flush=flush)
        train(tmp_path)

    assert in_child(work) == 130
    assert load_checkpoint(tmp_path / "r" / "checkpoints").step in (4, 6)
    assert final_bytes(train(tmp_path, resume=True)) == whole


def test_f9_a_save_that_is_slower_than_the_time_that_is_given(tmp_path, whole, capfd, monkeypatch):
    monkeypatch.setenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "0.001")

    def work():
        before_step(5, ask)
        in_save(3, die, flush=3)  # the scheduler's patience has ended
        train(tmp_path, quiet=False)

    assert in_child(work) == -signal.SIGKILL
    warnings = [
        line
        for line in capfd.readouterr().out.splitlines()
        if "of the 0.001 s that a run has after SIGTERM" in line
    ]
    assert len(warnings) == 1
    assert load_checkpoint(tmp_path / "r" / "checkpoints").step == 4
    assert final_bytes(train(tmp_path, resume=True)) == whole
