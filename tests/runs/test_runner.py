"""Small whole runs: what they leave, that they repeat and resume bit for bit, and mistakes."""

from __future__ import annotations

import json
import random
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import abatis
from abatis import Term
from abatis.cli import run as defense_run
from abatis.config.command_line import parse_run
from abatis.errors import UsageError
from tests.helpers import final_bytes, plugin, tiny, write_tiny


def test_a_run_folder_holds_what_the_run_was_and_gave(tmp_path):
    result = abatis.run(tiny(tmp_path, plugin=["emr", "mart"], eval="quick", name="r", ema=0.9))
    assert result.folder == tmp_path / "r"
    names = {path.name for path in result.folder.iterdir()}
    weights = {"weights.safetensors", "weights-last.safetensors", "weights-averaged.safetensors"}
    assert names == weights | {
        "run.toml",
        "plan.json",
        "held-out.json",
        "metrics.jsonl",
        "eval.json",
        "pictures.json",
        "environment.json",
        "ended.json",
        "report.html",
        "checkpoints",
    }
    record = json.loads((result.folder / "eval.json").read_text())
    assert (record["clean_acc"], record["pgd20_acc"], record["n"]) == (
        result.clean_acc,
        result.pgd20_acc,
        38,
    )
    assert 0 <= record["pgd20_acc"] <= record["clean_acc"] <= 1
    assert record["attacks"]["PGD-20"]["steps"] == 20
    assert record["attacks"]["PGD-20"]["step_size"] == pytest.approx(0.025)
    assert (record["weights"], record["test_set_evaluations"]) == (
        "weights-averaged.safetensors",
        1,
    )
    assert "not a benchmark" in record["note"]
    rows = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert {
        "bce",
        "kl",
        "emr/grad_sq",
        "val_robust_acc",
        "train_clean_acc",
        "train_robust_acc",
    } <= rows[0].keys()
    environment = json.loads((result.folder / "environment.json").read_text())
    assert environment["providers"]["emr"] == "0.1.0"
    assert environment["libraries"]["torch"] == torch.__version__


def test_weights_say_nothing_of_time_or_place(tmp_path):
    folders = [abatis.run(tiny(tmp_path / out, name=out)).folder for out in ("a", "b")]
    assert final_bytes(folders[0]) == final_bytes(folders[1])
    assert (folders[0] / "weights.safetensors").read_bytes() == (
        folders[1] / "weights.safetensors"
    ).read_bytes()
    names = load_file(folders[0] / "weights.safetensors").keys()
    assert [name.rpartition(".")[2] for name in names if name.startswith("normalize")] == [
        "mean",
        "std",
    ]


def test_run_toml_repeats_the_run(tmp_path):
    first = abatis.run(tiny(tmp_path, plugin=["emr"], emr={"weight": 2}, name="first")).folder
    config = parse_run(["--config", str(first / "run.toml"), "--name", "again", "--quiet"])
    assert final_bytes(abatis.run(config).folder) == final_bytes(first)


def test_load_gives_the_averaged_network_in_eval_mode(tmp_path):
    folder = abatis.run(tiny(tmp_path, ema=0.9)).folder
    model = abatis.load(folder)
    assert not model.training
    for name, tensor in load_file(folder / "weights-averaged.safetensors").items():
        assert torch.equal(model.state_dict()[name], tensor)
    best = load_file(folder / "weights.safetensors")
    assert any(
        not torch.equal(parameter, best[name]) for name, parameter in model.named_parameters()
    )


def test_weight_0_is_the_run_without_the_plugin_bit_for_bit(tmp_path):
    without = abatis.run(tiny(tmp_path, name="without")).folder
    switched_off = abatis.run(tiny(tmp_path, plugin=["emr"], emr={"weight": 0}, name="off")).folder
    with_it = abatis.run(
        tiny(tmp_path, plugin=["emr"], emr={"weight": 100, "reduction": "mean"}, name="on")
    ).folder
    assert final_bytes(switched_off) == final_bytes(without)
    assert final_bytes(with_it) != final_bytes(without)


def test_the_global_generators_are_left_as_found(tmp_path):
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    expected = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    abatis.run(tiny(tmp_path, eval="quick", epochs=1))
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected


def test_an_existing_run_folder_is_refused_and_untouched(tmp_path, capsys):
    folder = abatis.run(tiny(tmp_path, name="r", epochs=1)).folder
    before = (folder / "weights.safetensors").read_bytes()
    assert defense_run([*write_tiny(tiny(tmp_path)), "--name", "r"]) == 2
    assert "--resume" in capsys.readouterr().err
    assert (folder / "weights.safetensors").read_bytes() == before


def test_a_name_is_made_up_and_numbered(tmp_path):
    folders = [abatis.run(tiny(tmp_path, epochs=1, plugin=["mart"])).folder.name for _ in range(2)]
    assert folders == ["mart-cnn-digits", "mart-cnn-digits-2"]


def test_a_run_folder_that_cannot_be_written_is_named(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert defense_run([*write_tiny(tiny(tmp_path / "file")), "--name", "r"]) == 2
    message = capsys.readouterr().err
    assert "cannot write" in message
    assert len(message.strip().splitlines()) <= 4


def test_a_link_out_of_the_output_folder_is_refused(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "r").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="leads out"):
        abatis.run(tiny(tmp_path / "out", name="r"))


def test_a_plugin_that_cannot_be_imported_blocks_only_runs_that_select_it(
    tmp_path, install, capsys
):
    install(broken=ImportError("no module named 'missing'"))
    assert defense_run([*write_tiny(tiny(tmp_path)), "--plugin", "broken"]) == 1
    message = capsys.readouterr().err
    assert "dist-broken 1.0" in message
    assert "missing" in message
    assert abatis.run(tiny(tmp_path, epochs=1)).folder.exists()


@pytest.mark.parametrize(
    ("loss", "code", "complaint"),
    [
        (lambda ctx: {"x": Term(ctx.logits_adv.sum(1) * float("nan"))}, 4, "term 'x'"),
        (lambda ctx: {"x": Term(ctx.logits_adv)}, 1, "shape (32, 10)"),
        (lambda ctx: ctx.nonsense, 1, "AttributeError"),
    ],
)
def test_a_failing_plugin_is_named_with_its_exit_code_and_the_checkpoint_stays(
    tmp_path, install, capsys, loss, code, complaint
):
    calls = []

    def late(ctx):
        calls.append(ctx.step)
        return {"x": Term(ctx.logits_adv.logsumexp(1))} if ctx.step < 4 else loss(ctx)

    install(plugin("late", loss=lambda run: late))
    assert defense_run([*write_tiny(tiny(tmp_path)), "--plugin", "late", "--name", "r"]) == code
    message = capsys.readouterr().err
    assert complaint in message
    assert "Traceback" not in message
    assert [path.name for path in (tmp_path / "r" / "checkpoints").iterdir()] == ["step-00000004"]


def test_early_stopping_ends_when_nothing_gets_better(tmp_path):
    config = tiny(
        tmp_path, name="r", epochs=50, early_stop=2, optim={"lr": 1e-9, "schedule": "constant"}
    )
    rows = (abatis.run(config).folder / "metrics.jsonl").read_text().splitlines()
    assert len(rows) <= 10


class OwnNetwork(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.linear = nn.Linear(64, classes)

    def forward(self, x):
        return self.linear(x.flatten(1))


def own_data(labels=10):
    draw = np.random.default_rng(0)
    return tuple(
        (
            draw.random((size, 1, 8, 8), dtype=np.float32),
            (np.arange(size) % labels).astype(np.int64),
        )
        for size in (60, 20)
    )


def test_my_own_module_and_data_from_python(tmp_path):
    module = OwnNetwork()
    config = tiny(tmp_path, name="mine", eval="quick", limit=None)
    result = abatis.run(config, model=module, data=own_data())
    assert result.n == 20
    table = tomllib.loads((result.folder / "run.toml").read_text())
    assert (table["backbone"], table["data"]) == ("python:OwnNetwork", "python:tuple")
    loaded = abatis.load(result.folder, model=OwnNetwork())
    assert torch.equal(
        loaded.linear.weight, load_file(result.folder / "weights.safetensors")["linear.weight"]
    )
    with pytest.raises(UsageError, match="OwnNetwork"):
        abatis.load(result.folder)
    with pytest.raises(UsageError, match="OwnNetwork"):
        abatis.run(
            parse_run(["--config", str(result.folder / "run.toml"), "--quiet", "--name", "again"])
        )


def test_labels_beyond_the_head_are_refused_before_training(tmp_path):
    with pytest.raises(UsageError, match="label 9 does not fit"):
        abatis.run(
            tiny(tmp_path, name="r", limit=None), model=OwnNetwork(classes=5), data=own_data()
        )


def test_fine_tuning_takes_the_weights_and_gives_a_new_head(tmp_path):
    source = abatis.run(tiny(tmp_path, name="source")).folder
    weights = load_file(source / "weights.safetensors")
    config = tiny(tmp_path, name="tuned", init=source, optim={"lr": 1e-12}, epochs=1)
    tuned = load_file(abatis.run(config).folder / "weights-last.safetensors")
    assert all(
        torch.allclose(tuned[name], weights[name], atol=1e-6)
        for name in weights
        if name.endswith("conv.weight")
    )
    with pytest.raises(UsageError, match="does not fit"):
        abatis.run(tiny(tmp_path, name="other", init=source, backbone="resnet8"))


def test_dry_run_prints_the_plan_and_writes_nothing(tmp_path, capsys):
    line = [*write_tiny(tiny(tmp_path / "out", plugin=["emr", "mart"]))]
    line.remove("--quiet")
    assert defense_run([*line, "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "regularizer" in text
    assert "temperature 40.0" in text
    assert not (tmp_path / "out").exists()


def test_dry_run_needs_no_images(tmp_path, capsys):
    assert (
        defense_run(
            ["--plugin", "emr", "--backbone", "resnet8", "--data-dir", str(tmp_path), "--dry-run"]
        )
        == 0
    )
    assert "cifar10" in capsys.readouterr().out


def test_missing_images_name_the_folder_and_the_offline_default(tmp_path, capsys, monkeypatch):
    from abatis.data.sources import published

    monkeypatch.setattr(
        published.urllib.request,
        "urlopen",
        lambda *_, **__: (_ for _ in ()).throw(OSError("no network")),
    )
    assert (
        defense_run(
            [
                "--backbone",
                "resnet8",
                "--data-dir",
                str(tmp_path / "d"),
                "--out",
                str(tmp_path / "o"),
            ]
        )
        == 2
    )
    message = capsys.readouterr().err
    assert str(tmp_path / "d") in message
    assert "--data digits" in message


def test_piped_output_is_plain_lines(tmp_path, capsys):
    config = tiny(tmp_path, quiet=False, eval="quick", epochs=1)
    abatis.run(config)
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert "epoch 1/1" in text
    assert f"run folder: {Path(tmp_path)}" in text


def test_what_cannot_learn_or_be_learnt_is_refused_and_missing_classes_are_told(tmp_path, capsys):
    x, y = torch.rand(24, 1, 8, 8), torch.arange(24) % 3
    frozen = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).requires_grad_(False)
    with pytest.raises(UsageError, match="Sequential has no trainable parameters"):
        abatis.run(tiny(tmp_path), model=frozen, data=((x, y), (x, y)))
    with pytest.raises(UsageError, match="model is not a torch module"):
        abatis.run(tiny(tmp_path), model=nn.Flatten, data=((x, y), (x, y)))
    with pytest.raises(UsageError, match="the data set has only one class"):
        abatis.run(tiny(tmp_path), data=((x, 0 * y), (x, 0 * y)))
    abatis.run(tiny(tmp_path, quiet=False, epochs=1), data=((x, 2 * y + 1), (x, 2 * y + 1)))
    assert "3 of 6 classes have no training image, the first is 0" in " ".join(
        capsys.readouterr().out.split()
    )


@pytest.mark.parametrize(
    ("normalize", "expected"),
    [
        ("data", [0.3058, 0.3761]),
        ("mean", [0.3058, 1.0]),
        ("none", [0.0, 1.0]),
        ("0.25 0.5", [0.25, 0.5]),
    ],
)
def test_what_the_network_does_to_its_images_first(tmp_path, normalize, expected):
    abatis.run(tiny(tmp_path, name="r", epochs=1, limit=40, normalize=normalize))
    weights = load_file(tmp_path / "r" / "weights.safetensors")
    found = [weights[f"normalize.{name}"].item() for name in ("mean", "std")]
    assert found == pytest.approx(expected)


def test_a_normalisation_that_would_have_no_effect_is_refused(tmp_path):
    with pytest.raises(UsageError, match="--normalize none has no effect on a network from Python"):
        abatis.run(tiny(tmp_path, normalize="none"), model=nn.Flatten())
    for changes in ({"pretrained": True, "backbone": "resnet10t"}, {"backbone": "rb:Standard"}):
        with pytest.raises(UsageError, match="--normalize none has no effect on"):
            abatis.run(tiny(tmp_path, normalize="none", **changes))
    with pytest.raises(UsageError, match="3 channels, and the images have 1"):
        abatis.run(tiny(tmp_path, normalize="imagenet"))
