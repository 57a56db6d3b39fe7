"""Real photographs, in folders, judged with a network of timm's that knows 1,000 classes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from abatis.cli import main
from abatis.data.wnids import read_wnids
from abatis.system.timm_import import timm
from tests.data.common import reference

SPRINGER = 217  # the output of n02102040


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A network that answers 217 to nearly everything, so that labels must be the right outputs."""
    torch.manual_seed(0)
    net = timm.create_model("test_resnet", num_classes=1000)
    with torch.no_grad():
        net.get_classifier().bias[SPRINGER] += 3
    file = tmp_path / "weights.safetensors"
    save_file(net.state_dict(), file)
    return file


def judge(out: Path, weights: Path, *words: str) -> dict[str, Any]:
    line = ["eval", "test_resnet", "--weights", str(weights), "--image-size", "64", "--quiet"]
    line += ["--normalize", "imagenet", "--out", str(out)]
    assert main([*line, *words]) == 0
    return json.loads((out / "eval.json").read_text())


def answer(weights: Path, files: list[Path]) -> list[int]:
    """The answers by timm's own reading of the files."""
    net = timm.create_model("test_resnet", checkpoint_path=str(weights)).eval()
    view = timm.data.create_transform((3, 64, 64), interpolation="bilinear", crop_pct=1.0)
    with torch.no_grad():
        return [int(net(view(Image.open(file).convert("RGB"))[None]).argmax()) for file in files]


@pytest.mark.slow
def test_folders_of_wnids_are_judged_by_the_outputs_of_imagenet(
    tmp_path: Path, weights: Path
) -> None:
    root, wnids = reference("imagenette_small"), read_wnids()
    by_name, by_map = ["--data", f"imagenet:{root}"], ["--data", f"folder:{root}"]
    files = sorted(root.glob("val/*/*"))
    answers = answer(weights, files)
    right = [out == wnids.index(file.parent.name) for file, out in zip(files, answers, strict=True)]
    listed = tmp_path / "points.txt"
    some = list(range(0, len(files), 3))
    listed.write_text(
        "".join(f"{files[place].parent.name}/{files[place].name}\n" for place in some)
    )
    words = ["--ladder", "clean", "--points", str(listed)]
    points = judge(tmp_path / "b", weights, *by_name, *words)
    assert points["n"] == len(some)
    assert points["clean_acc"] == sum(right[place] for place in some) / len(some)
    assert 0 < points["clean_acc"] < 1
    mapped = judge(tmp_path / "c", weights, *by_map, "--label-map", "imagenet", *words)
    assert mapped["clean_acc"] == points["clean_acc"]


@pytest.mark.slow
def test_photographs_without_training_images_are_judged_to_a_report(
    tmp_path: Path, weights: Path
) -> None:
    root = reference("imagenette_small")
    for folder in (root / "val").iterdir():
        (tmp_path / "few" / "val" / folder.name).mkdir(parents=True)
        for file in sorted(folder.iterdir())[:1]:
            shutil.copy(file, tmp_path / "few" / "val" / folder.name)
    words = [
        "--data",
        f"imagenet:{tmp_path / 'few'}",
        "--ladder",
        "quick",
        "--threat",
        "Linf:1/255",
    ]
    found = judge(tmp_path / "a", weights, *words)
    assert (found["n"], len(found["class_names"])) == (10, 1000)
    assert 0 <= found["pgd20_acc"] <= found["clean_acc"]
    assert found["verdict"] == "UNDECIDED"  # too few points
    assert "10 of 1,000 classes are in the test set" in found["note"]
    assert (tmp_path / "a" / "report.html").is_file()
