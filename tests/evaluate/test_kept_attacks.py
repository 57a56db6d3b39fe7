"""A kept verdict answers exactly the question that it was found for; whatever else runs again."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from abatis.api.threat import Threat
from abatis.cli import main
from abatis.evaluate import EvaluationRequest, evaluate
from abatis.evaluate.finished_attacks import FinishedAttacks
from abatis.evaluate.judge import Judge, Verdicts
from abatis.evaluate.question import describe_question
from abatis.report.eval_record import STATE
from abatis.report.sealed_json import seal
from abatis.system.user_module import run_file
from tests.evaluate.conftest import PointsInMemory

CPU = torch.device("cpu")
FLAGS = torch.tensor([True, True, False])


class Scaled(nn.Module):
    """Two logits from the mean of the image; ``slope`` is a plain attribute, not a weight."""

    def __init__(self, slope=1.0):
        super().__init__()
        self.slope = slope
        self.layer = nn.Linear(1, 2)
        with torch.no_grad():
            self.layer.weight.copy_(torch.tensor([[1.0], [-1.0]]))
            self.layer.bias.zero_()

    def forward(self, x):
        return self.layer(self.slope * (x.flatten(1).mean(1, keepdim=True) - 0.5))


def ask(points=4, **changes):
    x = torch.linspace(0.1, 0.9, points).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()
    data = PointsInMemory(x, (x[:, 0, 0, 0] < 0.5).long(), torch.arange(points))
    request = EvaluationRequest(data, Threat.parse("Linf:0.1"), "quick", 0, 4, CPU, 2)
    return replace(request, **changes)


def test_the_same_question_is_asked_twice():
    assert describe_question(Scaled(), ask()) == describe_question(Scaled(), ask())


@pytest.mark.parametrize(
    ("net", "request_", "key"),
    [
        (Scaled(2.0), ask(), "outputs"),
        (Scaled(), ask(threat=Threat.parse("Linf:0.2")), "threat"),
        (Scaled(), ask(seed=1), "seed"),
        (Scaled(), ask(layout="contiguous"), "layout"),
        (Scaled(), ask(5), "n"),
        (Scaled(), ask(plugins={"brave": ["2.0", {}]}), "plugins"),
        (Scaled(), ask(adaptive={"brave": lambda net, batch, threat: batch.x}), "adaptive"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_part_of_the_question_counts(net, request_, key):
    assert describe_question(net, request_)[key] != describe_question(Scaled(), ask())[key]


def test_the_file_of_a_factory_counts_though_outputs_and_weights_are_equal(tmp_path):
    questions = []
    for text in ("SPARE = 1", "SPARE = 2"):
        (tmp_path / "f.py").write_text(text)
        run_file(tmp_path / "f.py", "abatis_backbone_f", (tmp_path / "f.py").read_bytes())
        questions.append(describe_question(Scaled(), ask()))
    del sys.modules["abatis_backbone_f"]
    differing = [key for key in questions[0] if questions[0][key] != questions[1][key]]
    assert differing == ["files"]


class Rounded(nn.Module):
    """Equal outputs and weights; only the gradient is another one."""

    def __init__(self, straight_through):
        super().__init__()
        self.straight_through = straight_through
        self.layer = nn.Linear(1, 2)
        nn.init.ones_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, x):
        mean = x.flatten(1).mean(1, keepdim=True)
        rounded = (mean * 8).round() / 8
        if self.straight_through:
            rounded = mean + (rounded - mean).detach()
        return self.layer(rounded.detach() if self.straight_through is None else rounded)


def test_gradients_count_though_outputs_and_weights_are_equal():
    x = torch.rand(4, 1, 4, 4)
    nets = [Rounded(straight) for straight in (False, True, None)]
    assert torch.equal(nets[0](x), nets[2](x))
    outputs = {describe_question(net, ask())["outputs"] for net in nets}
    assert len(outputs) == 3
    assert describe_question(Rounded(None), ask())["outputs"] in outputs


@pytest.mark.parametrize("library", ["numpy", "timm", "torchvision", "pyautoattack", "abatis"])
def test_the_version_of_every_library_counts(monkeypatch, library):
    from abatis.evaluate import question

    before, find = describe_question(Scaled(), ask()), question.find_version
    monkeypatch.setattr(
        question, "find_version", lambda name: "9" if name == library else find(name)
    )
    assert describe_question(Scaled(), ask())["versions"] != before["versions"]


def test_what_cannot_be_copied_or_has_no_source_keeps_nothing(tmp_path):
    class Locked(Scaled):
        def __deepcopy__(self, memo):
            raise TypeError("it holds an open file")

    assert describe_question(Locked(), ask()) is None
    sourceless = type("Sourceless", (Scaled,), {"__module__": "nowhere"})
    assert describe_question(sourceless(), ask()) is None
    evaluate(Locked(), ask(state=tmp_path / STATE))
    assert not (tmp_path / STATE).exists()


def test_the_copy_leaves_the_network_and_the_draws_alone():
    net = Scaled()
    net.forward_calls = []
    net.register_forward_hook(lambda module, *_: module.forward_calls.append(torch.rand(1)))
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    assert describe_question(net, ask()) is not None
    assert torch.rand(1) == expected
    assert net.forward_calls == []


def keep(path, question, settings, attacked, robust):
    """Which of the attacks ran: here "PGD" with these settings."""
    ran = []

    def attack():
        ran.append(1)
        return Verdicts("PGD", robust, {"attacked": 2}, ("slow",), 1)

    found = FinishedAttacks(path, question).get_or_run("PGD", attack, settings, attacked)
    assert found.robust.tolist() == robust.tolist()
    assert (found.facts, found.warnings, found.stray) == ({"attacked": 2}, ("slow",), 1)
    return bool(ran)


def test_a_kept_attack_is_of_equal_settings_and_equal_points(tmp_path):
    path, robust = tmp_path / STATE, torch.tensor([True, False, False])
    assert keep(path, {"seed": 0}, {"steps": 20}, FLAGS, robust)
    assert not keep(path, {"seed": 0}, {"steps": 20}, FLAGS, robust)
    assert keep(path, {"seed": 0}, {"steps": 21}, FLAGS, robust)
    assert keep(path, {"seed": 0}, {"steps": 21}, FLAGS.clone(), robust) is False
    assert keep(path, {"seed": 0}, {"steps": 21}, robust, robust)
    assert keep(path, {"seed": 1}, {"steps": 21}, robust, robust)


@pytest.mark.parametrize("sealed", [False, True])
def test_marks_that_were_set_to_one_are_not_believed(tmp_path, sealed):
    path, robust = tmp_path / STATE, torch.tensor([True, False, False])
    assert keep(path, {"seed": 0}, {}, FLAGS, robust)
    content = json.loads(path.read_text())
    content["attacks"]["PGD"]["robust"] = "111"
    if sealed:  # somebody who means it can write a new sha256; no wrong point becomes right
        content = seal(content)
    path.write_text(json.dumps(content))
    assert keep(path, {"seed": 0}, {}, FLAGS, robust)


@pytest.mark.parametrize("content", ["", "[]", "null", "3", "[" * 5000, '{"attacks": []}'])
def test_a_damaged_state_is_ignored(tmp_path, content):
    (tmp_path / STATE).write_text(content)
    assert keep(tmp_path / STATE, {}, {}, FLAGS, FLAGS)


NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(64, 10)

    def forward(self, x):
        return self.layer({input}.flatten(1))

def net():
    return Net()
"""


def test_an_edited_forward_is_a_new_question_and_a_killed_evaluation_resumes(tmp_path, monkeypatch):
    """As from the command line: stopped before its last attack, edited, repeated."""
    file, run_attack, asked = tmp_path / "model.py", Judge.run_attack, []
    words = ["eval", f"{file}:net", "--data", "digits", "--threat", "Linf:0.1", "--subset", "24"]
    words += ["--ladder", "standard", "--quiet", "--out"]

    def judge(out, stop_at=""):
        def call(self, name, *rest, **named):
            if name == stop_at:
                raise KeyboardInterrupt
            asked.append(name)
            return run_attack(self, name, *rest, **named)

        asked.clear()
        monkeypatch.setattr(Judge, "run_attack", call)
        assert main([*words, str(tmp_path / out)]) == (75 if stop_at else 0)

    def judge_all(out):
        judge(out)
        return json.loads((tmp_path / out / "eval.json").read_text())["per_point"]

    def stop(out):
        judge(out, "margin-PGD-20")
        assert (tmp_path / out / STATE).exists()

    file.write_text(NET.format(input="x"))
    stop("a")
    first = judge_all("a")
    assert "PGD-20" not in asked[:1]  # it was finished before
    assert not (tmp_path / "a" / STATE).exists()
    stop("b")
    file.write_text(NET.format(input="x.flip(3)"))
    second = judge_all("b")
    assert asked[0] == "PGD-20"
    assert second == judge_all("fresh") != first
