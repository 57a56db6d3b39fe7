"""Adversarial training does what it is for, and the main command runs on real CIFAR-10 images."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import abatis
from abatis import RunConfig, Threat
from abatis.data import DataRequest, open_data
from abatis.evaluate import judge_with_pgd
from tests.reference import reference_dir

PROGRAM = Path(sys.executable).with_name("defense-run")


@pytest.mark.slow
def test_adversarial_training_beats_standard_training_by_20_points(tmp_path):
    """PGD-20 at eps 0.1 on the test digits, the same network, seed and number of updates."""
    core = {
        "backbone": "resnet8",
        "data": "digits",
        "threat": "Linf:0.1",
        "epochs": 8,
        "eval": "none",
        "quiet": True,
        "out": tmp_path,
        "optim": {"schedule": "one-cycle"},
        "attack": {"steps": 5},
    }
    test = open_data(DataRequest("digits", augment="none")).test

    def accuracies(**changes):
        model = abatis.load(abatis.run(RunConfig(**core, **changes)).folder)
        found = judge_with_pgd(
            model, test, Threat.parse("Linf:0.1"), steps=20, seed=0, batch_size=256
        )
        return [flags.double().mean().item() for flags in found]

    standard, adversarial = (
        accuracies(use={"attacker": "none"}, name="standard"),
        accuracies(name="adversarial"),
    )
    assert standard[0] > 0.9
    assert adversarial[1] - standard[1] >= 0.2


@pytest.mark.slow
def test_the_main_command_on_real_images(tmp_path):
    """``--plugin emr --backbone wrn34``: one epoch on a few images.

    AutoAttack on a network of this size takes minutes for a single image that is right.
    """
    folder = reference_dir()
    if folder is None:
        pytest.skip("real images are not here; set ABATIS_REFERENCE")
    line = f"--plugin emr --backbone wrn34 --data npz:{folder}/data/cifar10_small.npz"
    small = "--limit 16 --batch-size 8 --epochs 1 --attack.steps 1 --eval none"
    smoke = f"{small} --out {tmp_path} --name r"
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [PROGRAM, *line.split(), *smoke.split()],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    (row,) = map(json.loads, (tmp_path / "r" / "metrics.jsonl").read_text().splitlines())
    assert row["step"] == 1
    assert 0 < row["loss"] < 100
    model = abatis.load(tmp_path / "r")
    assert sum(parameter.numel() for parameter in model.parameters()) == 46_160_474
