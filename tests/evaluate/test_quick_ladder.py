"""The quick ladder: its attacks, what it leaves out, and what it costs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import abatis
from abatis.api.threat import Threat
from abatis.evaluate import EvaluationRequest, evaluate
from abatis.evaluate.masking.diagnosis import COSTLY
from abatis.evaluate.masking.record import GATES
from abatis.report.eval_record import read_record
from tests.evaluate.conftest import PointsInMemory
from tests.helpers import tiny

N = 64


class Counted(nn.Module):
    """Logits (0, 20 (mean - 0.5)); counts every image that goes forward, or backward."""

    def __init__(self, steps: int = 0) -> None:
        super().__init__()
        self.steps, self.passed = steps, 0

    def forward(self, x):
        self.passed += len(x)
        if self.steps:
            x = x + ((x * self.steps).round() / self.steps - x).detach() - (x - x.detach())
        z = 20 * (x.mean((1, 2, 3)) - 0.5)
        logits = torch.stack([torch.zeros_like(z), z], 1)
        if logits.requires_grad:
            logits.register_hook(self._count)
        return logits

    def _count(self, gradient):
        self.passed += len(gradient)


def judge(net: nn.Module, **changes: object) -> object:
    """On images of one grey value each, half of them brighter than one half."""
    x = torch.linspace(0.1, 0.9, N).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()
    points = PointsInMemory(x, (x[:, 0, 0, 0] > 0.5).long(), torch.arange(N))
    request = EvaluationRequest(
        points, Threat.parse("Linf:0.1"), "quick", 0, 32, torch.device("cpu"), 2, **changes
    )
    return evaluate(net, request)


@pytest.mark.parametrize("steps", [0, 4])
def test_it_costs_at_most_three_times_its_attacks(monkeypatch, steps):
    """An honest network, and one whose steps hide its gradient, so that every attack goes on."""
    spent: dict[str, int] = {}
    attacked = abatis.evaluate.judge.Judge.run_attack

    def count(self, name, attack, robust, label=None):
        before = net.passed
        found = attacked(self, name, attack, robust, label)
        if label is None:
            spent[name] = net.passed - before
        return found

    monkeypatch.setattr(abatis.evaluate.judge.Judge, "run_attack", count)
    net = Counted(steps)
    found = judge(net)
    attacks = spent["PGD-20"] + spent["margin-PGD-20"]
    assert 0 < attacks < net.passed <= 3 * attacks
    assert found.verdict == ("FAIL" if steps else "PASS")


def test_it_says_what_it_leaves_out():
    record = judge(Counted()).to_json()
    skipped = {test["id"] for test in record["masking"]["tests"] if "quick ladder" in test["says"]}
    assert skipped == set(COSTLY)
    assert len(COSTLY) == 13
    assert set(COSTLY) < set(GATES)
    assert [text for text in record["findings"] if text.startswith("the quick ladder left out")]
    assert [*record["attacks"]] == ["PGD-20", "margin-PGD-20"]
    assert record["curve"]["eps"] == [0, 0.1, 1]
    assert record["margins"] is None


def test_all_tests_run_where_they_are_asked_for():
    found = judge(Counted(), all_tests=True)
    assert not any("quick ladder" in test.says for test in found.diagnosis.tests)
    assert found.margins is not None


def test_a_run_judges_a_subset_and_an_evaluation_the_same_one(tmp_path):
    """``--subset`` and ``--limit`` mean the same in both commands."""
    from abatis.commands.eval import command

    out = str(tmp_path / "e")
    run = abatis.run(tiny(tmp_path, name="r", epochs=1, ladder="quick", subset=9)).folder
    own = read_record(run)
    assert own["n"] == len(own["points"]) == 9
    assert len(abatis.judged_images(run)[1]) == 9
    words = [str(run), "--ladder", "quick", "--quiet", "--out"]
    assert command([*words, out, "--subset", "9"]) == 0
    again = read_record(tmp_path / "e")
    assert again["points"] == own["points"]
    assert again["per_point"]["robust"] == own["per_point"]["robust"]
    more = abatis.run(tiny(tmp_path, name="r", epochs=1, ladder="clean", subset=5, resume=True))
    assert more.n == 9  # judged on more images already
    assert command([*words[:-1], "--limit", "100", "--ladder", "clean", "--out", f"{out}2"]) == 0
    whole = abatis.run(tiny(tmp_path, name="r", epochs=1, ladder="clean", resume=True))
    assert whole.n > 9
    assert read_record(tmp_path / "e2")["n"] < whole.n
