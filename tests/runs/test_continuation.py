"""``--continue-from``: a second run goes on exactly where the first one ended, or says why not."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from abatis import UsageError, run
from abatis.cli import main
from abatis.errors import CheckpointError, Stopped
from abatis.nets.weights_file import write_weights
from abatis.runs import runner
from abatis.runs.open_data import open_run_data
from abatis.system.folder_lock import lock_folder
from tests.faults import ended, start_child
from tests.helpers import final_bytes, tiny

CONSTANT = {"schedule": "constant"}  # a rate that does not depend on the length of a run


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A finished run of two epochs."""
    folder = tmp_path_factory.mktemp("first")
    run(tiny(folder, name="first", epochs=2, optim=CONSTANT))
    return folder / "first"


def go_on(out, source, **changes):
    options = {"name": "second", "epochs": 3, "optim": CONSTANT, "continue_from": source, **changes}
    run(tiny(out, **options))
    return out / "second"


def read_state(folder, step):
    checkpoint = folder / "checkpoints" / f"step-{step:08d}"
    state = torch.load(checkpoint / "state.pt", weights_only=True)
    return load_file(checkpoint / "weights.safetensors"), state


def test_two_phases_are_the_whole_run_to_the_bit(tmp_path, first):
    run(tiny(tmp_path, name="whole", epochs=4, optim=CONSTANT))
    assert final_bytes(go_on(tmp_path, first, epochs=4)) == final_bytes(tmp_path / "whole")
    # the same start without the moments and the epoch is another training
    run(tiny(tmp_path, name="tuned", epochs=2, optim=CONSTANT, init=first))
    assert final_bytes(tmp_path / "tuned") != final_bytes(tmp_path / "whole")


@pytest.mark.slow
def test_averages_and_the_state_of_a_plugin_go_on_too(tmp_path):
    shared = {"optim": CONSTANT, "ema": 0.9, "plugin": ["fast"], "fast": {"guard_every": 3}}
    run(tiny(tmp_path, name="whole", epochs=3, **shared))
    run(tiny(tmp_path, name="first", epochs=2, **shared))
    second = go_on(tmp_path, tmp_path / "first", **shared)
    (_, whole), (_, state) = (read_state(tmp_path / "whole", 12), read_state(second, 12))
    assert state["trainers"].keys() == {"fast", "averaging"}
    assert state["trainers"]["averaging"]["updates"] == whole["trainers"]["averaging"]["updates"]
    averages = (one["trainers"]["averaging"]["averaged"] for one in (whole, state))
    for one, other in zip(*(average.values() for average in averages), strict=True):
        assert torch.equal(one, other)


def test_another_method_starts_with_all_of_the_state(tmp_path, first):
    changes = {"plugin": ["trades"], "optim": {**CONSTANT, "lr": 0.01, "weight_decay": 0.0}}
    second = go_on(tmp_path, first, **changes, attack={"steps": 1})
    (weights, state), (there, before) = (read_state(folder, 8) for folder in (second, first))
    assert weights.keys() == there.keys()
    assert all(torch.equal(weights[name], there[name]) for name in there)  # buffers are among them
    moments, earlier = (one["optimizer"]["state"] for one in (state, before))
    assert len(moments) == len(earlier) > 0
    for number, buffers in earlier.items():
        assert torch.equal(moments[number]["momentum_buffer"], buffers["momentum_buffer"])
    assert state["epochs_ended"] == 2
    (group,) = state["optimizer"]["param_groups"]
    assert group["weight_decay"] == 0  # an option of the second run
    rows = [json.loads(line) for line in (second / "metrics.jsonl").read_text().splitlines()]
    assert [(row["epoch"], row["step"], row["lr"]) for row in rows] == [(3, 12, 0.01)]


@pytest.mark.slow
def test_another_batch_size_goes_on_at_the_same_epoch(tmp_path, first):
    second = go_on(tmp_path, first, batch_size=16)  # 8 steps an epoch instead of 4
    _, state = read_state(second, 24)
    assert state["epochs_ended"] == 3


def test_the_source_is_recorded_with_its_digest(tmp_path, first, capsys):
    second = go_on(tmp_path, first)
    manifest = json.loads((first / "checkpoints/step-00000008/manifest.json").read_text())
    expected = {
        "run": str(first),
        "epoch": 2,
        "step": 8,
        "sha256": manifest["manifest_sha256"],
    }
    assert json.loads((second / "environment.json").read_text())["continues"] == expected
    row = json.loads((second / "plan.json").read_text())[0]
    assert (row["role"], row["provider"]) == ("start", "first")
    assert row["options"] == {key: expected[key] for key in ("epoch", "step", "sha256")}
    for step in (8, 12):
        path = second / f"checkpoints/step-{step:08d}/manifest.json"
        assert json.loads(path.read_text())["continues"] == expected
    assert f'continue_from = "{first}"' in (second / "run.toml").read_text()


def test_it_resumes_to_the_bit_without_its_source(tmp_path, first):
    source = shutil.copytree(first, tmp_path / "source")
    second = go_on(tmp_path, source, epochs=4)
    expected = final_bytes(second)
    metrics = (second / "metrics.jsonl").read_text()
    plan = (second / "plan.json").read_text()
    shutil.rmtree(source)
    for newest in (16, 12):  # as if it had been killed in its second epoch, then in its first
        shutil.rmtree(second / "checkpoints" / f"step-{newest:08d}")
        go_on(tmp_path, source, epochs=4, resume=True)
        assert final_bytes(second) == expected
        rows = [json.loads(line) for line in (second / "metrics.jsonl").read_text().splitlines()]
        assert [row["epoch"] for row in rows] == [3, 4]
        assert rows[0]["loss"] == json.loads(metrics.splitlines()[0])["loss"]
        assert (second / "plan.json").read_text() == plan
        shutil.rmtree(second / "checkpoints" / "step-00000016")


@pytest.mark.slow
def test_it_can_be_continued_itself(tmp_path, first):
    go_on(tmp_path, first)
    third = go_on(tmp_path, tmp_path / "second", name="third", epochs=4).parent / "third"
    run(tiny(tmp_path, name="whole", epochs=4, optim=CONSTANT))
    assert final_bytes(third) == final_bytes(tmp_path / "whole")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"epochs": 2}, r"ended after epoch 2, so --epochs 2 leaves nothing to train"),
        ({"backbone": "resnet8"}, r"has another network: \d+ tensors differ, such as"),
        ({"ema": 0.9}, r"does not average its weights \(--ema\), and this one does"),
        ({"optim": {"name": "adamw"}}, "has the optimizer sgd, this one adamw"),
        (
            {"optim": {**CONSTANT, "decay_all": False}},
            r"optimizer has groups of \[14\] tensors, this one's \[9, 5\]",
        ),
        ({"normalize": "none"}, "has --normalize data, this one none"),
        ({"shard": "root"}, "--continue-from does not support --shard"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(tmp_path, first, changes, complaint):
    with pytest.raises(UsageError, match=complaint) as caught:
        go_on(tmp_path, first, **changes)
    assert len(str(caught.value).splitlines()) <= 4
    assert not (tmp_path / "second" / "checkpoints").exists()


@pytest.mark.slow
def test_averages_that_the_second_run_does_not_have_are_refused(tmp_path):
    run(tiny(tmp_path, name="first", epochs=1, ema=0.9))
    with pytest.raises(UsageError, match=r"averages its weights \(--ema\), and this one does not"):
        go_on(tmp_path, tmp_path / "first")


def test_held_out_images_that_the_first_run_was_trained_on_are_refused(tmp_path, first):
    run(tiny(tmp_path, name="first", epochs=1, optim=CONSTANT, validation=0))
    with pytest.raises(UsageError, match="trained on 15 of the images that this one holds out"):
        go_on(tmp_path, tmp_path / "first")
    go_on(tmp_path, tmp_path / "first", validation=0)
    with pytest.raises(UsageError, match="trained on 10 of the images that this one holds out"):
        go_on(tmp_path, first, name="more", validation=25)


def test_no_run_and_no_checkpoint_are_named(tmp_path, first):
    with pytest.raises(UsageError, match="nothing holds no checkpoints"):
        go_on(tmp_path, tmp_path / "nothing")
    with pytest.raises(UsageError, match=r"weights\.safetensors holds no checkpoints"):
        go_on(tmp_path, first / "weights.safetensors")
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    with pytest.raises(UsageError, match="empty holds no checkpoint yet"):
        go_on(tmp_path, tmp_path / "empty")


@pytest.mark.parametrize("kept", ["an older one", "none"])
def test_a_damaged_checkpoint_is_never_replaced_by_an_older_one(tmp_path, first, kept):
    source = shutil.copytree(first, tmp_path / "source")
    if kept == "none":
        shutil.rmtree(source / "checkpoints" / "step-00000004")
    file = source / "checkpoints" / "step-00000008" / "weights.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match="newest checkpoint is damaged: step-00000008"):
        go_on(tmp_path, source)


def test_a_run_that_stopped_within_an_epoch_is_refused(tmp_path, monkeypatch):
    validate = runner._validate

    def stop(*given):
        raise Stopped("here")

    monkeypatch.setattr(runner, "_validate", stop)
    with pytest.raises(Stopped):
        run(tiny(tmp_path, name="first", epochs=2, checkpoint_every=3))
    monkeypatch.setattr(runner, "_validate", validate)
    with pytest.raises(UsageError, match="stopped within epoch 1"):
        go_on(tmp_path, tmp_path / "first")


@pytest.mark.slow
def test_a_run_that_is_being_written_is_refused(tmp_path, first):
    source = shutil.copytree(first, tmp_path / "source")
    with (
        lock_folder(source),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("OMP_NUM_THREADS", "1")
        # the lock is this process's own: only another one can see it
        child = start_child(lambda: _refused(tmp_path, source))
        assert ended(child) == 0
    go_on(tmp_path, source)


def _refused(out, source):
    with pytest.raises(UsageError, match=r"process \d+ on .* is writing this run"):
        go_on(out, source)


def test_other_starts_conflict_in_words(tmp_path, first):
    with pytest.raises(UsageError, match="--init and --continue-from both give the weights"):
        go_on(tmp_path, first, init=first)
    with pytest.raises(UsageError, match="is this run's own folder"):
        run(tiny(first.parent, name="first", epochs=3, continue_from=first, resume=True))
    run(tiny(tmp_path, name="second", epochs=1, optim=CONSTANT))
    with pytest.raises(UsageError, match=r"continue_from was None, now .*first"):
        go_on(tmp_path, first, resume=True)


def test_a_dry_run_shows_the_source_or_says_that_it_is_missing(tmp_path, first, capsys):
    words = ["run", "--backbone", "cnn", "--data", "digits", "--threat", "Linf:0.1", "--dry-run"]
    assert main([*words, "--epochs", "3", "--continue-from", str(first)]) == 0
    assert "epoch 2, step 8" in " ".join(capsys.readouterr().out.split())
    assert main([*words, "--continue-from", str(tmp_path / "later")]) == 0
    assert "this one cannot start before it has ended" in " ".join(capsys.readouterr().out.split())
    assert main([*words, "--epochs", "2", "--continue-from", str(first)]) == 2
    assert "leaves nothing to train" in capsys.readouterr().err


def write_classes(root, names):
    for part in ("train", "val"):
        for number, name in enumerate(names):
            for shade in (50, 100):
                file = root / part / name / f"{shade}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (8, 8), (shade, 80 * number, 0)).save(file)


@pytest.mark.slow
def test_classes_keep_their_labels_and_others_are_refused(tmp_path):
    write_classes(tmp_path / "data", ["2", "10"])
    write_classes(tmp_path / "other", ["2", "11"])
    small = {"limit": None, "batch_size": 2, "epochs": 1}
    config = tiny(tmp_path, name="first", data=f"folder:{tmp_path / 'data'}", **small)
    run(config)
    for file in (tmp_path / "first").glob("*.safetensors"):  # as an older version numbered them
        write_weights(file, load_file(file), {"class_names": ["10", "2"]})
    later = {**small, "epochs": 2, "name": "second", "continue_from": tmp_path / "first"}
    second = tiny(tmp_path, data=config.data, **later)
    assert open_run_data(second, None, torch.device("cpu")).info.class_names == ("10", "2")
    with pytest.raises(UsageError, match="has the classes 10, 2, these data have 2, 11"):
        run(tiny(tmp_path, data=f"folder:{tmp_path / 'other'}", **later))
