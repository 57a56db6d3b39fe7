"""Small whole runs that are stopped, and repeated bit for bit by --resume."""

from __future__ import annotations

import json
import signal
from dataclasses import replace

import pytest
import torch

import abatis
from abatis import TrainerHooks
from abatis.cli import run as defense_run
from abatis.errors import CheckpointError, Stopped, UsageError
from abatis.evaluate.judge import Judge
from abatis.runs import engine
from tests.helpers import final_bytes, plugin, tiny, write_tiny


def stopping(step):
    """A plugin that asks the run to stop during one step, as Ctrl-C would."""

    class Hooks(TrainerHooks):
        asked = False

        def after_update(self, ctx):
            if ctx.step == step and not Hooks.asked:
                Hooks.asked = True
                signal.raise_signal(signal.SIGINT)

    return plugin("stopping", trainer=lambda run: Hooks())


@pytest.mark.parametrize(
    "step", [0, 1, 3, 4]
)  # the first, inside, the last of an epoch, the first of the next
@pytest.mark.parametrize("changes", [{"ema": 0.9, "augment": "crop-flip"}])
def test_ctrl_c_saves_and_resume_repeats_the_run_to_the_bit(tmp_path, install, step, changes):
    changes = {**changes, "plugin": ["stopping"], "optim": {"name": "adamw", "lr": 0.001}}
    install(stopping(-1))
    whole = abatis.run(tiny(tmp_path, name="whole", **changes)).folder
    install(stopping(step))
    with pytest.raises(Stopped) as caught:
        abatis.run(tiny(tmp_path, name="cut", **changes))
    assert caught.value.exit_code == 75
    cut = abatis.run(tiny(tmp_path, name="cut", resume=True, **changes)).folder
    assert final_bytes(cut) == final_bytes(whole)
    for file in ("weights.safetensors", "weights-averaged.safetensors"):
        assert (cut / file).read_bytes() == (whole / file).read_bytes()
    rows = [
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (whole, cut)
    ]
    for row in rows[0] + rows[1]:
        del row["seconds"], row["peak_memory_mb"]
    assert rows[0] == rows[1]


def test_a_resumed_run_keeps_the_layout_that_was_timed(tmp_path, install, monkeypatch):
    """The first start finds contiguous memory faster, the second one channels_last."""

    def prefer(layout):
        monkeypatch.setattr(
            engine, "choose_layout", lambda net, x, steps: net.use_layout(layout) or f"{layout}!"
        )

    changes = {"plugin": ["stopping"]}
    prefer("contiguous")
    install(stopping(-1))
    whole = abatis.run(tiny(tmp_path, name="whole", **changes)).folder
    install(stopping(2))
    with pytest.raises(Stopped):
        abatis.run(tiny(tmp_path, name="cut", **changes))
    prefer("channels_last")
    cut = abatis.run(tiny(tmp_path, name="cut", resume=True, **changes)).folder
    assert final_bytes(cut) == final_bytes(whole)
    assert 'layout = "contiguous"' in (cut / "run.toml").read_text()
    (row,) = [
        row for row in json.loads((whole / "plan.json").read_text()) if row["role"] == "engine"
    ]
    assert row["options"]["layout"] == "contiguous (contiguous!)"
    again = abatis.run(tiny(tmp_path, name="again", layout="contiguous", **changes)).folder
    assert final_bytes(again) == final_bytes(whole)
    other = abatis.run(tiny(tmp_path, name="other", **changes)).folder
    assert 'layout = "channels_last"' in (other / "run.toml").read_text()


def test_a_signal_in_the_evaluation_leaves_a_run_that_resume_judges(tmp_path, monkeypatch):
    attacked = Judge.run_attack

    def stopped(self, name, *rest, **named):
        if name == "PGD-20":
            signal.raise_signal(signal.SIGTERM)
        return attacked(self, name, *rest, **named)

    monkeypatch.setattr(Judge, "run_attack", stopped)
    with pytest.raises(Stopped, match="during the evaluation") as caught:
        abatis.run(tiny(tmp_path, name="r", eval="quick", epochs=1))
    assert caught.value.exit_code == 75
    monkeypatch.setattr(Judge, "run_attack", attacked)
    cut = abatis.run(tiny(tmp_path, name="r", eval="quick", epochs=1, resume=True))
    whole = abatis.run(tiny(tmp_path, name="whole", eval="quick", epochs=1))
    assert final_bytes(cut.folder) == final_bytes(whole.folder)
    assert (cut.clean_acc, cut.pgd20_acc, cut.robust_acc) == (
        whole.clean_acc,
        whole.pgd20_acc,
        whole.robust_acc,
    )


@pytest.mark.slow
def test_resume_starts_where_there_never_was_a_checkpoint_and_ends_at_once_where_all_is_done(
    tmp_path,
):
    config = tiny(tmp_path, name="r", resume=True, eval="quick")
    folder = abatis.run(config).folder
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    again = abatis.run(config)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before
    assert again.clean_acc == json.loads((folder / "eval.json").read_text())["clean_acc"]


def test_a_plugin_with_a_hyphen_in_its_name_resumes(tmp_path):
    config = tiny(
        tmp_path,
        plugin=["input-gradient"],
        input_gradient={"weight": 2},
        limit=40,
        epochs=1,
        name="a",
    )
    abatis.run(config)
    abatis.run(config.model_copy(update={"resume": True}))


def test_resume_judges_again_where_more_is_asked(tmp_path):
    folder = abatis.run(tiny(tmp_path, name="r", eval="quick", epochs=1)).folder
    result = abatis.run(tiny(tmp_path, name="r", eval="standard", epochs=1, resume=True))
    assert result.autoattack_acc is not None
    assert json.loads((folder / "eval.json").read_text())["test_set_evaluations"] == 2


def test_a_transform_may_draw_and_is_repeated_on_resume(tmp_path, install):
    """From the run's draws and the global generators; new for each batch, the same on resume."""
    seen = []

    def trainer(run):
        class Noise(TrainerHooks):
            def transform_batch(self, batch):
                noise = run.random.uniform("noise", batch.x) + torch.rand(batch.x.shape)
                seen.append(noise.sum().item())
                return replace(batch, x=(batch.x + 0.01 * noise).clamp(0, 1))

        return Noise()

    install(plugin("noise", trainer=trainer), stopping(2))
    changes = {"plugin": ["noise", "stopping"], "accumulate": 2}
    with pytest.raises(Stopped):
        abatis.run(tiny(tmp_path, name="cut", **changes))
    cut = abatis.run(tiny(tmp_path, name="cut", resume=True, **changes)).folder
    first, seen[:] = list(seen), []
    install(plugin("noise", trainer=trainer), stopping(-1))
    assert final_bytes(abatis.run(tiny(tmp_path, name="whole", **changes)).folder) == final_bytes(
        cut
    )
    assert first == seen
    assert len(set(seen)) == len(seen) == 8


def test_resume_with_more_epochs_goes_on(tmp_path):
    folder = abatis.run(tiny(tmp_path, name="r", epochs=1, optim={"schedule": "constant"})).folder
    abatis.run(tiny(tmp_path, name="r", epochs=2, optim={"schedule": "constant"}, resume=True))
    whole = abatis.run(
        tiny(tmp_path, name="whole", epochs=2, optim={"schedule": "constant"})
    ).folder
    assert final_bytes(folder) == final_bytes(whole)


def test_resume_refuses_another_run_option_by_option(tmp_path):
    abatis.run(tiny(tmp_path, name="r", epochs=1))
    with pytest.raises(UsageError, match=r"batch_size was 32, now 16") as caught:
        abatis.run(tiny(tmp_path, name="r", epochs=1, batch_size=16, resume=True))
    assert "epochs" not in str(caught.value)


def test_checkpoints_that_are_all_broken_are_an_error(tmp_path):
    folder = abatis.run(tiny(tmp_path, name="r")).folder
    for path in (folder / "checkpoints").rglob("state.pt"):
        path.write_bytes(b"")
    with pytest.raises(CheckpointError):
        abatis.run(tiny(tmp_path, name="r", resume=True))
    assert defense_run([*write_tiny(tiny(tmp_path)), "--name", "r", "--resume"]) == 3
