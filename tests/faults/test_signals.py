"""F9 and what surrounds it: signals once, twice, and in the middle of a save."""

from __future__ import annotations

import os
import pty
import signal
from contextlib import suppress

import pytest

from abatis.errors import Stopped
from abatis.system.signals import StopRequest, stop_at_once
from abatis.train.checkpoint import load_checkpoint
from tests.faults import _outcome, before_step, die, in_child, in_save, train
from tests.helpers import final_bytes


@pytest.fixture(autouse=True)
def _hear_hangups():
    """The suite itself may run under nohup, where a closed terminal is not heard."""
    former = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, former)


def ask(number=signal.SIGTERM):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
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


def wait_for_the_end_of_the_terminal():
    """Reading from a terminal ends when it is closed, and its signal has come by then."""
    with suppress(OSError):
        os.read(0, 1)


def test_a_terminal_that_is_closed_in_a_run_loses_nothing(tmp_path, whole):
    """The progress that is written afterwards has nowhere to go."""
    ready, go = os.pipe()
    child, terminal = pty.fork()
    if child == 0:
        before_step(4, lambda: (os.write(go, b"!"), wait_for_the_end_of_the_terminal()))
        os._exit(_outcome(lambda: train(tmp_path, quiet=False)))
    os.close(go)
    while os.read(ready, 1) != b"!":
        pass
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 75
    os.close(ready)
    assert load_checkpoint(tmp_path / "r" / "checkpoints").step == 5
    assert final_bytes(train(tmp_path, resume=True)) == whole


def test_a_closed_terminal_may_say_so_twice(tmp_path):
    former = signal.getsignal(signal.SIGHUP)
    try:
        with StopRequest() as stop:
            ask(signal.SIGHUP)
            ask(signal.SIGHUP)
        assert stop.asked
        ask(signal.SIGHUP)  # while the run is being ended
        signal.signal(signal.SIGHUP, former)
        with pytest.raises(Stopped), stop_at_once(tmp_path):
            ask(signal.SIGHUP)
        ask(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, former)


def test_under_nohup_a_closed_terminal_is_not_heard(tmp_path):
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop, stop_at_once(tmp_path):
            ask(signal.SIGHUP)
        assert not stop.asked
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, former)
