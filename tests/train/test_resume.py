"""What a run must have in common with the checkpoint it resumes from."""

from __future__ import annotations

from pathlib import Path

import pytest

from abatis.errors import CheckpointError, UsageError
from abatis.train.checkpoint import Loaded
from abatis.train.resume import Start, check_fit, check_resumable, find_differences, is_finished
from tests.helpers import tiny

BEFORE = {
    "world_size": 1,
    "options": {"epochs": 5, "batch_size": 8, "out": "a", "optim": {"lr": 0.1}, "device": "auto"},
    "versions": {"torch": "2.0", "my-idea": "1"},
    "machine": {"device": "cpu", "threads": 1},
    "content": {},
}


def change(**tables):
    now = {key: dict(value) if isinstance(value, dict) else value for key, value in BEFORE.items()}
    for key, value in tables.items():
        now[key] = {**now[key], **value} if isinstance(value, dict) else value
    return now


@pytest.mark.parametrize(
    ("now", "found"),
    [
        (change(), ()),
        (change(options={"out": "b", "workers": 3, "nproc": 2, "eval": "none"}), ()),
        (change(options={"epochs": 6}), ("epochs was 5, now 6",)),
        (change(machine={"device": "cuda"}), ("device was cpu, now cuda",)),
        (change(machine={"threads": 2}), ("threads was 1, now 2",)),
        (change(options={"device": "cpu"}), ()),  # what counts is the device, not its name
    ],
)
def test_what_may_differ_and_what_then_ends_bit_exactness(now, found):
    assert check_resumable(BEFORE, now, ()) == found


@pytest.mark.parametrize(
    ("now", "name", "found"),
    [
        (change(options={"epochs": 4}), "epochs", "epochs was 5, now 4"),
        (change(options={"batch_size": 9}), "batch_size", "batch_size was 8, now 9"),
        (change(options={"optim": {"lr": 0.2}}), "optim.lr", "optim.lr was 0.1, now 0.2"),
        (change(versions={"torch": "2.1"}), "torch", "torch was 2.0, now 2.1"),
        (change(versions={"my-idea": "2"}), "my_idea", "my_idea was 1, now 2"),
        (change(world_size=2), "world_size", "world_size was 1, now 2"),
        (change(content={"extra.file": "x"}), "extra.file", "extra.file was None, now x"),
    ],
)
def test_what_may_not_differ_unless_it_is_allowed_by_name(now, name, found):
    with pytest.raises(UsageError) as caught:
        check_resumable(BEFORE, now, ())
    assert found in caught.value.what
    assert f"--allow-mismatch {name}" in caught.value.fix
    assert check_resumable(BEFORE, now, (name,)) == (found,)
    assert check_resumable(BEFORE, now, (name.replace("_", "-"),)) == (found,)


def test_differences_are_listed_by_name():
    found = find_differences({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 3, "d": 4}, {"d"})
    assert found == {"b": "b was 2, now 3", "c": "c was 3, now None"}


def test_a_start_is_described():
    loaded = Loaded(6, {}, {}, {}, Path())
    assert Start().describe() == []
    assert Start(None, True, ("step-6: x",)).describe() == [
        "restarted from step 0",
        "checkpoint rejected: step-6: x",
    ]
    assert Start(loaded, True, (), ("threads was 1, now 2",)).describe() == [
        "resumed after step 6",
        "not bit-exact: threads was 1, now 2",
    ]


def test_a_checkpoint_without_what_is_read_from_it_does_not_fit():
    loaded = Loaded(6, {}, {}, {}, Path())
    with (
        pytest.raises(CheckpointError, match="step 6 does not fit: KeyError: 'x'"),
        check_fit(loaded),
    ):
        raise KeyError("x")


@pytest.mark.parametrize(
    ("finished", "ended", "early_stop", "expected"),
    [(True, 2, 0, True), (True, 1, 0, False), (True, 1, 3, True), (False, 2, 0, False)],
)
def test_a_training_has_ended(tmp_path, finished, ended, early_stop, expected):
    config = tiny(tmp_path, epochs=2, early_stop=early_stop)
    assert is_finished({"finished": finished, "epochs_ended": ended}, config) is expected
