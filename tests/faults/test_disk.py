"""F6, F7: disks that are full, locked or gone: one clear error, and what was saved stays good."""

from __future__ import annotations

import os
import resource
import shutil
from types import SimpleNamespace

import pytest

from abatis.train import checkpoint
from abatis.train.checkpoint import load_checkpoint
from tests.faults import before_step, checkpoints, in_child, train
from tests.helpers import final_bytes


def is_intact(out):
    """Only whole checkpoints, the newest of step 4."""
    assert not [path.name for path in (out / "r").rglob("*") if path.suffix in (".tmp", ".partial")]
    return load_checkpoint(out / "r" / "checkpoints").step == 4


def stopped(out, capfd, act):
    """What a run prints that fails before step 5; it must end with exit code 2, in a few lines."""

    def work():
        before_step(5, act)
        train(out)

    assert in_child(work) == 2
    message = capfd.readouterr().out
    assert len(message.splitlines()) <= 4
    return message


def test_f6_a_file_that_may_not_grow(tmp_path, capfd, whole):
    limit = (20_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    message = stopped(tmp_path, capfd, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
    assert "cannot write" in message
    assert "disk" in message
    assert is_intact(tmp_path)
    assert final_bytes(train(tmp_path, resume=True)) == whole


def test_f6_no_room_for_one_more_checkpoint(tmp_path, capfd, monkeypatch):
    def nearly_full():
        checkpoint.shutil.disk_usage = lambda folder: SimpleNamespace(free=1000)

    message = stopped(tmp_path, capfd, nearly_full)
    assert "the disk is nearly full" in message
    assert is_intact(tmp_path)


def test_f6_a_full_disk_under_the_metrics(tmp_path, capfd, whole):
    metrics = tmp_path / "r" / "metrics.jsonl"

    def fill():
        metrics.rename(tmp_path / "saved")
        metrics.symlink_to("/dev/full")

    message = stopped(tmp_path, capfd, fill)
    assert "No space left" in message
    (tmp_path / "saved").replace(metrics)
    assert final_bytes(train(tmp_path, resume=True)) == whole


@pytest.mark.parametrize("out", ["/proc/none", "/sys/none"])
def test_f7_a_folder_that_cannot_be_written_is_an_error_before_the_first_step(out, capfd):
    assert in_child(lambda: train(out)) == 2
    assert "cannot write" in capfd.readouterr().out


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_f7_a_read_only_run_folder(tmp_path, capfd):
    (tmp_path / "r").mkdir(mode=0o500)
    assert in_child(lambda: train(tmp_path)) == 2
    assert "cannot write" in capfd.readouterr().out


def test_f7_a_run_folder_that_vanishes_is_not_made_again(tmp_path, capfd):
    message = stopped(tmp_path, capfd, lambda: shutil.rmtree(tmp_path / "r"))
    assert "cannot write" in message
    assert not (tmp_path / "r").exists()


def test_a_checkpoint_that_does_not_read_back_stops_the_run(tmp_path, capfd):
    def spoiled():
        checkpoint.sha256_of = lambda path: os.urandom(4).hex()

    assert "does not read back" in stopped(tmp_path, capfd, spoiled)
    assert len(checkpoints(tmp_path)) == 3
