"""defense eval: some of the images stand for all, and labels follow the names of classes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import abatis
from abatis.cli import main
from abatis.commands.eval.judge_model import open_images
from abatis.commands.eval.options import make_parser
from abatis.nets.weights_file import write_weights
from abatis.runs.model_spec import find_model
from abatis.runs.open_data import describe_run_data, open_run_data
from tests.helpers import tiny

NETS = """
import torch
from torch import nn
ORDER = sorted(str(number) for number in range(12))
def constant():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    nn.init.zeros_(net[1].weight)
    net[1].bias.data = torch.eye(3)[0]
    return net
class Brightest(nn.Module):
    # output k: the brightness of row rows[k] of an image of 12 x 12 pixels
    def __init__(self, rows):
        super().__init__()
        self.weight = nn.Parameter(torch.eye(12)[rows])
    def forward(self, x):
        return x.mean((1, 3)) @ self.weight.T
def rows():
    return Brightest(list(range(12)))
def rows_as_text():
    return Brightest([int(name) for name in ORDER])
"""
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(NETS)


def judge(*words: str) -> dict:
    line = ["eval", *words, "--threat", "Linf:0.1", "--ladder", "quick", "--quiet", "--out", "o"]
    assert main(line) == 0
    return json.loads(Path("o/eval.json").read_text())


def save_sorted() -> None:
    """Test images sorted by class: 60 of class 0, 30 of class 1, 10 of class 2."""
    y = np.repeat([0, 1, 2], [60, 30, 10])
    x = np.random.default_rng(0).integers(0, 256, (100, 8, 8), dtype=np.uint8)
    np.savez("sorted.npz", x_train=x, y_train=y, x_test=x, y_test=y)


@pytest.mark.slow
def test_a_subset_of_sorted_images_has_the_share_of_every_class():
    save_sorted()
    found = judge("nets.py:constant", "--data", "npz:sorted.npz", "--subset", "20")
    assert found["clean_acc"] == 0.6
    assert found["per_class"]["n"] == [12, 6, 2]
    assert found["points"] == sorted(set(found["points"]))
    assert [sum(point >= start for point in found["points"]) for start in (0, 60, 90)] == [20, 8, 2]
    other_seed = judge(
        "nets.py:constant", "--data", "npz:sorted.npz", "--subset", "20", "--seed", "3"
    )
    assert other_seed["points"] == found["points"]
    assert "points" not in judge("nets.py:constant", "--data", "npz:sorted.npz", "--subset", "999")


def test_a_published_list_of_points_is_used_in_the_order_of_the_test_set():
    save_sorted()
    Path("list.txt").write_text("95\n\n 3\n61\n")
    found = judge("nets.py:constant", "--data", "npz:sorted.npz", "--points", "list.txt")
    assert found["points"] == [3, 61, 95]
    assert found["per_point"]["clean"] == [1, 0, 0]
    assert found["points_file"]["name"] == "list.txt"
    assert len(found["points_file"]["sha256"]) == 64


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("3\n100\n", ["'100' is not the index", "there are 100", "line 2"]),
        ("-1\n", ["'-1' is no test image"]),
        ("1.0\n", ["'1.0' is no test image"]),
        (f"{10**30}\n", ["is no test image"]),
        ("3\n4\n3\n", ["listed twice, such as 3"]),
        ("\n", ["lists no test images"]),
        (None, ["cannot be read"]),
    ],
)
def test_a_list_of_points_that_is_wrong_is_refused(content, words, capsys):
    save_sorted()
    if content is not None:
        Path("list.txt").write_text(content)
    line = ["eval", "nets.py:constant", "--data", "npz:sorted.npz", "--points", "list.txt"]
    assert main(line) == 2
    shown = capsys.readouterr().err
    for part in ("list.txt", *words):
        assert part in shown
    assert len(shown.splitlines()) <= 4
    Path("list.txt").write_text("1\n")
    assert main([*line, "--subset", "3"]) == 2
    assert "--points and --subset" in capsys.readouterr().err


def write_rows(root: Path, names: list[str]) -> None:
    """Class folders named by numbers: in the images of class k row k is bright."""
    for part in ("train", "val"):
        for name in names:
            (root / part / name).mkdir(parents=True)
            for shade in (200, 250):
                image = np.zeros((12, 12), np.uint8)
                image[int(name)] = shade
                Image.fromarray(image).convert("RGB").save(root / part / name / f"{shade}.png")


NUMBERS = [str(number) for number in range(12)]


def test_numbered_class_folders_have_the_labels_of_the_arrays():
    write_rows(Path("num12"), NUMBERS)
    found = judge("nets.py:rows", "--data", "folder:num12")
    assert found["clean_acc"] == 1
    assert found["class_names"] == NUMBERS
    (doubt,) = [text for text in found["findings"] if "carry no class names" in text]
    assert "torchvision sorts them 0, 1, 10, 11, 2" in doubt


def test_weights_with_names_are_matched_by_name_and_fewer_folders_are_too():
    write_rows(Path("num12"), NUMBERS)
    write_rows(Path("some"), ["10", "2", "7"])
    order = sorted(NUMBERS)
    weight = torch.eye(12)[[int(name) for name in order]]
    write_weights(Path("w.safetensors"), {"weight": weight}, {"class_names": order})
    for data, classes in (("num12", 12), ("some", 3)):
        found = judge("w.safetensors", "--backbone", "nets.py:rows", "--data", f"folder:{data}")
        assert found["clean_acc"] == 1
        assert found["class_names"] == order
        assert found["n"] == 2 * classes
        assert "matched by name" in found["note"]


def test_a_network_with_more_outputs_than_the_data_have_classes_says_so():
    write_rows(Path("few"), ["0", "1", "2"])
    found = judge("nets.py:rows", "--data", "folder:few")
    assert found["clean_acc"] == 1
    assert any("12 outputs" in text and "3 classes" in text for text in found["findings"])


def test_a_run_that_numbered_its_classes_as_text_keeps_its_labels(tmp_path):
    write_rows(Path("num12"), NUMBERS)
    config = tiny(tmp_path, data="folder:num12", name="old", epochs=1, limit=24)
    folder = abatis.run(config).folder
    order = tuple(sorted(NUMBERS))
    for file in folder.glob("*.safetensors"):
        write_weights(file, load_file(file), {"class_names": order})
    resumed = config.model_copy(update={"resume": True, "epochs": 2})
    judged = open_images(make_parser("").parse_args(["runs/x"]), find_model(str(folder), None), CPU)
    for info in (
        judged.info,
        describe_run_data(resumed),
        open_run_data(resumed, None, CPU).info,
    ):
        assert info.class_names == order
    assert describe_run_data(config).class_names == tuple(NUMBERS)
    (batch,) = judged.test.eval_batches(24)
    rows = batch.x.mean((1, 3)).argmax(1)
    assert [order[label] for label in batch.y.tolist()] == [str(row) for row in rows.tolist()]
