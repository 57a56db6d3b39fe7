"""``defense compare`` from the words on the command line to the files it leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import tomli_w

from abatis.cli import main
from abatis.commands.compare import command, train_methods
from abatis.commands.compare.methods import plan_methods
from abatis.errors import DataError, NotFiniteError, PluginConflict, Stopped, UsageError
from abatis.system.folder_lock import lock_folder
from tests.commands.compare.run_folders import record, run_folder

CLEAN, RIGHT, LESS = [1, 1, 1, 0], [1, 0, 1, 0], [1, 0, 0, 0]
TINY = (
    "--data digits --backbone cnn --limit 64 --batch-size 32 --epochs 1 --threat Linf:0.1 "
    "--attack.steps 2 --ladder quick --quiet"
)


def compare(line):
    return command(line.split())


def finished(out, names, robust=RIGHT, seeds=1, **changes):
    """Folders as ``--methods`` leaves them, without the training."""
    for method in plan_methods(names.split(), seeds, TINY.split(), out, ""):
        for config in method.configs:
            folder = out / config.name
            folder.mkdir(parents=True)
            (folder / "run.toml").write_text(tomli_w.dumps(config.to_toml()))
            evaluation = record(CLEAN, RIGHT, robust, seed=config.seed, **changes)
            (folder / "eval.json").write_text(json.dumps(evaluation))


def read(out):
    return {row["method"]: row for row in json.loads((out / "compare.json").read_text())["rows"]}


def trained(out):
    """When each file of the runs was written."""
    return {path: path.stat().st_mtime_ns for path in out.glob("*-s*/**/*") if path.is_file()}


def test_two_methods_and_two_seeds_from_nothing_to_the_table(tmp_path, capsys):
    """Trained once, not again; and the table's numbers are those of the eval.json files."""
    line = f"--methods at trades --seeds 2 {TINY} --out {tmp_path}"
    code = compare(line)
    rows = read(tmp_path)
    assert code == (6 if "FAIL" in {row["verdict"] for row in rows.values()} else 0)
    assert set(rows) == {"at", "trades"}
    for method, row in rows.items():
        records = [
            json.loads((tmp_path / f"{method}-s{seed}" / "eval.json").read_text())
            for seed in (0, 1)
        ]
        for key in ("clean_acc", "pgd20_acc", "robust_acc"):
            values = [found.get(key) for found in records]
            assert row[key]["values"] == values
            assert row[key]["mean"] == pytest.approx(sum(values) / 2)
        last = json.loads(
            (tmp_path / f"{method}-s1" / "metrics.jsonl").read_text().splitlines()[-1]
        )
        assert row["seconds"]["values"][1] == last["seconds"]
        assert f"{100 * row['robust_acc']['mean']:.2f} ±" in (tmp_path / "compare.md").read_text()
    gain = 100 * (rows["trades"]["robust_acc"]["mean"] - rows["at"]["robust_acc"]["mean"])
    assert rows["trades"]["difference"]["points"] == pytest.approx(gain)
    before, compared = trained(tmp_path), (tmp_path / "compare.json").read_bytes()
    assert compare(line) == code
    assert trained(tmp_path) == before
    assert (tmp_path / "compare.json").read_bytes() == compared
    assert capsys.readouterr().out == ""
    folders = " ".join(str(tmp_path / f"{method}-s{seed}") for method in rows for seed in (0, 1))
    assert compare(f"{folders} --out {tmp_path / 'again'} --allow-fail") == 0
    again = read(tmp_path / "again")
    assert {name: row["robust_acc"] for name, row in again.items()} == {
        name: row["robust_acc"] for name, row in rows.items()
    }
    assert {name: row["difference"] for name, row in again.items()} == {
        name: row["difference"] for name, row in rows.items()
    }


def test_a_run_that_fails_is_a_row_that_says_why(tmp_path, monkeypatch):
    finished(tmp_path, "at emr", seeds=2)
    (tmp_path / "emr-s1" / "eval.json").unlink()

    def fail(config):
        if config.dry_run:
            return
        raise NotFiniteError(
            f"the loss of {config.name} is NaN", where="step 3", fix="lower --optim.lr"
        )

    monkeypatch.setattr(train_methods, "run", fail)
    assert compare(f"--methods mart at emr --seeds 2 {TINY} --out {tmp_path}") == 1
    rows = read(tmp_path)
    assert list(rows) == ["at", "emr", "mart"]
    assert [run["why"] for run in rows["mart"]["failed"]] == [
        "NotFiniteError: the loss of mart-s0 is NaN; where: step 3; fix: lower --optim.lr",
        "NotFiniteError: the loss of mart-s1 is NaN; where: step 3; fix: lower --optim.lr",
    ]
    assert (rows["emr"]["seeds"], rows["emr"]["failed"][0]["seed"]) == ([0], 1)
    assert (
        "mart, seed 0 failed: NotFiniteError: the loss of mart-s0 is NaN"
        in (tmp_path / "compare.md").read_text()
    )


@pytest.mark.parametrize(
    ("words", "where", "error"),
    [
        ("mart+trades", "method mart+trades", PluginConflict),
        ("emr --use loss=nope", "method emr", UsageError),
        ("at mart+trades", "method mart+trades", PluginConflict),
        ("at emr --emr.decay-epochs 1 --track wandb", "method ", UsageError),
    ],
)
def test_what_cannot_start_is_refused_before_anything_is_trained(
    tmp_path, words, where, error, monkeypatch
):
    """Also where the first row could."""
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(error) as caught:
        compare(f"--methods {words} {TINY} --out {tmp_path}")
    assert where in caught.value.where
    assert caught.value.fix
    assert not list(tmp_path.iterdir())


def test_data_that_are_not_there_are_refused_before_anything_is_trained(tmp_path):
    line = TINY.replace("--data digits", "--data npz:nowhere.npz")
    with pytest.raises(DataError, match=r"nowhere\.npz"):
        compare(f"--methods at mart {line} --out {tmp_path}")
    assert not list(tmp_path.iterdir())


def test_a_row_whose_folder_is_being_written_is_refused_before_the_first_is_trained(tmp_path):
    (tmp_path / "mart-s0").mkdir()
    with lock_folder(tmp_path / "mart-s0"), pytest.raises(UsageError) as caught:
        compare(f"--methods at mart {TINY} --out {tmp_path}")
    assert f"process {os.getpid()} on " in caught.value.what
    assert caught.value.fix == "wait for it or stop it"
    assert not (tmp_path / "at-s0").exists()


def test_ctrl_c_stops_all_and_the_same_command_goes_on(tmp_path, monkeypatch):
    finished(tmp_path, "at")
    asked = []

    def stop(config):
        if config.dry_run:
            return
        asked.append((config.name, config.resume))
        raise Stopped("stopped after step 3", where="there", fix="--resume")

    monkeypatch.setattr(train_methods, "run", stop)
    for _ in range(2):
        with pytest.raises(Stopped, match="stopped after step 3") as error:
            compare(f"--methods at mart emr {TINY} --out {tmp_path}")
    assert error.value.fix == "run the same command again to continue"
    assert asked == [("mart-s0", True)] * 2
    assert not (tmp_path / "compare.json").exists()


def test_a_longer_ladder_is_judged_again_and_a_shorter_one_is_there_already(tmp_path, monkeypatch):
    finished(tmp_path, "at", ladder="standard")
    asked = []

    def train(config):
        if not config.dry_run:
            asked.append(config.ladder)

    monkeypatch.setattr(train_methods, "run", train)
    assert compare(f"--methods at {TINY} --out {tmp_path}") == 0
    assert asked == []
    finished(tmp_path, "mart", ladder="quick")
    longer = TINY.replace("--ladder quick", "--ladder standard")
    assert (
        main(["compare", *f"--methods at mart {longer} --out {tmp_path}".split()]) == 2
    )  # not evaluated in the same way
    assert asked == ["standard"]


def test_a_folder_of_another_run_is_not_mixed_in(tmp_path):
    finished(tmp_path, "at")
    with pytest.raises(UsageError, match="epochs was 1, now 2"):
        compare(f"--methods at {TINY.replace('--epochs 1', '--epochs 2')} --out {tmp_path}")
    assert compare(f"--methods at {TINY} --workers 1 --out {tmp_path}") == 0


@pytest.mark.parametrize(("allowed", "code"), [("", 6), ("--allow-fail", 0)])
def test_a_method_of_verdict_fail_has_no_rank(tmp_path, allowed, code):
    finished(tmp_path, "mart", verdict="FAIL")
    finished(tmp_path, "at", LESS)
    assert compare(f"--methods mart at {TINY} --out {tmp_path} {allowed}") == code
    assert [(name, row["rank"], row["verdict"]) for name, row in read(tmp_path).items()] == [
        ("at", 1, "PASS"),
        ("mart", None, "FAIL"),
    ]


def test_given_runs_of_verdict_fail_need_a_word(tmp_path, capsys):
    good, bad = run_folder(tmp_path / "good", record(CLEAN, RIGHT, LESS)), tmp_path / "bad"
    run_folder(bad, record(CLEAN, RIGHT, RIGHT, verdict="FAIL"), plugin=["mart"])
    with pytest.raises(UsageError, match="FAIL"):
        compare(f"{good} {bad} --out {tmp_path / 'out'}")
    assert not (tmp_path / "out").exists()
    assert compare(f"{good} {bad} --out {tmp_path / 'out'} --allow-fail") == 0
    assert "FAIL" in capsys.readouterr().out
    assert read(tmp_path / "out")["mart"]["verdict"] == "FAIL"


def test_old_runs_have_no_verdict(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for seed in (0, 1):
        run_folder(tmp_path / f"r{seed}", record(CLEAN, RIGHT), seed=seed)
    assert compare("r0 r1") == 0
    assert read(tmp_path / "comparisons" / "digits")["at"]["verdict"] == "-"
    text = capsys.readouterr().out
    assert "50.0 ± 0.0" in text
    assert max(map(len, text.splitlines()[:2])) <= 80
    assert "\x1b" not in text


def test_the_baseline(tmp_path):
    folders = [
        run_folder(tmp_path / name, record(CLEAN, RIGHT, RIGHT), plugin=name.split("+"))
        for name in ("mart", "emr+mail")
    ]
    line = f"{folders[0]} {folders[1]} --out {tmp_path / 'out'}"
    assert compare(line) == 0
    assert read(tmp_path / "out")["mart"]["difference"] is None
    assert compare(f"{line} --baseline mail+emr") == 0
    assert read(tmp_path / "out")["emr+mail"]["difference"] is None
    assert compare(f"{line} {run_folder(tmp_path / 'plain', record(CLEAN, RIGHT, LESS))}") == 0
    found = read(tmp_path / "out")
    assert found["at"]["difference"] is None
    assert found["mart"]["difference"]["points"] == 25
    with pytest.raises(UsageError, match="did you mean 'mart'"):
        compare(f"{line} --baseline mard")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("", "nothing to compare"),
        ("nowhere", "no model 'nowhere'"),
        ("nowhere --seeds 2", "--seeds"),
        ("nowhere --baselin at", "did you mean '--baseline'"),
        ("--methods at --baselin at", "did you mean '--baseline'"),
        ("--methods at --epohcs 3", "did you mean '--epochs'"),
        ("--methods at trade", "did you mean 'trades'"),
        ("--methods at --seeds 0", "at least 1, not 0"),
        ("--methods at --seeds many", "--seeds"),
        ("--methods", "--methods"),
        ("--methods at mart --baseline mard", "did you mean 'mart'"),
    ],
)
def test_a_mistake_is_a_short_message_and_exit_code_2(line, complaint, capsys):
    assert main(["compare", *line.split()]) == 2
    text = capsys.readouterr().err
    assert complaint in text
    assert len(text.strip().splitlines()) <= 4


@pytest.mark.parametrize("line", ["--methods at trade", "--methods at --epohcs 3"])
def test_mistakes_need_no_torch(line):
    call = f"with contextlib.suppress(SystemExit): cli.main({['compare', *line.split()]})"
    code = (
        f"import contextlib, sys\nfrom abatis import cli\n{call}\nassert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "did you mean" in done.stderr
