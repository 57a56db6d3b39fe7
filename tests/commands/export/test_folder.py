"""A run as weights, configuration and card: the same network, and all a stranger must know."""

from __future__ import annotations

import json
import shutil
import tomllib
from dataclasses import replace

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from torch import nn

import abatis
from abatis.commands.eval import command as evaluate
from abatis.commands.export import command
from abatis.commands.export.card import make_card
from abatis.commands.export.finished_run import FinishedRun, read_finished_run
from abatis.commands.export.folder import write_folder
from abatis.errors import UsageError
from abatis.nets.backbones import build
from abatis.nets.digest import weights_digest
from abatis.report.intervals import wilson_interval
from abatis.runs.model_spec import find_model
from abatis.runs.published import load_published
from abatis.runs.run_folder import portable_options
from abatis.system.timm_import import timm
from tests.helpers import tiny

IMAGES = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def export(folder, out, *words):
    return command([str(folder), "--out", str(out), "--to", *words])


def test_the_same_network_bit_for_bit(judged, tmp_path):
    folder = judged()
    assert export(folder, tmp_path, "safetensors") == 0
    ours, theirs = abatis.load(folder), abatis.load(tmp_path)
    assert not theirs.training
    assert weights_digest(theirs) == weights_digest(ours)
    assert torch.equal(theirs(IMAGES), ours(IMAGES))


def test_timm_loads_it_without_the_normalisation(judged, tmp_path):
    folder = judged()
    export(folder, tmp_path, "safetensors")
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    mean, std = (
        torch.tensor(model.pretrained_cfg[key]).view(1, -1, 1, 1) for key in ("mean", "std")
    )
    assert torch.equal(model((IMAGES - mean) / std), abatis.load(folder)(IMAGES))


@pytest.mark.parametrize(
    ("name", "size"),
    [("cifar_resnet8", 32), ("vit_tiny_patch16_224", 32), ("convnext_atto", 64)],
)
def test_every_family_comes_back_at_its_size(name, size, tmp_path):
    shape = {"num_classes": 7, "channels": 3, "image_size": size}
    module = build(name, **shape, mean=[0.1, 0.2, 0.3], std=[0.3, 0.2, 0.1]).eval()
    table = {
        "backbone": name,
        "data": "npz:/home/someone/x.npz",
        "threat": "Linf:8/255",
        "pretrained": False,
    }
    write_folder(FinishedRun(tmp_path, table, [], {}, module, shape, None), tmp_path)
    x = torch.rand(2, 3, size, size)
    again = load_published(tmp_path).eval()
    assert weights_digest(again) == weights_digest(module)
    assert torch.equal(again(x), module(x))


@pytest.mark.parametrize(
    ("data", "size", "crop"),
    [("folder:/x", 160, 0.95), ("folder:/x", 64, 1.0), ("npz:/x.npz", 160, 1.0)],
)
def test_timm_s_own_transforms_see_what_was_judged(data, size, crop, tmp_path):
    name = "test_convnext"
    module = build(
        name, num_classes=3, channels=3, image_size=size, mean=[0.1] * 3, std=[0.3] * 3
    ).eval()
    table = {"backbone": name, "data": data, "threat": "Linf:8/255", "pretrained": False}
    shape = {"num_classes": 3, "channels": 3, "image_size": size}
    write_folder(FinishedRun(tmp_path, table, [], {}, module, shape, None), tmp_path / "out")
    wish = json.loads((tmp_path / "out" / "config.json").read_text())["pretrained_cfg"]
    assert (wish["crop_pct"], wish["interpolation"]) == (crop, "bicubic")


def test_a_network_that_timm_does_not_know(tmp_path):
    def own():
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    module, data = own(), (IMAGES.repeat(8, 1, 1, 1), torch.arange(40) % 10)
    folder = abatis.run(
        tiny(tmp_path, limit=None, epochs=1), model=module, data=(data, data)
    ).folder
    write_folder(read_finished_run(folder, model=own()), tmp_path)
    with pytest.raises(UsageError, match="Sequential, which timm does not know"):
        abatis.load(tmp_path)
    assert weights_digest(abatis.load(tmp_path, model=own())) == weights_digest(
        abatis.load(folder, model=own())
    )


def test_other_weights_than_the_card_s_are_refused(judged, tmp_path):
    export(judged(), tmp_path, "safetensors")
    weights = load_file(tmp_path / "model.safetensors")
    weights["fc.bias"] += 1
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(UsageError, match="not those that"):
        abatis.load(tmp_path)


def test_the_card_tells_all_of_it(judged, tmp_path):
    export(
        judged(verdict="WARN", findings=["D9 spoke"], note="real digits", test_set_evaluations=3),
        tmp_path,
        "safetensors",
    )
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    for part in (
        "| AutoAttack accuracy | 50.00 % |",
        "under the threat Linf:8/255",
        "**WARN**",
        "- D9 spoke",
        "| attacker | pgd |",
        "Trained on `digits`, 150 images of all classes. Real digits.",
        "test set has been used 3 time(s)",
    ):
        assert part in text
    assert json.loads((tmp_path / "config.json").read_text())["abatis"]["verdict"] == "WARN"
    options = tomllib.loads(text.partition("```toml\n")[2].partition("```")[0])
    assert abatis.RunConfig(**options).epochs == 1


def test_programs_read_the_numbers_of_a_card_and_no_bound_as_an_accuracy(judged, tmp_path):
    folder = judged(verdict="WARN", ladder="standard", interval={"robust_acc": [0.35, 0.65]})
    export(folder, tmp_path, "safetensors")
    about = ModelCard.load(tmp_path / "README.md").data
    assert (about.library_name, about.model_name) == ("timm", "little")
    assert about.tags == ["image-classification", "adversarial-robustness", "abatis"]
    told = {one.metric_name.partition(",")[0]: one for one in about.eval_results}
    assert {name: one.metric_value for name, one in told.items()} == {
        "clean accuracy": 32 / 38,
        "AutoAttack accuracy": 0.5,
        "robust accuracy": 0.5,
    }
    assert {(one.task_type, one.metric_type, one.dataset_name) for one in told.values()} == {
        ("image-classification", "accuracy", "digits")
    }
    assert told["clean accuracy"].metric_args == {"images": 38}
    assert told["robust accuracy"].metric_args == {
        "images": 38,
        "interval_95": [0.35, 0.65],
        "threat": "Linf:8/255",
        "ladder": "standard",
        "masking_verdict": "WARN",
    }
    masked = read_finished_run(judged(verdict="FAIL"), allow_fail=True)
    (clean,) = ModelCard(make_card(masked, {})).data.eval_results
    assert clean.metric_name == "clean accuracy"
    assert ModelCard(make_card(replace(masked, record={}), {})).data.eval_results is None


def test_the_card_says_where_there_is_too_little_to_judge(judged, tmp_path):
    export(judged(verdict="UNDECIDED"), tmp_path, "safetensors")
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "Verdict on gradient masking: **too little to judge**" in text
    assert json.loads((tmp_path / "config.json").read_text())["abatis"]["verdict"] == "UNDECIDED"


def test_the_card_counts_the_diagnostic_tests_that_were_made(judged):
    source = read_finished_run(judged(verdict="WARN"))
    tests = [{"id": "D1", "status": status} for status in ("pass", "warn", "not applicable")]
    record = {**source.record, "masking": {**source.record.get("masking", {}), "tests": tests}}
    assert "(2 of 3 tests)." in make_card(replace(source, record=record), {})
    record["masking"]["tests"] = tests[:2]
    assert "(2 tests)." in make_card(replace(source, record=record), {})


def test_the_card_of_a_run_that_ended_early_says_after_which_epoch(judged, tmp_path, capsys):
    whole = judged()
    assert export(whole, tmp_path / "whole", "safetensors") == 0
    assert "Training ended" not in (tmp_path / "whole" / "README.md").read_text(encoding="utf-8")
    folder = tmp_path / "cut"
    shutil.copytree(whole, folder)
    options = (folder / "run.toml").read_text()
    (folder / "run.toml").write_text(options.replace("epochs = 1\n", "epochs = 40\n"))
    (folder / "ended.json").write_text('{"state": "stopped", "why": "stopped after step 5"}')
    capsys.readouterr()
    assert export(folder, tmp_path / "out", "safetensors") == 0
    said = "Training ended after epoch 1 of 40 (run stopped: stopped after step 5)."
    assert said in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert f"note: {said}" in capsys.readouterr().out


def test_the_card_of_a_run_that_was_not_judged_or_is_masked(judged, tmp_path):
    source = read_finished_run(judged(verdict="FAIL"), allow_fail=True)
    assert "cannot be trusted" in make_card(source, {})
    assert "was not evaluated" in make_card(replace(source, record={}), {})
    with pytest.raises(UsageError, match=r"verdict of .* is FAIL"):
        export(source.folder, tmp_path, "safetensors")
    assert export(source.folder, tmp_path, "safetensors", "--allow-fail") == 0


def test_no_path_of_this_machine_is_published():
    table = {
        "out": "/home/me/runs",
        "data": "folder:/home/me/flowers",
        "threat": "Linf:8/255",
        "use": {},
        "attack": {"step_size": "2/255"},
        "init": "../old/w.safetensors",
        "backbone": "/home/me/net.py:make",
    }
    assert portable_options(table) == {
        "data": "folder:flowers",
        "threat": "Linf:8/255",
        "attack": {"step_size": "2/255"},
        "init": "w.safetensors",
        "backbone": "net.py:make",
        "use": {},
    }


def test_it_is_judged_under_its_own_threat(judged, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = judged()
    export(folder, tmp_path / "out", "safetensors")
    assert (
        evaluate(["out", "--data", "digits", "--ladder", "quick", "--subset", "20", "--quiet"]) == 0
    )
    (record,) = (json.loads(path.read_text()) for path in tmp_path.glob("evals/*/eval.json"))
    assert record["threat"] == "Linf:0.1"
    assert record["weights_sha256"] == weights_digest(abatis.load(folder))


def test_a_folder_that_is_neither(tmp_path):
    with pytest.raises(UsageError, match="not a run folder"):
        find_model(str(tmp_path), None)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UsageError, match="names no image classifier"):
        abatis.load(tmp_path)


def test_the_card_of_a_run_under_several_threats_has_all_of_them(judged):
    other = {
        "threat": "L2:1/2",
        "pgd20_acc": 0.75,
        "robust_acc": 0.625,
        "verdict": "WARN",
        "findings": ["odd under the second"],
        "per_point": {"PGD-20": [1, 1, 1, 1, 1, 1, 0, 0], "robust": [1, 1, 1, 0, 1, 1, 0, 0]},
    }
    union = {
        "threats": ["Linf:8/255", "L2:1/2"],
        "robust_acc": 0.375,
        "count": 3,
        "interval": list(wilson_interval(3, 8)),
        "verdict": "WARN",
        "per_point": [1, 1, 1, 0, 0, 0, 0, 0],
    }
    first = {"n": 8, "clean_acc": 1.0, "autoattack_acc": None, "pgd20_acc": 0.5, "findings": []}
    points = {"clean": [1] * 8, "PGD-20": [1] * 4 + [0] * 4, "robust": [1] * 4 + [0] * 4}
    folder = judged(**first, per_point=points, under={"L2:1/2": other}, union=union)
    card = make_card(read_finished_run(folder), {})
    rows = [line for line in card.splitlines() if line.startswith("| ")]
    assert "| Linf:8/255 | 50.00 % | - | 50.00 % | PASS |" in rows
    assert "| L2:1/2 | 75.00 % | - | 62.50 % | WARN |" in rows
    assert "| all of them | - | - | 37.50 % | WARN |" in rows
    assert "3 of 8 images withstood every attack under Linf:8/255 and L2:1/2" in card
    assert "- L2:1/2: odd under the second" in card
    head = card.partition("# little")[0]
    assert "threat: Linf:8/255" in head  # what programs read is of the first threat, and says so
    assert "L2" not in head
