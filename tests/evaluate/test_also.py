"""Attacks of others: counted only where confirmed from outside, and never a traceback."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
from torch import nn

from abatis.api.threat import Threat
from abatis.cli import main
from abatis.errors import UsageError
from abatis.evaluate.also.attack import AlsoAttack
from abatis.evaluate.also.finding import find_attack
from abatis.evaluate.also.running import run_also, try_attacks
from abatis.evaluate.finished_attacks import FinishedAttacks
from abatis.evaluate.isolation import isolate
from abatis.evaluate.judge import Judge
from abatis.report.eval_record import read_record

THREAT = Threat.parse("Linf:0.1")


class Threshold(nn.Module):
    """Class 1 where the mean pixel exceeds one half."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        mean = x.mean((1, 2, 3)) * self.scale
        return torch.stack([0.5 - mean, mean - 0.5], 1)


@pytest.fixture
def judged(points):
    """Four images of class 1: the mean is 0.55, 0.58, 0.8 and 0.9; runs an attack on them."""
    values = torch.tensor([0.55, 0.58, 0.8, 0.9])
    x = values.view(-1, 1, 1, 1).expand(-1, 1, 4, 4).clone()
    module = Threshold()

    def run(function, finished=None):
        attack = AlsoAttack("mine", "1", lambda model, threat: lambda a, b: function(model, a, b))
        with isolate(module) as net:
            judge = Judge(net, points(x, torch.ones(4).long()), THREAT, 3)
            clean = judge.classify_clean()
            verdicts, _, findings = run_also(
                [attack], judge, clean, 0, finished or FinishedAttacks()
            )
        assert float(module.scale.detach()) == 1
        return verdicts["also mine"], findings

    return run


def darker(by):
    return lambda model, x, y: (x - by).clamp(0, 1)


def test_what_lies_in_the_ball_and_fools_counts(judged):
    verdict, findings = judged(darker(0.1))
    assert verdict.robust.tolist() == [False, False, True, True]
    assert not findings


def test_what_leaves_the_ball_does_not_count(judged):
    verdict, _ = judged(darker(0.5))
    assert verdict.robust.all()
    assert verdict.facts["rejected"] == 4
    assert verdict.stray == 4


def cheat_weights(model, x, y):
    model.scale.data.fill_(0)
    return x


def cheat_labels(model, x, y):
    y.zero_()
    x.fill_(0.5)
    return x + 0


def cheat_nan(model, x, y):
    return x * float("nan")


@pytest.mark.parametrize("cheat", [cheat_weights, cheat_labels, cheat_nan])
def test_cheating_breaks_nothing(judged, cheat):
    verdict, _ = judged(cheat)
    expected = [True] * 4
    if cheat is cheat_labels:  # the first two images really are at the threshold then
        expected = [False, False, True, True]
    assert verdict.robust.tolist() == expected


def crash(model, x, y):
    raise ValueError("no such\nthing")


def leave(model, x, y):
    sys.exit("enough")


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (crash, "ValueError: no such thing"),
        (leave, "SystemExit: enough"),
        (lambda model, x, y: (x, y), "it returned a tuple, not images (3, 1, 4, 4)"),
        (lambda model, x, y: x[..., :2], "it returned a Tensor (3, 1, 4, 2), not images"),
    ],
)
def test_a_failure_is_a_finding_and_is_not_kept(judged, function, says, tmp_path):
    finished = FinishedAttacks(tmp_path / "state.json", {})
    verdict, findings = judged(function, finished)
    assert verdict.robust.all()
    (finding,) = findings
    assert says in finding
    assert "also mine failed in 2 batches" in finding
    repaired, _ = judged(darker(0.1), FinishedAttacks(tmp_path / "state.json", {}))
    assert repaired.robust.tolist() == [False, False, True, True]


def test_a_failure_on_the_first_images_is_refused_before_the_evaluation():
    attack = AlsoAttack("mine", "1", lambda model, threat: lambda x, y: crash(model, x, y))
    with pytest.raises(UsageError, match="also mine fails on 2 images: ValueError"):
        try_attacks([attack], Threshold(), THREAT, torch.zeros(2, 1, 4, 4))


def test_replacing_what_decides_ends_the_evaluation(judged, monkeypatch):
    monkeypatch.setattr(torch, "argmax", torch.argmax)

    def replace(model, x, y):
        torch.argmax = lambda *_: y
        return x

    with pytest.raises(UsageError, match=r"also mine replaced torch\.argmax"):
        judged(replace)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("foolbox", "not an attack"),
        ("folbox:PGD", "unknown library 'folbox', did you mean 'foolbox'"),
        ("torchattacks:PGD", "torchattacks is not installed"),
        ("none.py:f", "no file"),
    ],
)
def test_what_is_not_there_is_said(spec, says, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchattacks", None)
    with pytest.raises(UsageError, match=says):
        find_attack(spec)


def test_attacks_of_a_library_get_radius_and_norm_by_name(monkeypatch):
    library, asked = ModuleType("torchattacks"), []

    class PGD:
        def __init__(self, model, eps=8 / 255, steps=10):
            asked.append(eps)

        def __call__(self, x, y):
            return x

    library.PGD = PGD
    monkeypatch.setitem(sys.modules, "torchattacks", library)
    found = find_attack("torchattacks:PGD")
    assert found.title == "also torchattacks:PGD"
    assert torch.equal(found.make(Threshold(), THREAT)(torch.ones(1), torch.ones(1)), torch.ones(1))
    assert asked == [0.1]
    with pytest.raises(UsageError, match="has no attack 'PDG', did you mean 'PGD'"):
        find_attack("torchattacks:PDG")
    functions, package = ModuleType("adv_lib.attacks"), ModuleType("adv_lib")
    functions.ddn = lambda model, inputs, labels, norm, ε=1: asked.append((norm, ε)) or inputs
    monkeypatch.setitem(sys.modules, "adv_lib", package)
    monkeypatch.setitem(sys.modules, "adv_lib.attacks", functions)
    find_attack("adv-lib:ddn").make(Threshold(), Threat.parse("L2:1"))(torch.ones(1), torch.ones(1))
    assert asked[-1] == (2.0, 1.0)


def test_the_command_shows_its_row_and_counts_what_it_broke(tmp_path, capsys):
    """The network names dark digits a 0, all others a 1."""
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\n\n\nclass Net(nn.Module):\n"
        "    def forward(self, x):\n        mean = x.mean((1, 2, 3)) - 0.36\n"
        "        return torch.stack([-mean, mean, *[mean * 0 - 1] * 8], 1)\n\n\n"
        "def net():\n    return Net()\n"
    )
    (tmp_path / "attack.py").write_text(
        "def lighter(model, x, y, eps):\n    return (x + eps).clamp(0, 1)\n\n\n"
        "def rude(model, x, y):\n    return x * 0 + 1\n\n\n"
        "def broken(model, x, y):\n    return 1 / 0\n"
    )
    words = ["eval", f"{tmp_path / 'net.py'}:net", "--data", "digits", "--threat", "Linf:0.1"]
    words += ["--ladder", "quick", "--subset", "40", "--out", str(tmp_path / "out")]
    file = tmp_path / "attack.py"
    assert main([*words, "--also", f"{file}:broken"]) == 2
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert main([*words, "--also", f"{file}:lighter", "--also", f"{file}:rude"]) == 0
    record = read_record(tmp_path / "out")
    clean, robust = (record["counts"][name] for name in ("clean", "robust"))
    assert clean > 0
    assert record["counts"]["also attack.py:lighter"] < clean
    assert robust <= record["counts"]["also attack.py:lighter"]
    assert record["counts"]["also attack.py:rude"] == clean
    assert record["pgd20_acc"] is not None
    assert record["adaptive_attack"] is None
    told = f"also attack.py:rude: {clean} adversarial images failed the final check"
    assert any(text.startswith(told) for text in record["findings"])
    assert "also attack.py:lighter" in (tmp_path / "out" / "report.html").read_text()
