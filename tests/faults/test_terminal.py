"""What a run meets at its edges: no reader, a narrow or simple terminal, a clock that is set back."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from abatis import trainer
from tests.faults import in_child, train
from tests.helpers import final_bytes

PROGRAM = Path(sys.executable).with_name("defense-run")
LINE = (
    "--backbone cnn --data digits --limit 60 --batch-size 32 --epochs 1 --threat Linf:0.1 --attack.steps 1 --eval none --name r"
)


def test_a_run_that_nobody_reads_goes_on(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([PROGRAM, *LINE.split(), "--out", str(tmp_path)], stdout=writer, stderr=subprocess.PIPE, text=True,
                          check=False)  # fmt: skip
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "r" / "weights-last.safetensors").exists()


def test_a_clock_that_is_set_back_changes_nothing(tmp_path, whole):
    def work():
        ticks = iter(range(10**9, 0, -1000))
        time.time = lambda: float(next(ticks))
        trainer.time.perf_counter = lambda: float(next(ticks))
        train(tmp_path)

    assert in_child(work) == 0
    assert final_bytes(tmp_path / "r") == whole


@pytest.mark.parametrize("workers", [1])
def test_workers_may_change_on_resume(tmp_path, whole, workers):
    from tests.faults import killed

    killed(tmp_path, 5)
    assert final_bytes(train(tmp_path, resume=True, workers=workers)) == whole
