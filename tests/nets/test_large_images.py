"""Large nets on real photographs by the recipes of the core, and mixed batches in two processes."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import abatis
from abatis.config.command_line import parse_run
from tests.data.common import reference

pytestmark = pytest.mark.slow


def trained(tmp_path, recipe, backbone, *words):
    data = f"folder:{reference('imagenette_small')}"
    usual = [
        "--no-pretrained",
        "--data",
        data,
        "--eval",
        "none",
        "--workers",
        "0",
        "--precision",
        "float32",  # many CPUs have no bf16 arithmetic: it is many times slower there
        "--quiet",
        "--out",
        str(tmp_path),
    ]
    folder = abatis.run(
        parse_run(["--recipe", recipe, "--backbone", backbone, *usual, *words])
    ).folder
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return folder, rows


@pytest.mark.parametrize(
    ("backbone", "size"),
    [
        pytest.param("resnet18", 72, marks=pytest.mark.long),
        ("convnext_atto", 64),
        ("vit_tiny_patch16_224", 64),
    ],
)
def test_the_loss_falls_in_twenty_steps(tmp_path, backbone, size):
    """The whole recipe but its length, with rates for a batch of 16."""
    words = [
        "--image-size",
        str(size),
        "--limit",
        "72",
        "--batch-size",
        "16",
        "--epochs",
        "5",
        "--optim.lr",
        "2e-3",
    ]
    folder, rows = trained(
        tmp_path, "at/large", backbone, *words, "--optim.warmup", "0.1", "--attack.ramp", "0.2"
    )
    assert rows[-1]["step"] >= 20
    losses = [row["loss"] for row in rows]
    assert losses[-1] < losses[0] - 0.05
    assert min(losses) == pytest.approx(losses[-1], abs=0.05)
    plan = {row["role"]: row for row in json.loads((folder / "plan.json").read_text())}
    assert plan["backbone"]["provider"] == backbone  # timm's resnet18, not ours
    assert plan["data"]["options"]["auto_augment"] == "rand-m9-mstd0.5-inc1"


def test_the_recipe_trains_in_bf16():
    assert parse_run(["--recipe", "at/large", "--data", "folder:x"]).precision == "bf16"


@pytest.mark.parametrize("recipe", ["at/large", "at/large-apgd2"])
def test_a_vit_at_the_size_of_its_configuration(tmp_path, recipe):
    words = [
        "--limit",
        "12",
        "--batch-size",
        "4",
        "--epochs",
        "1",
        "--grad-checkpointing",
        "--accumulate",
        "2",
    ]
    folder, (row,) = trained(tmp_path, recipe, "vit_tiny_patch16_224", "--plugin", "emr", *words)
    assert row["step"] == 2
    assert np.isfinite(row["loss"])
    assert row["emr/grad_sq"] > 0
    model = abatis.load(folder)
    assert model(torch.rand(1, 3, 224, 224)).shape == (1, 10)


def test_two_processes_equal_one_with_mixed_batches_and_additional_images(tmp_path):
    """A net without batch norm, no attack: what is left is rounding."""
    image = np.random.default_rng(0).integers(0, 256, (64, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "gen.npz", image=image, label=np.arange(64) % 10)
    found = []
    for count in (1, 2):
        words = [
            "--backbone",
            "test_vit",
            "--data",
            "digits",
            "--limit",
            "80",
            "--batch-size",
            "24",
            "--epochs",
            "2",
            "--threat",
            "Linf:0.1",
            "--use",
            "attacker=none",
            "--mix.mixup",
            "0.8",
            "--mix.cutmix",
            "1",
            "--mix.smoothing",
            "0.1",
            "--extra.file",
            str(tmp_path / "gen.npz"),
            "--optim.lr",
            "0.01",
            "--eval",
            "none",
            "--quiet",
            "--out",
            str(tmp_path),
            "--name",
            f"of-{count}",
            "--nproc",
            str(count),
        ]
        subprocess.run([sys.executable, "-m", "abatis", "run", *words], check=True, timeout=500)
        found.append(load_file(tmp_path / f"of-{count}" / "weights-last.safetensors"))
    for name, tensor in found[0].items():
        torch.testing.assert_close(found[1][name], tensor, rtol=1e-4, atol=1e-6, msg=name)


def test_a_robust_network_is_fine_tuned_on_photographs(tmp_path):
    """The recipe, from the weights of a run: frozen layers stay, the others learn."""
    size = ["--image-size", "64", "--limit", "48", "--batch-size", "16", "--attack.steps", "1"]
    start, _ = trained(tmp_path, "at/finetune-robust", "resnet18", *size, "--epochs", "1")
    words = [*size, "--init", str(start), "--freeze", "conv1,bn1,layer1", "--epochs", "3"]
    folder, rows = trained(tmp_path, "at/finetune-robust", "resnet18", *words)
    before, after = (load_file(path / "weights-last.safetensors") for path in (start, folder))
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert not any("layer1." in name or name.startswith("backbone.conv1") for name in moved)
    assert {name for name in after if "layer4" in name and name.endswith("weight")} <= moved
    assert rows[-1]["loss"] < rows[0]["loss"]
