"""A whole evaluation: the headline number, resuming, several processes, norms without a PGD."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from abatis.api.threat import Threat
from abatis.evaluate import EvaluationRequest, evaluate
from abatis.evaluate.judge import Judge, Verdicts
from abatis.evaluate.ladder import LadderResult
from abatis.report.intervals import wilson_interval
from abatis.runs.launch import make_environments

CPU = torch.device("cpu")
THREAT = Threat.parse("Linf:0.15")


def judged(network, data, threat=THREAT, **changes):
    settings = {"ladder": "standard", "seed": 7, "batch_size": 10, "device": CPU, "num_classes": 10}
    return evaluate(network, EvaluationRequest(data, threat, **(settings | changes)))


@pytest.fixture
def some(digits, points):
    return points(digits.x[1400:1412], digits.y[1400:1412], digits.index[1400:1412])


def test_the_headline_is_the_minimum_over_all_attacks(network, some):
    result = judged(network, some, ladder="quick")
    told = result.to_json()
    per_attack = torch.stack(
        [flags for name, flags in result.per_point.items() if name != "robust"]
    )
    assert (
        per_attack.all(0) | ~result.per_point["robust"]
    ).all()  # robust implies right under every attack
    assert told["robust_acc"] == result.per_point["robust"].double().mean().item()
    assert told["counts"]["robust"] == sum(told["per_point"]["robust"])
    assert told["interval"]["robust_acc"] == list(wilson_interval(told["counts"]["robust"], 12))


def test_a_killed_evaluation_repeats_no_finished_attack(network, some, tmp_path, monkeypatch):
    state = tmp_path / "state.json"
    whole = judged(network, some)
    attacked = Judge.run_attack
    asked: list[str] = []

    def killed(self, name, *rest, **named):
        asked.append(name)
        if name == "APGD-T":
            raise KeyboardInterrupt
        return attacked(self, name, *rest, **named)

    monkeypatch.setattr(Judge, "run_attack", killed)
    with pytest.raises(KeyboardInterrupt):
        judged(network, some, state=state)
    assert asked == ["PGD-20", "margin-PGD-20", "APGD-CE", "APGD-T"]

    asked.clear()

    def noted(self, name, *rest, **named):
        asked.append(name)
        return attacked(self, name, *rest, **named)

    monkeypatch.setattr(Judge, "run_attack", noted)
    resumed = judged(network, some, state=state)
    assert asked[:3] == ["APGD-T", "FAB-T", "Square"]
    assert resumed.to_json() == whole.to_json()


def test_another_question_is_not_answered_from_the_file(network, some, tmp_path):
    state = tmp_path / "state.json"
    judged(network, some, ladder="quick", state=state)
    kept = json.loads(state.read_text())
    kept["attacks"]["PGD-20"]["robust"] = "0" * 12
    state.write_text(json.dumps(kept))
    assert (
        judged(network, some, ladder="quick", state=state).accuracies["pgd20_acc"] == 0
    )  # the file is believed
    other = judged(network, some, Threat.parse("Linf:0.01"), ladder="quick", state=state)
    assert other.accuracies["pgd20_acc"] > 0
    state.write_text("{ broken")
    assert (
        judged(network, some, Threat.parse("Linf:0.01"), ladder="quick", state=state).accuracies[
            "pgd20_acc"
        ]
        > 0
    )


def test_what_the_ladder_knows_is_not_asked_again(network, some, monkeypatch):
    def labels_and_record():
        labels: list[str] = []
        found = judged(
            network,
            some,
            ladder="quick",
            batch_size=12,
            progress=lambda label, *_: labels.append(label),
        )
        return set(labels), found.to_json()

    asked, record = labels_and_record()
    monkeypatch.setattr(LadderResult, "get_survivors", lambda self, positions: {})
    again, same = labels_and_record()
    assert again - asked == {"masking: PGD-20", "masking: margin PGD-20"}
    assert "PGD-20 at 0.15" not in again  # the diagnostics' own are handed to their curve
    assert record == same


def test_a_claim_that_did_not_hold_is_looked_at_again():
    held = LadderResult(
        {"PGD-20": Verdicts("PGD-20", torch.ones(3, dtype=torch.bool), {"rejected": 0})}
    ).get_survivors(torch.arange(2))
    assert [flags.tolist() for flags in held.values()] == [[True, True]]
    assert not LadderResult(
        {"PGD-20": Verdicts("PGD-20", torch.ones(3, dtype=torch.bool), {"rejected": 1})}
    ).get_survivors(torch.arange(2))


def test_l1_is_judged_by_autoattack_alone(network, some, monkeypatch):
    from abatis.evaluate import autoattack

    package = autoattack._build_package

    def quicker(*arguments):
        foreign = package(*arguments)
        foreign.square.n_queries = 50
        for attack in (foreign.apgd, foreign.apgd_targeted, foreign.fab):
            attack.n_iter = 20
        return foreign

    monkeypatch.setattr(autoattack, "_build_package", quicker)
    result = judged(network, some.subset(torch.arange(6)), Threat.parse("L1:4"))
    assert "pgd20_acc" not in result.accuracies
    assert 0 <= result.accuracies["autoattack_acc"] < result.accuracies["clean_acc"]
    assert not any("failed the final check" in finding for finding in result.findings)
    assert any("PGD was left out" in finding for finding in result.findings)
    told = json.dumps(result.to_json(), allow_nan=False)
    assert json.loads(told)["attacks"]["APGD-CE"]["restarts"] == 5


WORKER = """
import json, os, sys, torch
from tests.evaluate.conftest import PointsInMemory
from abatis.system import distributed
from abatis.evaluate import EvaluationRequest, evaluate
from abatis.api.threat import Threat

torch.manual_seed(0)
x, y = torch.rand(21, 1, 6, 6), torch.arange(21) % 3
net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 3))
for _ in range(200):
    loss = torch.nn.functional.cross_entropy(net(x), y)
    gradients = torch.autograd.grad(loss, list(net.parameters()))
    for weight, gradient in zip(net.parameters(), gradients):
        weight.data -= 1.0 * gradient
with distributed.connect():
    request = EvaluationRequest(
        PointsInMemory(x, y, torch.arange(21)), Threat.parse("Linf:0.05"), ladder="quick", seed=1,
        batch_size=4, device=torch.device("cpu"), num_classes=3,
    )
    found = evaluate(net, request)
    rank = distributed.rank()
with open(os.path.join(sys.argv[1], f"{os.environ.get('WORLD_SIZE', 1)}-{rank}.json"), "w") as file:
    json.dump(found.to_json(), file)
"""


@pytest.mark.slow
def test_two_processes_find_what_one_finds(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    root = Path(__file__).resolve().parents[2]
    common = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, str(script), str(tmp_path)], check=True, env=common)
    running = [
        subprocess.Popen([sys.executable, str(script), str(tmp_path)], env={**common, **places})
        for places in make_environments(2)
    ]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    one, *two = [
        json.loads((tmp_path / name).read_text()) for name in ("1-0.json", "2-0.json", "2-1.json")
    ]
    assert 0 < one["pgd20_acc"] < one["clean_acc"]
    for found in (one, *two):  # processes ask the copy about fewer images: the count differs
        stranger = next(test for test in found["masking"]["tests"] if test["id"] == "D25")
        assert stranger["status"] == "pass"
        assert stranger["of"] > 0
        for key in ("of", "interval", "says"):
            del stranger[key]
    for found in two:
        assert found == one


@pytest.mark.slow
def test_what_the_diagnostics_break_is_counted_at_its_own_place(points, monkeypatch):
    from abatis.evaluate import examination

    labels = torch.arange(4).repeat_interleave(80)
    x = torch.full((320, 1, 4, 4), 0.5)
    made = examination.diagnose

    def breaks_one(few, clean, **named):
        found = made(few, clean, **named)
        broken = found.robust.clone()
        broken[-1] = False  # the last of the points that were chosen
        return dataclasses.replace(found, robust=broken)

    class Right(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(1))

        def forward(self, images):
            return self.scale * torch.eye(4)[3] + 1e-3 * images.mean((1, 2, 3))[:, None]

    monkeypatch.setattr(examination, "diagnose", breaks_one)
    result = judged(Right(), points(x, labels), ladder="quick", num_classes=4)
    assert torch.bincount(labels[result.diagnosed]).tolist() == [64] * 4
    assert result.to_json()["masking"]["positions"] == result.diagnosed.tolist()
    lost = (result.per_point["clean"] & ~result.per_point["robust"]).nonzero().flatten()
    assert lost.tolist() == [int(result.diagnosed[-1])]
    assert int(lost[0]) >= 256
