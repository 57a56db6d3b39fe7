"""F1, F2: killed at any moment, a run goes on to the very weights it would have had."""

from __future__ import annotations

import json
import random
import signal

import pytest

from abatis.train.checkpoint import load_checkpoint
from tests.faults import checkpoints, die, flip, in_child, in_save, killed, train
from tests.helpers import final_bytes

STEPS = 8
# in one save: weights, state, manifest; the folder after two of them and at the end; its parent
FLUSHES = 7


@pytest.mark.parametrize("corrupted", [False, True], ids=["", "newest-corrupted"])
@pytest.mark.parametrize("seed", range(5))
def test_f1_killed_at_a_random_step_and_resumed_equals_the_uninterrupted_run(
    tmp_path, whole, seed, corrupted
):
    step = random.Random(seed).randrange(
        5 if corrupted else 1, STEPS
    )  # from step 5 on there are two checkpoints
    killed(tmp_path, step)
    if corrupted:
        flip(checkpoints(tmp_path)[-1] / "weights.safetensors")
    folder = train(tmp_path, resume=True)
    assert final_bytes(folder) == whole
    rejected = "checkpoint rejected" in "".join(
        json.loads((folder / "environment.json").read_text())["resumed"]
    )
    assert rejected == corrupted
    rows = [
        json.loads(line)["epoch"] for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]
    assert rows == [1, 2]


def test_f1_killed_again_and_again(tmp_path, whole):
    for step in (1, 2, 4, 4, 5, 7):
        killed(tmp_path, step, resume=True)
    assert final_bytes(train(tmp_path, resume=True)) == whole


def left_over(out):
    return [path.name for path in checkpoints(out) if path.suffix]


@pytest.mark.parametrize("save", [1, 2])  # of step 3, and of step 4 at the end of the first epoch
@pytest.mark.parametrize("flush", range(1, FLUSHES + 1))
def test_f2_killed_inside_a_save_the_one_before_is_used(tmp_path, whole, save, flush):
    def work():
        in_save(save, die, flush=flush)
        train(tmp_path)

    assert in_child(work) == -signal.SIGKILL
    loaded = load_checkpoint(tmp_path / "r" / "checkpoints")
    steps = (0, 3, 4)[
        save - (flush < FLUSHES)
    ]  # before the last flush, that of the parent, it has its name
    assert (loaded.step if loaded else 0) == steps
    assert final_bytes(train(tmp_path, resume=True)) == whole
    assert left_over(tmp_path) == []


@pytest.mark.parametrize("rename", [1, 2])
def test_f2_killed_while_a_checkpoint_takes_the_place_of_one_of_the_same_step(
    tmp_path, whole, rename
):
    """The last step of an epoch may be saved twice: before and after the validation."""

    def work():
        in_save(2, die, rename=rename)
        train(tmp_path, checkpoint_every=4)

    assert in_child(work) == -signal.SIGKILL
    assert load_checkpoint(tmp_path / "r" / "checkpoints").step == 4
    assert final_bytes(train(tmp_path, checkpoint_every=4, resume=True)) == whole
    assert left_over(tmp_path) == []
