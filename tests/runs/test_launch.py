"""``--nproc``: a run by two processes ends like any other, stops like any other, and goes on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from abatis.runs import launch

RUN = (
    "--backbone",
    "cnn",
    "--data",
    "digits",
    "--threat",
    "Linf:0.1",
    "--limit",
    "150",
    "--batch-size",
    "32",
    "--attack.steps",
    "1",
    "--ladder",
    "none",
    "--name",
    "run",
    "--nproc",
    "2",
)


def start(out, *words):
    command = [sys.executable, "-m", "abatis", "run", *RUN, "--out", str(out), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process, timeout=300):
    told = process.communicate(timeout=timeout)
    return process.returncode, *told


@pytest.mark.slow
def test_two_processes_train_one_run(tmp_path):
    code, out, err = finish(start(tmp_path, "--epochs", "1"))
    assert code == 0, err
    assert not err
    assert out.count("epoch 1/1") == 1  # the first one speaks for both
    rows = [
        json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert len(rows) == 1
    assert (tmp_path / "run" / "weights-last.safetensors").is_file()


@pytest.mark.slow
def test_a_mistake_is_told_once_and_keeps_its_exit_code(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "file").touch()
    code, _, err = finish(start(tmp_path, "--epochs", "1"))
    assert code == 2
    assert err.count("exists") == 1


@pytest.mark.slow
def test_a_signal_stops_both_after_the_same_step_and_the_run_goes_on(tmp_path):
    whole = finish(start(tmp_path / "whole", "--epochs", "3", "--checkpoint-every", "1"))
    assert whole[0] == 0, whole
    stopped = start(tmp_path / "stopped", "--epochs", "3", "--checkpoint-every", "1")
    for line in stopped.stdout:
        if line.startswith("epoch 1/3"):
            stopped.send_signal(signal.SIGTERM)
            break
    code, _, err = finish(stopped)
    assert code == 75, err
    assert err.count("error: ") == 1
    code, _, err = finish(
        start(tmp_path / "stopped", "--epochs", "3", "--checkpoint-every", "1", "--resume")
    )
    assert code == 0, err
    one, other = (
        (tmp_path / which / "run" / "weights-last.safetensors").read_bytes()
        for which in ("whole", "stopped")
    )
    assert one == other


def test_a_process_that_was_killed_is_named(capsys):
    """It cannot say so itself, and the others only say that they lost it."""
    programs = ["import sys; sys.exit(1)", "import os; os.kill(os.getpid(), 9)"]
    running = [subprocess.Popen([sys.executable, "-c", program]) for program in programs]
    assert launch._wait_for_all(running) == 137
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "error: process 1 of 2 was killed by SIGKILL"
    assert "--resume" in lines[2]
    assert len(lines) == 3
