"""defense eval: every kind of model, every kind of mistake."""

from __future__ import annotations

import json
import signal

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import abatis
from abatis.cli import main
from abatis.evaluate.judge import Judge
from abatis.evaluate.masking.diagnosis import diagnose
from abatis.evaluate.masking.record import make_outcome
from tests.helpers import tiny

QUICK = ["--ladder", "quick", "--quiet"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return abatis.run(tiny(tmp_path_factory.mktemp("runs"), eval="quick", name="r")).folder


def record(folder):
    return json.loads((folder / "eval.json").read_text())


def test_a_run_folder_is_judged_on_its_own_question(run):
    before = record(run)
    assert main(["eval", str(run), *QUICK]) == 0
    after = record(run)
    assert after["test_set_evaluations"] == before["test_set_evaluations"] + 1
    for key in (
        "n",
        "clean_acc",
        "pgd20_acc",
        "robust_acc",
        "per_point",
        "verdict",
        "masking",
        "selected_at_epoch",
        "threat",
    ):
        assert after[key] == before[key]
    assert after["command"] == f"defense eval {run} --ladder quick --quiet"
    assert (run / "report.html").is_file()


@pytest.mark.slow
def test_other_weights_files_give_the_same_numbers(run, tmp_path):
    tensors = load_file(run / "weights.safetensors")
    torch.save(
        {"state_dict": {f"module.{name}": tensor for name, tensor in tensors.items()}},
        tmp_path / "w.pth",
    )
    save_file(
        {
            name.removeprefix("backbone."): tensor
            for name, tensor in tensors.items()
            if name.startswith("backbone.")
        },
        tmp_path / "bare.safetensors",
    )
    common = ["--data", "digits", "--threat", "Linf:0.1", "--subset", "12", *QUICK]
    found = []
    for number, words in enumerate(
        [
            [str(run)],
            [str(run / "weights.safetensors"), "--backbone", "cnn"],
            [str(tmp_path / "w.pth"), "--backbone", "cnn", "--allow-pickle"],
            [str(tmp_path / "bare.safetensors"), "--backbone", "cnn"],
        ]
    ):
        out = tmp_path / str(number)
        assert main(["eval", *words, *common, "--out", str(out)]) == 0
        found.append(record(out))
    assert found[0]["n"] == min(12, record(run)["n"])
    of_run = dict(zip(found[0]["points"], found[0]["per_point"]["clean"], strict=True))
    for other in found[1:]:
        verdicts = dict(zip(other["points"], other["per_point"]["clean"], strict=True))
        assert all(verdicts[point] == of_run[point] for point in verdicts.keys() & of_run.keys())
    assert (
        found[1]["per_point"] == found[2]["per_point"]
    )  # the same weights, however they are wrapped
    assert found[1]["weights_sha256"] == found[2]["weights_sha256"]


def test_a_function_in_a_file(tmp_path):
    path = tmp_path / "nets.py"
    path.write_text(
        "import torch\n"
        "def linear():\n"
        "    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))\n"
        "    torch.nn.init.zeros_(net[1].weight)\n"
        "    net[1].bias.data = torch.eye(10)[3]\n"
        "    return net\n"
    )
    words = [
        "eval",
        f"{path}:linear",
        "--data",
        "digits",
        "--threat",
        "Linf:0.1",
        "--subset",
        "50",
        "--out",
        str(tmp_path / "o"),
    ]
    assert main([*words, *QUICK]) == 0
    found = record(tmp_path / "o")
    share = sum(found["per_point"]["clean"]) / 50
    assert (
        found["clean_acc"] == found["robust_acc_upper"] == share
    )  # it always says 3, whatever is done to the image
    assert found["verdict"] == "FAIL"  # it has no gradient


def test_strict_exits_with_6_on_fail(run, tmp_path, monkeypatch):
    def failing(*arguments, **named):
        found = diagnose(*arguments, **named)
        return found.add([make_outcome("D5", "fail", "a test says so")])

    monkeypatch.setattr("abatis.evaluate.examination.diagnose", failing)
    words = ["eval", str(run), "--subset", "10", "--out", str(tmp_path), *QUICK]
    assert main(words) == 0
    assert main([*words, "--strict"]) == 6


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nothing-like-it"], "no model 'nothing-like-it'"),
        (["resnet18"], "no data set given for resnet18"),
        (["convnext_atto", "--data", "digits"], "has 1000 outputs, but the data have 10 classes"),
        (["w.pth"], "no weights file w.pth"),
        (["RUN/weights.safetensors", "--data", "digits"], "add --backbone"),
        (
            ["RUN/weights.safetensors", "--data", "digits", "--backbone", "resnet8"],
            "does not fit resnet8",
        ),
        (["RUN", "--threat", "L3:1"], "known: L1, L2, Linf"),
        (["RUN", "--lader", "quick"], "did you mean '--ladder'?"),
        (["RUN", "--subset", "0"], "'0' is not a whole number above 0"),
        (["RUN", "--out", "RUN/run.toml"], "cannot write"),
    ],
)
def test_mistakes_are_told_in_a_few_lines(run, tmp_path, monkeypatch, capsys, words, told):
    monkeypatch.chdir(tmp_path)
    assert main(["eval", *(word.replace("RUN", str(run)) for word in words)]) == 2
    shown = capsys.readouterr().err
    assert told in shown
    assert "Traceback" not in shown
    assert len(shown.splitlines()) <= 4


def test_a_shorter_ladder_does_not_take_the_place_of_a_longer_one(run, tmp_path, capsys):
    (tmp_path / "eval.json").write_text(json.dumps({"ladder": "standard", "n": 3}))
    assert main(["eval", str(run), "--out", str(tmp_path), *QUICK]) == 2
    assert "holds a standard evaluation" in capsys.readouterr().err
    assert json.loads((tmp_path / "eval.json").read_text()) == {"ladder": "standard", "n": 3}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_keeps_the_finished_attacks_and_says_so(
    run, tmp_path, monkeypatch, capsys, number
):
    words = ["eval", str(run), "--subset", "12", *QUICK, "--out", str(tmp_path)]
    attacked, asked = Judge.run_attack, []
    handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]

    def stopped(self, name, *rest, **named):
        asked.append(name)
        if len(asked) == 2:
            signal.raise_signal(number)
        return attacked(self, name, *rest, **named)

    monkeypatch.setattr(Judge, "run_attack", stopped)
    assert main(words) == 75
    told = capsys.readouterr().err
    again = "run the same command again to continue"
    for part in ("stopped during the evaluation", str(tmp_path), again):
        assert part in told
    assert len(told.splitlines()) == 3
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert main(words) == 0
    assert asked[:3] == ["PGD-20", "margin-PGD-20", "margin-PGD-20"]


def test_quick_has_no_attack_under_l1_and_says_so(run, tmp_path, capsys):
    assert main(["eval", str(run), "--threat", "L1:3", *QUICK, "--out", str(tmp_path)]) == 2
    assert "cannot judge L1" in capsys.readouterr().err
    assert not (tmp_path / "eval.json").exists()


FAILING = """
import torch
class Raises(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(63, 10)
    def forward(self, x):
        return self.layer(x.flatten(1))
class Pair(torch.nn.Linear):
    def __init__(self):
        super().__init__(64, 10)
    def forward(self, x):
        return super().forward(x.flatten(1)), super().forward(x.flatten(1))
"""


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("Raises", "RuntimeError: mat1"), ("Pair", "several could be the logits")],
)
@pytest.mark.parametrize(
    "line", ["eval {net} --ladder quick", "run --backbone {net} --dry-run", "run --backbone {net}"]
)
def test_a_network_that_does_not_fit_is_named(tmp_path, capsys, monkeypatch, line, name, complaint):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(FAILING)
    assert (
        main(
            [
                *line.format(net=f"nets.py:{name}").split(),
                "--data",
                "digits",
                "--threat",
                "Linf:0.1",
            ]
        )
        == 2
    )
    told = capsys.readouterr().err
    assert f"nets.py:{name}" in told
    assert complaint in told
    assert len(told.splitlines()) <= 4


@pytest.fixture
def pets(tmp_path):
    for part in ("train", "val"):
        for number, name in enumerate(("Bird", "cat", "dog")):
            (tmp_path / "pets" / part / name).mkdir(parents=True)
            for shade in range(4):
                image = Image.new("RGB", (16, 16), (80 * number, 20 * shade, 0))
                image.save(tmp_path / "pets" / part / name / f"{shade}.png")
    return tmp_path / "pets"


def test_the_names_of_the_classes_stay_with_the_network(pets, tmp_path, capsys):
    folder = abatis.run(
        tiny(tmp_path, data=f"folder:{pets}", image_size=16, epochs=1, eval="quick", name="r")
    ).folder
    assert record(folder)["class_names"] == ["Bird", "cat", "dog"]
    assert (
        main(
            [
                "export",
                str(folder),
                "--to",
                "torch-export",
                "--out",
                str(tmp_path / "exported"),
                "--allow-fail",
            ]
        )
        == 0
    )
    config = json.loads((tmp_path / "exported" / "config.json").read_text())
    assert config["label_names"] == config["abatis"]["class_names"] == ["Bird", "cat", "dog"]
    for part in ("train", "val"):
        (pets / part / "Bird").rename(pets / part / "zebra")
    (tmp_path / "others").symlink_to(pets)
    network = {
        "r": [],
        "exported": [],
        "exported/model.pt2": ["--allow-pickle"],
        "r/weights.safetensors": ["--backbone", "cnn"],
    }
    for name, more in network.items():
        words = [
            "eval",
            str(tmp_path / name),
            "--data",
            f"folder:{tmp_path / 'others'}",
            "--threat",
            "Linf:0.1",
            *QUICK,
            *more,
        ]
        assert main([*words, "--out", str(tmp_path / "e")]) == 2
        told = capsys.readouterr().err
        assert "cat, dog, zebra" in told
        assert "Bird, cat, dog" in told
