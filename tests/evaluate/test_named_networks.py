"""defense eval takes any network by its name, file or folder, and is told how it is used."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import abatis
from abatis.cli import main
from abatis.commands.eval.judge_model import open_images as open_data
from abatis.commands.eval.judge_model import read_wishes
from abatis.commands.eval.options import make_parser
from abatis.errors import UsageError
from abatis.nets.backbones import build
from abatis.nets.digest import weights_digest
from abatis.nets.label_map import read_label_map
from abatis.runs.model_spec import find_model
from abatis.runs.open_model import open_model
from abatis.runs.rebuild import describe_origin
from abatis.system.timm_import import timm, torchvision

NETS = """
import torch
from torch import nn
class Net(nn.Module):
    # reads class k where the mean of channel k of the normalised image is the largest
    def __init__(self, num_classes=3):
        super().__init__()
        self.fc = nn.Linear(3, num_classes)
    def forward(self, x):
        return self.fc(x.mean((2, 3)))
def make(num_classes=3):
    return Net(num_classes)
def wide():
    return Net(6)
class Several(Net):
    def forward(self, x):
        z = super().forward(x)
        return z.roll(1, 1), z
"""
CPU = torch.device("cpu")
OFFSET = np.array([0.0, 0.2, 0.4])


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(NETS)
    rng = np.random.default_rng(0)
    y = np.arange(24) % 3
    x = rng.uniform(0, 0.1, (24, 3, 8, 8)) + OFFSET[:, None, None]
    x[np.arange(24), y] += 0.15  # the brightest channel once the offsets are taken away
    x = (x * 255).round().astype(np.uint8).transpose(0, 2, 3, 1)
    np.savez("d.npz", x_train=x, y_train=y, x_test=x, y_test=y)


def state(classes=3):
    return {"fc.weight": torch.eye(classes, 3), "fc.bias": torch.zeros(classes)}


def judge(*words):
    line = ["eval", *words, "--ladder", "quick", "--threat", "Linf:0.01", "--quiet", "--out", "o"]
    assert main(line) == 0
    return json.loads(Path("o/eval.json").read_text())


def classify(*words):
    """The clean accuracy, the notes and the classes, without an attack."""
    asked = make_parser("eval").parse_args(list(words))
    spec = find_model(asked.model, asked.backbone, weights=asked.weights, wishes=read_wishes(asked))
    data = open_data(asked, spec, CPU)
    (batch,) = data.test.eval_batches(24)
    module, notes, _ = open_model(spec, data.info, CPU, batch.x)
    right = module(batch.x).argmax(1) == batch.y
    return float(right.float().mean()), " ".join(notes), data.info.class_names


def refuse(capsys, *words):
    assert main(["eval", *words, "--ladder", "quick", "--quiet", "--out", "o"]) == 2
    text = capsys.readouterr().err
    assert len(text.splitlines()) <= 4
    return text


def test_normalize_changes_what_the_network_sees():
    torch.save(state(), "w.pth")
    words = ["nets.py:make", "--weights", "w.pth", "--allow-pickle", "--data", "npz:d.npz"]
    raw, *_ = classify(*words)
    assert raw < 0.6
    assert classify(*words, "--normalize", "0.05,0.25,0.45", "1,1,1")[0] == 1
    other = ["w.pth", "--backbone", "nets.py:make", *words[3:], "--normalize", "none"]
    assert classify(*other)[0] == raw


@pytest.mark.parametrize(
    "words", [["0.5"], ["0.5,0.5", "1"], ["300,1,1", "1,1,1"], ["0,0,0", "0,1,1"], ["im"]]
)
def test_a_normalisation_that_is_none_is_refused(words, capsys):
    text = refuse(capsys, "nets.py:make", "--data", "npz:d.npz", "--normalize", *words)
    assert "--normalize" in text


def test_a_scripted_network_is_judged_with_all_its_numbers(capsys):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3))
    torch.jit.script(net.eval()).save("s.pt")
    assert "is a program" in refuse(capsys, "s.pt", "--data", "npz:d.npz")
    found = judge("s.pt", "--data", "npz:d.npz", "--allow-pickle")
    assert found["n"] == 24
    assert found["verdict"] in ("PASS", "UNDECIDED", "WARN", "FAIL")
    assert found["weights_sha256"] == weights_digest(net)


def test_an_output_of_several_is_asked_for(capsys):
    torch.save(state(), "w.pth")
    words = ["nets.py:Several", "--weights", "w.pth", "--allow-pickle", "--data", "npz:d.npz"]
    words += ["--normalize", "0.05,0.25,0.45", "1,1,1"]
    assert "several could be the logits" in refuse(capsys, *words)
    assert classify(*words, "--output", "1")[0] == 1
    assert classify(*words, "--output", "0")[0] == 0


def test_labels_are_outputs_by_a_map(capsys):
    for part in ("train", "val"):
        for place, name in enumerate(("red", "green", "blue")):
            folder = Path("f", part, name)
            folder.mkdir(parents=True)
            pixels = np.zeros((8, 8, 3), np.uint8)
            pixels[..., place] = 200
            Image.fromarray(pixels).save(folder / "1.png")
    weight = torch.zeros(6, 3)
    weight[[4, 0, 5], [0, 1, 2]] = 1  # red is output 4, green 0, blue 5
    weight[3] = 9  # which would win, were it not left out
    save_file({"fc.weight": weight, "fc.bias": torch.zeros(6)}, "w.safetensors")
    words = ["nets.py:make", "--weights", "w.safetensors", "--data", "folder:f"]
    assert "has 6 outputs and nets.py:make 3" in refuse(capsys, *words)
    Path("map.txt").write_text("green 0\nred 4\nblue 5\n")
    Path("nets.py").write_text(NETS.replace("num_classes=3", "num_classes=6"))
    accuracy, notes, names = classify(*words, "--label-map", "map.txt")
    assert accuracy == 1
    assert "6 outputs; only the 3 of the label map count" in notes
    assert names == ("green", "red", "blue")
    Path("map.txt").write_text(json.dumps({"green": 0, "red": 1, "blue": 2}))
    assert classify(*words, "--label-map", "map.txt")[0] == pytest.approx(1 / 3)
    assert "is not known" in refuse(capsys, "nets.py:wide", "--data", "folder:f")


@pytest.mark.parametrize("text", ["a 0\na 1\n", "a\n", "a 0\nb 0\n", "a -1\n", "", '{"a": "b"}'])
def test_a_wrong_label_map_is_refused(text):
    Path("map.txt").write_text(text)
    with pytest.raises(UsageError, match="label-map"):
        read_label_map("map.txt")


def test_label_maps_of_imagenet():
    whole, part = read_label_map("imagenet"), read_label_map("imagenet-a")
    assert whole.class_names[0] == "n01440764"
    assert len(whole.class_names) == 1000
    assert len(part.class_names) == 200
    assert [whole.class_names[place] for place in part.outputs] == list(part.class_names)
    with pytest.raises(UsageError, match="neither a file nor one of imagenet"):
        read_label_map("imagenet-x")


def write_timm(folder, **more):
    """A repository of a timm network with random weights; returns the network."""
    net = timm.create_model("resnet10t", num_classes=3, in_chans=3)
    folder.mkdir()
    config = {
        "architecture": "resnet10t",
        "num_classes": 3,
        "pretrained_cfg": {
            "num_classes": 3,
            "input_size": [3, 40, 40],
            "mean": [0.4, 0.5, 0.6],
            "std": [0.2, 0.25, 0.3],
            "interpolation": "bicubic",
            "crop_pct": 0.875,
            "first_conv": "conv1.0",
            "classifier": "fc",
        },
        **more,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return net.eval()


def normalised(x):
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.3])
    return (x - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)


def test_a_repository_of_timm_is_opened_as_it_says():
    net = write_timm(Path("r"), label_names=["a", "b", "c"])
    save_file(net.state_dict(), "r/model.safetensors")
    x = torch.rand(2, 3, 40, 40)
    for name in ("r", "local-dir:r"):
        torch.testing.assert_close(abatis.load(name)(x), net(normalised(x)), rtol=0, atol=1e-5)
        spec = find_model(name)
        assert spec.class_names == ("a", "b", "c")
        assert (spec.view.image_size, spec.view.interpolation, spec.view.crop) == (
            40,
            "bicubic",
            0.875,
        )
    assert "as the repository says" in classify("local-dir:r", "--data", "npz:d.npz")[1]
    Path("r/model.safetensors").unlink()
    torch.save(net.state_dict(), "r/pytorch_model.bin")
    with pytest.raises(UsageError, match="is a pickle"):
        abatis.load("r")
    torch.testing.assert_close(
        abatis.load("r", allow_pickle=True)(x), net(normalised(x)), rtol=0, atol=1e-5
    )


def test_a_repository_is_a_backbone_with_or_without_its_weights():
    net = write_timm(Path("r"))
    save_file(net.state_dict(), "r/model.safetensors")
    words = "--data npz:d.npz --backbone local-dir:r --epochs 1 --batch-size 8 --eval none --quiet"
    assert main(["run", *words.split(), "--pretrained", "--optim.lr", "1e-9", "--name", "p"]) == 0
    trained = abatis.load("runs/p")
    torch.testing.assert_close(trained.backbone.conv1[0].weight, net.conv1[0].weight)
    torch.testing.assert_close(trained.normalize.mean.flatten(), torch.tensor([0.4, 0.5, 0.6]))
    assert main(["run", *words.split(), "--init", "r", "--name", "i"]) == 0
    assert main(["run", *words.split(), "--init", "local-dir:r", "--name", "l"]) == 0


def test_a_repository_of_transformers():
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=8,
        patch_size=4,
        id2label={0: "cat", 1: "dog", 2: "owl"},
    )
    net = transformers.ViTForImageClassification(config).eval()
    net.save_pretrained("r")
    processor = {
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.4, 0.5, 0.6],
        "image_std": [0.2, 0.25, 0.3],
        "size": {"height": 8, "width": 8},
        "resample": 3,
    }
    Path("r/preprocessor_config.json").write_text(json.dumps(processor))
    x = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(
        abatis.load("local-dir:r")(x), net(normalised(x)).logits, rtol=0, atol=1e-5
    )
    spec = find_model("r")
    assert spec.class_names == ("cat", "dog", "owl")
    assert (spec.view.image_size, spec.view.interpolation, spec.view.crop) == (8, "bicubic", 1.0)
    assert "as the repository says" in classify("r", "--data", "npz:d.npz")[1]
    sizes = {"channels": 3, "image_size": 8, "mean": (0.0,) * 3, "std": (1.0,) * 3}
    new = build("local-dir:r", num_classes=5, **sizes, pretrained=True)
    assert new(x).logits.shape == (2, 5)
    assert torch.equal(new.backbone.vit.layernorm.weight, net.vit.layernorm.weight)
    save_file({"vit.layernorm.weight": torch.ones(16)}, "r/model.safetensors", {"format": "pt"})
    with pytest.raises(UsageError, match="weights are missing"):
        abatis.load("r")
    processor["do_rescale"] = False
    Path("r/preprocessor_config.json").write_text(json.dumps(processor))
    with pytest.raises(UsageError, match=r"not scaled to \[0, 1\]"):
        abatis.load("r")


def test_networks_of_torchvision_are_named_and_their_names_checked(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = torchvision.models.squeezenet1_1(weights=None, num_classes=3).eval()
    torch.save({"model": net.state_dict()}, "w.pth")
    words = ["torchvision:squeezenet1_1", "--weights", "w.pth", "--allow-pickle"]
    x = torch.rand(2, 3, 32, 32)
    loaded = abatis.load(
        "w.pth", backbone=words[0], allow_pickle=True, normalize="imagenet", num_classes=3
    )
    mean, std = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    given = (x - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    torch.testing.assert_close(loaded(x), net(given), rtol=0, atol=1e-5)
    with pytest.raises(UsageError, match="does not say how images are normalised"):
        abatis.load("w.pth", backbone=words[0], allow_pickle=True)
    assert "did you mean 'squeezenet1_1'" in refuse(
        capsys,
        "torchvision:squeezenet11",
        "--weights",
        "w.pth",
        "--allow-pickle",
        "--data",
        "digits",
    )
    assert find_model("torchvision:resnet50").view.image_size == 224


def test_the_number_of_outputs_is_that_of_the_weights_in_python():
    net = timm.create_model("resnet10t", num_classes=7)
    torch.save({"state_dict": net.state_dict()}, "w.pth")
    found = abatis.load("w.pth", backbone="resnet10t", allow_pickle=True, normalize="imagenet")
    assert found(torch.rand(1, 3, 64, 64)).shape == (1, 7)
    torch.save(state(), "f.pt")
    own = abatis.load("f.pt", backbone="nets.py:make", allow_pickle=True)
    assert torch.equal(own(torch.ones(1, 3, 4, 4)), torch.ones(1, 3))


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["none.ckpt", "--backbone", "resnet8"], "no weights file none.ckpt"),
        (["resnet8", "--weights", "w.pth", "--backbone", "resnet8"], "both say what belongs"),
        (["local-dir:none"], "is not a run folder"),
        (["empty"], "is not a run folder"),
        (["w.pth", "--backbone", "resnet9", "--allow-pickle"], "unknown backbone 'resnet9'"),
        (["w.pth", "--allow-pickle"], "weights without the network"),
    ],
)
def test_names_that_name_nothing(words, complaint, capsys):
    Path("empty").mkdir()
    torch.save(state(), "w.pth")
    assert complaint in refuse(capsys, *words, "--data", "digits")


COUNTING = """
import torch
from torch import nn
class Net(nn.Module):
    calls = 0
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)
    def forward(self, x):
        Net.calls += 1
        return {"logits": self.fc(x.mean((2, 3)))}
def make():
    torch.manual_seed(0)
    return Net().double()
"""


@pytest.mark.parametrize("words", [(), ("--label-map", "map.txt")])
def test_a_network_is_built_again_without_being_run(words):
    """The stranger's copy must not have seen any image, and answers like the network."""
    Path("counting.py").write_text(COUNTING)
    Path("map.txt").write_text("b 1\na 0\n")
    asked = make_parser("eval").parse_args(["counting.py:make", "--data", "npz:d.npz", *words])
    if words:
        rows = np.load("d.npz")
        kept = rows["y_test"] < 2
        x, y = rows["x_test"][kept], rows["y_test"][kept]
        np.savez("d.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    spec = find_model(asked.model, asked.backbone, wishes=read_wishes(asked))
    data = open_data(asked, spec, CPU)
    (batch,) = data.test.eval_batches(24)
    module, _, _ = open_model(spec, data.info, CPU, batch.x)
    origin = describe_origin(spec, data.info, module)
    assert json.loads(json.dumps(dict(origin.arguments))) == origin.arguments
    again = origin.build()
    inner = again.network if words else again
    assert type(inner).calls == 0
    torch.testing.assert_close(again(batch.x), module(batch.x), rtol=0, atol=0)
    assert again(batch.x).dtype == torch.float32
