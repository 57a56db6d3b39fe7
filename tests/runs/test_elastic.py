"""F10: where a process is killed, all restart from the newest checkpoint, to the same weights."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

import abatis
from abatis.errors import UsageError
from abatis.system import distributed
from abatis.system.signals import StopRequest
from tests.helpers import final_bytes, tiny

NETWORK = """
import os, signal
from torch import nn

PASSES = [0]

def make(num_classes):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, num_classes))
    net.register_forward_pre_hook(die)
    return net

def die(module, args):
    PASSES[0] += module.training
    once = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    if once and os.environ["RANK"] == "1" and PASSES[0] == int(os.environ.get("DIES_AT", "-1")):
        os.kill(os.getpid(), signal.SIGKILL)
"""
RUN = (
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
    "--eval",
    "none",
    "--name",
    "run",
    "--epochs",
    "4",
    "--checkpoint-every",
    "3",
)
OURS = ("-m", "abatis", "run", "--nproc", "2", "--max-restarts", "1")
TORCHRUN = (
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--nproc-per-node",
    "2",
    "--max-restarts",
    "1",
    "-m",
    "abatis",
    "run",
)


@pytest.fixture
def start(tmp_path, monkeypatch):
    """A run in a folder of its own, by one of the launchers."""
    (tmp_path / "net.py").write_text(NETWORK)

    def now(launcher, out, dies_at=-1):
        monkeypatch.setenv("DIES_AT", str(dies_at))
        monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
        words = [
            sys.executable,
            *launcher,
            *RUN,
            "--backbone",
            f"{tmp_path / 'net.py'}:make",
            "--out",
            str(tmp_path / out),
        ]
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return now


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    [pytest.param(OURS, id="nproc", marks=pytest.mark.long), pytest.param(TORCHRUN, id="torchrun")],
)
def test_f10_a_killed_process_restarts_the_run_which_ends_with_the_same_weights(
    start, tmp_path, launcher
):
    whole = start(launcher, "whole")
    out, err = whole.communicate(timeout=200)
    assert whole.returncode == 0, err
    assert "resumed" not in out
    killed = start(launcher, "killed", dies_at=14)  # in the step behind that of checkpoint 12
    out, err = killed.communicate(timeout=200)
    assert killed.returncode == 0, err
    assert "resumed after step 12" in out
    assert final_bytes(tmp_path / "killed" / "run") == final_bytes(tmp_path / "whole" / "run")


@pytest.mark.slow
def test_a_signal_to_the_agent_stops_saves_and_is_no_reason_to_restart(start):
    stopped = start(OURS, "stopped")
    for line in stopped.stdout:
        if line.startswith("epoch 1/4"):
            stopped.send_signal(signal.SIGTERM)
            break
    out, err = stopped.communicate(timeout=200)
    assert stopped.returncode == 75, err
    assert "resumed" not in out
    assert "the state is saved" in err


def test_restarts_that_would_fail_are_refused_at_the_start(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "1")
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    with pytest.raises(UsageError, match="a store of their own"), distributed.connect():
        pass


def test_a_run_that_may_restart_must_know_its_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "1")
    with pytest.raises(UsageError, match="automatic restarts need --name"):
        abatis.run(tiny(tmp_path))


def test_only_a_restarted_run_may_find_its_folder_there(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "1")
    once = abatis.run(tiny(tmp_path, name="r", epochs=1)).folder
    with pytest.raises(UsageError, match="exists"):
        abatis.run(tiny(tmp_path, name="r", epochs=1))
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert abatis.run(tiny(tmp_path, name="r", epochs=1)).folder == once


def test_a_sigterm_that_scheduler_and_agent_both_send_counts_once(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
