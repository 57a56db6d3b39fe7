"""Which runs are one method, and which were not evaluated in the same way."""

from __future__ import annotations

import pytest

from abatis.commands.compare.finished_runs import check_alike, read_run, read_runs, refuse_failed
from abatis.errors import UsageError
from tests.commands.compare.run_folders import record, run_folder

CLEAN, RIGHT = [1, 1, 1, 0], [1, 0, 1, 0]


def judged(**changes):
    return record(CLEAN, RIGHT, RIGHT, **changes)


def named(folders):
    return [run.method for run in read_runs(folders)]


def shown(error):
    """The message, which must fit on four lines."""
    assert len(str(error.value).splitlines()) <= 4
    return str(error.value)


def test_a_run_is_read_with_its_seed_time_and_memory(tmp_path):
    rows = {"epoch": 1, "seconds": 2.5}, {"epoch": 2, "seconds": 4.5, "peak_memory_mb": 120}
    run = read_run(run_folder(tmp_path / "a", judged(), *rows, seed=3))
    assert (run.seed, run.seconds, run.memory, run.record["robust_acc"]) == (3, 4.5, 120, 0.5)


def test_an_old_or_bare_folder_is_read_too(tmp_path):
    folder = run_folder(tmp_path / "a", record(CLEAN, RIGHT))
    (folder / "metrics.jsonl").write_text('{"epoch": 1, "seco')
    assert read_run(folder).seconds is None
    (folder / "metrics.jsonl").unlink()
    (folder / "run.toml").unlink()
    run = read_run(folder)
    assert (run.seed, run.seconds, run.memory) == (None, None, None)
    assert named([folder]) == ["a"]


@pytest.mark.parametrize("content", [None, "{}", "[1]", '{"n": 4', "\x00"])
def test_a_folder_without_a_usable_evaluation_is_named(tmp_path, content):
    folder = run_folder(tmp_path / "a", None)
    if content is not None:
        (folder / "eval.json").write_text(content)
    with pytest.raises(UsageError, match="evaluation") as error:
        read_run(folder)
    assert str(folder) in shown(error)


def test_runs_that_differ_in_their_seed_only_are_one_method(tmp_path):
    folders = [
        run_folder(tmp_path / f"r{seed}", judged(), seed=seed, device=device)
        for seed, device in ((0, "cpu"), (1, "auto"))
    ]
    both = run_folder(tmp_path / "both", judged(), plugin=["trades", "mail"])
    clean = run_folder(tmp_path / "clean", judged(), use={"attacker": "none"})
    assert named([*folders, both, clean]) == ["at", "at", "mail+trades", "standard"]


def test_runs_of_other_options_are_no_seeds_of_one_method(tmp_path):
    one, two = (
        run_folder(tmp_path / f"w{weight}", judged(), plugin=["emr"], emr={"weight": weight})
        for weight in (1, 2)
    )
    assert named([one, two]) == ["w1", "w2"]
    assert named([one]) == ["emr"]
    short = run_folder(tmp_path / "elsewhere" / "w1", judged(), plugin=["emr"], epochs=1)
    assert named([one, short]) == [str(one), str(short)]


def test_a_run_named_twice_counts_once_and_a_copy_of_it_is_refused(tmp_path):
    one = run_folder(tmp_path / "one", judged())
    assert len(read_runs([one, tmp_path / "." / "one"])) == 1
    with pytest.raises(UsageError, match="the same run twice"):
        read_runs([one, run_folder(tmp_path / "two", judged())])


def test_runs_judged_on_other_images_are_refused(tmp_path):
    one, two, old = (
        run_folder(tmp_path / name, judged(**points, seed=seed), seed=seed)
        for seed, (name, points) in enumerate(
            {"one": {"points_sha256": "a"}, "two": {"points_sha256": "b"}, "old": {}}.items()
        )
    )
    check_alike(read_runs([one, old]))  # an old record cannot be checked: a note says so
    with pytest.raises(UsageError, match="not evaluated on the same images") as error:
        check_alike(read_runs([one, old, two]))
    assert f"{one} and {two}" in shown(error)


@pytest.mark.parametrize(
    ("key", "first", "second", "flag"),
    [
        ("data", "digits", "mnist", "--data digits"),
        ("n", 4, 5, "--subset 4"),
        ("threat", "Linf:0.1", "Linf:0.2", "--threat Linf:0.1"),
        ("ladder", "standard", "quick", "--ladder standard"),
        ("seed", 0, 7, "--seed 0"),
    ],
)
def test_runs_judged_otherwise_are_refused_with_the_command_that_fixes_it(
    tmp_path, key, first, second, flag
):
    two = judged(**{key: second}) if key != "n" else record([*CLEAN, 1], [*RIGHT, 0], [*RIGHT, 0])
    folders = [
        run_folder(tmp_path / "one", judged(**{key: first}), epochs=1),
        run_folder(tmp_path / "two", two),
    ]
    with pytest.raises(UsageError, match="not evaluated in the same way") as error:
        check_alike(read_runs(folders))
    assert f"{key} {first} ({folders[0]}), {second} ({folders[1]})" in shown(error)
    assert f"defense eval {folders[1]} {flag}" in shown(error)
    assert (
        sum(
            f" {name} " in shown(error).splitlines()[0]
            for name in ("data", "n", "threat", "ladder", "seed")
        )
        == 1
    )


def test_an_old_record_is_the_one_to_be_judged_again(tmp_path):
    old, new = (
        run_folder(tmp_path / "old", record(CLEAN, RIGHT), epochs=1),
        run_folder(tmp_path / "new", judged()),
    )
    with pytest.raises(UsageError, match=r"ladder unknown \(.*old\), quick") as error:
        check_alike(read_runs([old, new]))
    assert f"defense eval {old} --ladder quick --seed 0" in shown(error)
    check_alike(read_runs([old]))


def test_runs_may_be_judged_with_their_own_seeds(tmp_path):
    at = [run_folder(tmp_path / f"at{seed}", judged(seed=seed), seed=seed) for seed in (0, 1)]
    mart = run_folder(tmp_path / "mart", judged(seed=2), seed=2, plugin=["mart"])
    check_alike(read_runs([*at, mart]))


def test_whoever_is_no_run_is_judged_with_a_seed_of_the_runs(tmp_path):
    runs = [run_folder(tmp_path / f"at{seed}", judged(seed=seed), seed=seed) for seed in (0, 1)]
    stranger = run_folder(tmp_path / "stranger", judged(seed=1, model="resnet20"))
    (stranger / "run.toml").unlink()
    check_alike(read_runs([stranger, *runs]))
    for others in (runs[:1], [runs[0], run_folder(tmp_path / "at2", judged(seed=2), seed=2)]):
        with pytest.raises(UsageError, match="seed") as error:
            check_alike(read_runs([stranger, *others]))
        assert "defense eval resnet20 --seed 0;" in shown(error)


def test_a_run_judged_elsewhere_is_still_that_run(tmp_path):
    home = run_folder(tmp_path / "home", judged(), {"seconds": 4.5}, seed=3, plugin=["mart"])
    elsewhere = run_folder(tmp_path / "evals", judged(model=str(home)))
    (elsewhere / "run.toml").unlink()
    (run,) = read_runs([elsewhere])
    assert (run.method, run.seed, run.seconds, run.folder, run.home) == (
        "mart",
        3,
        4.5,
        elsewhere,
        home,
    )


def test_a_verdict_of_fail_is_refused_by_name(tmp_path):
    good = run_folder(tmp_path / "good", judged())
    bad = run_folder(tmp_path / "bad", judged(verdict="FAIL"), epochs=1)
    with pytest.raises(UsageError, match="FAIL") as error:
        refuse_failed(read_runs([good, bad]))
    assert str(bad) in shown(error)
    assert str(good) not in shown(error)
    refuse_failed(read_runs([good]))
