"""``defense runs`` and ``defense show``: what state a run is in, and its numbers."""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import pytest

import abatis
from abatis import UsageError, cli
from abatis.commands import runs
from abatis.errors import Stopped
from abatis.report.run_shown import draw_bars
from abatis.report.run_summary import RunSummary, summarise_run
from abatis.report.words import format_age
from abatis.runs.ending import note_ending
from abatis.system.folder_lock import lock_folder
from tests.helpers import tiny


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """A folder with a finished run, and one that was never evaluated."""
    out = tmp_path_factory.mktemp("runs")
    abatis.run(tiny(out, epochs=1, limit=60, ladder="clean", name="judged"))
    abatis.run(tiny(out, epochs=1, limit=60, name="trained", use={"attacker": "none"}))
    return out


def make_run(folder, metrics=""):
    folder.mkdir()
    (folder / "run.toml").write_text(
        'plugin = ["emr", "./my_idea.py"]\nepochs = 4\nthreat = "L2:0.5"\n', encoding="utf-8"
    )
    (folder / "metrics.jsonl").write_text(metrics, encoding="utf-8")
    return folder


def test_the_list_holds_every_run(out, capsys):
    assert cli.main(["runs", str(out), "--sort", "run", "--json"]) == 0
    judged, trained = json.loads(capsys.readouterr().out)
    record = json.loads((out / "judged" / "eval.json").read_text(encoding="utf-8"))
    assert judged["clean_acc"] == record["clean_acc"]
    assert (judged["method"], trained["method"]) == ("at", "standard")
    assert (judged["state"], trained["state"]) == ("finished", "finished")
    assert (judged["epoch"], judged["epochs"], trained["clean_acc"]) == (1, 1, None)
    assert cli.main(["runs", str(out), "--sort", "clean"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == [
        "run",
        "method",
        "threat",
        "clean",
        "robust",
        "verdict",
        "age",
        "state",
    ]
    assert [line.split()[0] for line in lines[1:]] == ["judged", "trained"]


def test_a_run_is_running_while_somebody_holds_its_folder(tmp_path):
    folder = make_run(tmp_path / "one", '{"epoch": 1}\n{"epoch": 2}\n{"ep')
    with lock_folder(folder):
        one = summarise_run(folder)
    assert (one.state, one.epoch, one.epochs) == ("running", 2, 4)
    assert (one.method, one.threat) == ("emr+my-idea", "L2:0.5")
    assert summarise_run(folder).state == "stopped"  # it was killed


@pytest.mark.parametrize(
    ("error", "state", "why"),
    [
        (None, "finished", ""),
        (Stopped("stopped after epoch 2"), "stopped", "stopped after epoch 2"),
        (KeyboardInterrupt(), "stopped", "interrupted"),
        (UsageError("no such data"), "failed", "no such data"),
        (ZeroDivisionError("by zero"), "failed", "ZeroDivisionError: by zero"),
    ],
)
def test_a_run_says_how_it_ended(error, state, why, tmp_path):
    folder = make_run(tmp_path / "one")

    def end():
        with note_ending(folder):
            assert not (folder / "ended.json").exists()
            if error is not None:
                raise error

    for _ in range(2):  # the second start removes the word of the first
        if error is None:
            end()
        else:
            with pytest.raises(type(error)):
                end()
    one = summarise_run(folder)
    assert (one.state, one.why) == (state, why)


def test_a_damaged_evaluation_makes_a_damaged_run_and_the_others_are_listed(tmp_path, capsys):
    make_run(tmp_path / "one")
    folder = make_run(tmp_path / "two")
    (folder / "eval.json").write_text("{", encoding="utf-8")
    assert cli.main(["runs", str(tmp_path), "--sort", "run"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[1].endswith("stopped")
    assert "damaged" in out
    assert cli.main(["show", str(folder)]) == 2


@pytest.mark.parametrize("text", ["", "[", 'name = "of another tool"'])
def test_a_file_that_names_no_options_is_not_taken_for_a_method(text, tmp_path, capsys):
    (tmp_path / "run.toml").write_text(text, encoding="utf-8")
    assert summarise_run(tmp_path).method == "-"
    assert cli.main(["show", str(tmp_path)]) == 0
    assert "None" not in capsys.readouterr().out


def test_the_last_value_is_that_of_the_last_epoch(tmp_path, capsys):
    rows = ['{"epoch": 1, "loss": 2.5, "lr": 0.1}', '{"epoch": 2, "loss": 1.5, "lr": 0.1}']
    folder = make_run(tmp_path / "one", "\n".join([*rows, '{"epoch": 3, "loss": NaN}', ""]))
    assert cli.main(["show", str(folder)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    loss, rate = (
        next(line for line in lines if line[:1] == [name]) for name in ("loss", "learning")
    )
    assert loss[1] == "2.5"
    assert loss[-5:] == ["-", "1.5", "in", "epoch", "2"]
    assert rate[-1] == "-"


def test_sorting_puts_the_largest_number_first_and_the_newest_run(tmp_path, capsys):
    for name, when in (("old", 1000), ("new", 5000)):
        folder = make_run(tmp_path / name)
        for path in folder.iterdir():
            os.utime(path, (when, when))
    assert cli.main(["runs", str(tmp_path), "--json"]) == 0
    assert [one["folder"].rpartition("/")[2] for one in json.loads(capsys.readouterr().out)] == [
        "new",
        "old",
    ]


@pytest.mark.parametrize(
    ("name", "ladder", "lines"),
    [
        ("emr-cnn-digits", "quick", ["run ", "emr-cnn-digits "]),
        ("emr-cnn-digits-seed0-2", "quick", ["run ", "emr-cnn-digits-seed0-2 ", "found"]),
        ("emr-cnn-digits-s0-of-ten", "standard", ["run ", "emr-cnn-digits-s0-of-ten "]),
    ],
)
def test_names_are_whole_in_a_terminal_of_80_columns(monkeypatch, capsys, name, ladder, lines):
    """Columns stand closer, and then the verdict takes two lines."""
    one = RunSummary(
        folder=Path("runs", name),
        method="emr",
        data="digits",
        backbone="cnn",
        threat="Linf:0.1",
        seed=0,
        clean_acc=0.992,
        robust_acc=0.897,
        robust_acc_upper=None,
        verdict="PASS",
        ladder=ladder,
        epoch=12,
        epochs=12,
        changed=time.time() - 360,
        state="finished",
    )
    monkeypatch.setenv("COLUMNS", "80")
    runs._print_table([one], argparse.Namespace(dir=Path("runs")))
    found = capsys.readouterr().out.splitlines()
    assert max(map(len, found)) <= 80
    assert all(line.strip().startswith(start) for line, start in zip(found, lines, strict=True))


def test_no_runs_and_no_folder(tmp_path, capsys):
    assert cli.main(["runs", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"no runs in {tmp_path}\n"
    assert cli.main(["runs", str(tmp_path / "none")]) == 2
    assert cli.main(["show", str(tmp_path)]) == 2


def test_show_prints_state_curves_and_numbers(out, capsys):
    assert cli.main(["show", str(out / "judged")]) == 0
    text = capsys.readouterr().out
    assert "finished, 1 of 1 epochs" in text
    assert "held-out robust" in text
    assert "clean accuracy" in text
    assert max(map(len, text.splitlines()[1:])) <= 80
    assert cli.main(["show", str(out / "trained")]) == 0
    assert "not evaluated" in capsys.readouterr().out


def test_show_prints_an_evaluation_of_what_is_no_run(out, tmp_path, capsys):
    """Its folder has a record, and no run.toml."""
    record = json.loads((out / "judged" / "eval.json").read_text())
    for key in ("content_sha256", "files_sha256"):
        record.pop(key, None)
    (tmp_path / "eval.json").write_text(json.dumps({**record, "model": "resnet18"}))
    assert cli.main(["show", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "an evaluation of resnet18" in text
    assert "clean accuracy" in text
    del record["findings"]
    (tmp_path / "eval.json").write_text(json.dumps(record))
    assert cli.main(["show", str(tmp_path)]) == 2


def test_a_curve_in_one_line():
    assert draw_bars([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert draw_bars([1, float("nan"), 0]) == "█ ▁"
    assert draw_bars([3, 3]) == "▁▁"
    assert draw_bars([float("nan")]) == ""
    assert draw_bars([0, 7], "_.-=+*#@") == "_@"
    long = draw_bars([float(value // 2) for value in range(64)])
    assert (len(long), long[0], long[-1]) == (32, "▁", "█")


@pytest.mark.parametrize(
    ("seconds", "text"), [(59, "59 s"), (60, "1 min"), (7199, "1 h"), (172800, "2 d")]
)
def test_ages(seconds, text):
    assert format_age(seconds) == text
