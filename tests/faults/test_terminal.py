"""A run without a reader, in a narrow or simple terminal, or with a clock that is set back."""

from __future__ import annotations

import io
import os
import sys
import time

from abatis.train import trainer
from tests.faults import in_child, killed, train
from tests.helpers import final_bytes


def test_a_run_that_nobody_reads_goes_on(tmp_path, whole, capfd):
    def work():
        reader, writer = os.pipe()
        os.dup2(writer, 1)
        os.close(reader)
        sys.stdout = os.fdopen(1, "w")
        train(tmp_path, quiet=False)
        sys.stdout.flush()

    assert in_child(work) == 0
    assert capfd.readouterr().err == ""
    assert final_bytes(tmp_path / "r") == whole


def test_a_terminal_of_20_columns_without_unicode(tmp_path, whole, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")

    def work():
        from abatis.cli import run_guarded

        sys.stdout = io.TextIOWrapper((tmp_path / "screen").open("wb"), "ascii")
        code = run_guarded(lambda: 0 if train(tmp_path / "größe", quiet=False) else 1)
        sys.stdout.flush()
        assert code == 0

    assert in_child(work) == 0
    screen = (tmp_path / "screen").read_text("ascii")
    assert " 2/2" in screen
    assert "gr??e" in screen
    assert final_bytes(tmp_path / "größe" / "r") == whole


def test_a_clock_that_is_set_back_changes_nothing(tmp_path, whole):
    def work():
        ticks = iter(range(10**9, 0, -1000))
        time.time = lambda: float(next(ticks))
        trainer.time.perf_counter = lambda: float(next(ticks))
        train(tmp_path)

    assert in_child(work) == 0
    assert final_bytes(tmp_path / "r") == whole


def test_workers_may_change_on_resume(tmp_path, whole):
    killed(tmp_path, 5)
    assert final_bytes(train(tmp_path, resume=True, workers=1)) == whole
