"""``defense sweep`` on digits: killed once, and written as jobs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from abatis.commands.sweep import command
from abatis.commands.sweep.options import parse
from abatis.commands.sweep.study_file import STUDY, open_study
from abatis.runs.history import history

pytest.importorskip("optuna")
RUN = (
    "--data digits --backbone cnn --limit 150 --batch-size 32 --threat Linf:0.1 --epochs 2 "
    "--space optim.lr=log:0.01:0.3 --space attack.steps=int:1:2"
)
WAIT = 300  # seconds at most


def read(out, words):
    from abatis.commands.sweep.search import _describe_question

    asked = parse(words, "defense sweep")
    return open_study(out, _describe_question(asked)), asked


def wait_until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT
    while not done():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.slow
def test_twelve_trials_killed_once(tmp_path, capsys):
    from abatis.commands.sweep.advice import Adviser

    out = tmp_path / "s"
    words = [*RUN.split(), "--trials", "12", "--out", str(out)]
    program = "from abatis.commands.sweep import command; import sys; command(sys.argv[1:])"
    child = subprocess.Popen(
        [sys.executable, "-c", program, *words], start_new_session=True, stdout=subprocess.DEVNULL
    )
    # in the middle of the fourth
    wait_until(lambda: (out / "trial-0004-s0" / "metrics.jsonl").exists())
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    before, _ = read(out, words)
    assert len(before.trials) >= 4
    assert before.trials[-1].state == "started"
    assert command(words) == 0
    study, asked = read(out, words)
    assert len(study.trials) == 12
    assert {trial.state for trial in study.trials} <= {"finished", "pruned"}
    for place, trial in enumerate(before.trials):
        assert study.trials[place].values == trial.values
    # the kill changed no draw, and no epoch was trained twice
    adviser = Adviser(asked.spaces, asked.objectives, 0)
    for place, trial in enumerate(study.trials):
        assert adviser.choose_values(study.trials[:place]) == trial.values
        rows = history(out / f"trial-{place + 1:04d}-s0")
        assert rows["epoch"] == list(range(1, len(trial.epochs) + 1))
        assert not (out / f"trial-{place + 1:04d}-s0" / "eval.json").exists()
        if trial.state == "finished":
            assert (
                trial.robust
                == max(zip(rows["val_robust_acc"], rows["val_clean_acc"], strict=True))[0]
            )
    page = (out / "sweep.html").read_text()
    assert "No trial was judged on the test set" in page
    best = adviser.find_best(study.trials)[0]
    assert f"trial-{best + 1:04d}-s0/run.toml --ladder standard" in page
    assert f"best: trial {best + 1}," in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_jobs_train_what_the_sweep_then_reads(tmp_path, capsys):
    """The front of two objectives, of trials that other processes trained."""
    from abatis.commands.jobs import command as jobs

    file, out = tmp_path / "jobs.txt", tmp_path / "s"
    words = [*RUN.replace("--epochs 2", "--epochs 1").split(), "--objective", "robust,clean"]
    words += ["--trials", "2", "--out", str(out)]
    assert command([*words, "--jobs", str(file)]) == 0
    lines = file.read_text().splitlines()
    assert len(lines) == 2
    assert not (out / "trial-0001-s0").exists()
    assert jobs(["run", str(file), "--workers", "2"]) == 0
    trained = (out / "trial-0002-s0" / "weights-last.safetensors").stat().st_mtime_ns
    assert command([*words, "--jobs", str(file)]) == 0
    assert file.read_text().splitlines() == lines  # drawn once
    assert command(words) == 0
    assert (out / "trial-0002-s0" / "weights-last.safetensors").stat().st_mtime_ns == trained
    study, _ = read(out, words)
    assert [trial.state for trial in study.trials] == ["finished"] * 2
    assert (out / STUDY).exists()
    assert "Front" in (out / "sweep.html").read_text()
