"""AutoAttack one attack a call: the package's own verdicts, and what is said about odd networks."""

from __future__ import annotations

import json
import logging

import pyautoattack
import pytest
import torch
from torch import nn

from abatis.api.threat import Threat
from abatis.errors import UsageError
from abatis.evaluate import EvaluationRequest, autoattack, evaluate
from abatis.evaluate.isolation import isolate
from abatis.evaluate.judge import Judge

CPU = torch.device("cpu")
QUERIES = 200
ALL = ["APGD-CE", "APGD-T", "FAB-T", "Square"]


def judged(net, data, threat, **changes):
    settings = {"ladder": "standard", "seed": 7, "batch_size": 10, "device": CPU, "num_classes": 2}
    return evaluate(net, EvaluationRequest(data, Threat.parse(threat), **(settings | changes)))


@pytest.fixture
def few_queries(monkeypatch):
    """The standard version, but with few queries for Square: thousands change nothing here."""
    cut_queries(monkeypatch)


def cut_queries(patch, queries=QUERIES):
    whole = autoattack._build_package

    def package(*arguments):
        foreign = whole(*arguments)
        foreign.square.n_queries = queries
        return foreign

    patch.setattr(autoattack, "_build_package", package)


@pytest.fixture(scope="module")
def standard(digits, network):
    """The evaluation of 24 digits in batches of 10, with what was reported on the way."""
    data = type(digits)(digits.x[1400:1424], digits.y[1400:1424], digits.index[1400:1424])
    reports = []
    with pytest.MonkeyPatch.context() as patch:
        cut_queries(patch)
        result = judged(
            network,
            data,
            "Linf:0.15",
            num_classes=10,
            progress=lambda *report: reports.append(report),
        )
    return data, result, reports


def test_agrees_with_one_call_of_the_package(network, standard):
    data, result, _ = standard
    network.eval()
    try:
        with torch.random.fork_rng():
            whole = pyautoattack.AutoAttack(
                network, norm="Linf", eps=0.15, seed=7, version="standard"
            )
            whole.square.n_queries = QUERIES
            _, predicted = whole.run_standard_evaluation(data.x, data.y, batch_size=10)
    finally:
        network.train()
        network.zero_grad()
    assert torch.equal(result.per_point["AutoAttack"], predicted == data.y)
    assert result.attacks["Square"]["attacked"] > 0  # all four attacks had work
    assert (
        0
        < result.accuracies["autoattack_acc"]
        < result.attacks["APGD-CE"]["accuracy"]
        < result.accuracies["clean_acc"]
    )
    assert not any("AutoAttack" in finding for finding in result.findings)


def test_attacks_follow_each_other(standard):
    _, result, reports = standard
    before = result.per_point["clean"]
    for name, key in zip(ALL, ["apgd-ce", "apgd-t", "fab-t", "square"], strict=True):
        after = result.per_point[name]
        assert not (after & ~before).any()  # what is broken stays broken
        attacked = int(before.sum())
        assert result.attacks[name]["attacked"] == attacked
        assert result.attacks[name]["accuracy"] == int(after.sum()) / 24
        seen = [report[1:] for report in reports if report[0] == f"AutoAttack {key}"]
        assert seen == [(done, attacked) for done in [*range(0, attacked, 10), attacked]]
        before = after


def test_settings_are_those_of_the_standard_version(standard):
    _, result, _ = standard
    assert result.attacks["AutoAttack"]["attacks"] == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert result.attacks["AutoAttack"]["left_out"] == []
    asked = [
        {key: result.attacks[name].get(key) for key in ("steps", "targets", "restarts")}
        for name in ALL[:3]
    ]
    assert asked == [
        {"steps": 100, "targets": None, "restarts": 1},
        {"steps": 100, "targets": 9, "restarts": 1},
        {"steps": 100, "targets": 9, "restarts": 1},
    ]
    assert all(result.attacks[name]["norm"] == "Linf" for name in ALL)
    assert result.attacks["PGD-20"]["eps"] == "0.15"


def test_every_parameter_is_the_package_s_own(digits, network):
    whole = pyautoattack.AutoAttack(network, norm="L2", eps=0.5, seed=3, version="standard")
    with isolate(network) as net:
        judge = Judge(net, digits, Threat.parse("L2:0.5"), 10)
        ours = autoattack._select_attack(
            autoattack._build_package(judge, "standard", 3, CPU), "square", 10
        )
    assert ours.attacks_to_run == ["square"]
    assert whole.square.n_queries == 5000
    for name in ("apgd", "apgd_targeted", "fab", "square"):
        official, cut = vars(getattr(whole, name)), vars(getattr(ours, name))
        plain = {
            key: value
            for key, value in official.items()
            if isinstance(value, int | float | str | bool)
        }
        assert {key: cut[key] for key in plain if key != "device"} == {
            k: v for k, v in plain.items() if k != "device"
        }
        assert len(plain) > 8


def test_json_holds_the_same(standard):
    _, result, _ = standard
    told = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert told["n"] == 24
    assert told["autoattack_acc"] == sum(told["per_point"]["AutoAttack"]) / 24
    assert told["clean_acc"] == sum(told["per_point"]["clean"]) / 24


def test_quick_ladder_stops_after_pgd(network, standard):
    data, result, _ = standard
    quick = judged(network, data, "Linf:0.15", num_classes=10, ladder="quick")
    assert "autoattack_acc" not in quick.accuracies
    assert list(quick.per_point) == ["clean", "PGD-20", "margin-PGD-20", "robust"]
    assert quick.accuracies["pgd20_acc"] == result.accuracies["pgd20_acc"]


@pytest.mark.usefixtures("few_queries")
@pytest.mark.parametrize(("classes", "threat"), [(2, "Linf:0.3"), (3, "L2:0.8")])
def test_few_classes_leave_out_what_is_undefined(points, classes, threat, capsys):
    """Class k has a bright channel k; the last image is all bright.

    Only a radius beyond the threat's breaks the last one.
    """
    net = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(3, classes))
    nn.init.eye_(net[2].weight)
    nn.init.zeros_(net[2].bias)
    x = torch.full((5, 3, 8, 8), 0.4)
    y = torch.arange(5) % classes
    x[torch.arange(5), y] = torch.tensor([0.45, 0.45, 0.42, 0.41, 1.0]).view(5, 1, 1)
    x[4, [k for k in range(3) if k != y[4]]] = 0
    data = points(x.contiguous(memory_format=torch.channels_last), y)
    result = judged(net, data, threat, num_classes=classes)
    assert result.attacks["AutoAttack"]["left_out"] == ["apgd-t"]
    assert result.findings == (
        "too little to judge: only 5 of 5 points are right without an attack; 50 are needed for a "
        "verdict",
        f"AutoAttack ran without apgd-t: its loss is not defined for {classes} classes",
    )
    assert result.attacks["FAB-T"]["targets"] == classes - 1
    assert "APGD-T" not in result.per_point
    assert result.per_point["AutoAttack"].tolist() == [False] * 4 + [True]
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


def test_masked_gradients_are_found_out(digits, points):
    """A linear network behind a quantiser has no gradient, but random squares break it."""

    class Quantised(nn.Module):
        def forward(self, x):
            bright = ((x * 4).round() / 4).mean((1, 2, 3))
            return torch.stack([0.44 - bright, bright - 0.44, bright * 0 - 9, bright * 0 - 9], 1)

    logger = logging.getLogger("auto-attack")
    before = (logger.level, logger.propagate, list(logger.handlers))
    data = points(torch.full((6, 1, 8, 8), 0.49), torch.ones(6, dtype=torch.int64))
    result = judged(Quantised(), data, "Linf:0.2", num_classes=4)
    assert result.per_point["FAB-T"].all()
    assert not result.per_point["Square"].any()
    assert any(
        finding.startswith("Square, which uses no gradients, lowered the accuracy by 100.00 points")
        for finding in result.findings
    )
    warned = [finding for finding in result.findings if "points with zero gradient" in finding]
    assert len(warned) == 1
    assert warned[0].startswith("AutoAttack warns: there are 6 points")
    assert warned[0].endswith("(the first of 3 such warnings)")  # one for each target class
    assert before == (logger.level, logger.propagate, list(logger.handlers))


def test_probabilities_are_found_out(network, standard):
    data, _, _ = standard
    result = judged(
        nn.Sequential(network, nn.Softmax(1)), data, "Linf:0.15", num_classes=10, ladder="quick"
    )
    assert any(finding.startswith("D7 ") for finding in result.findings)
    assert result.verdict in ("WARN", "FAIL")


def test_too_few_outputs_are_an_error(network, standard):
    data, _, _ = standard
    with pytest.raises(UsageError, match="10 outputs, but the data have 11 classes"):
        judged(network, data, "Linf:0.15", num_classes=11)


def test_gradients_inside_the_forward_are_told_once(points):
    class Dynamic(nn.Module):
        def forward(self, x):
            with torch.enable_grad():
                inner = x.detach().requires_grad_()
                torch.autograd.grad(inner.square().sum(), inner)
            bright = x.mean((1, 2, 3))
            return torch.stack([0.5 - bright, bright - 0.5], 1)

    class Still(Dynamic):
        def forward(self, x):
            bright = x.mean((1, 2, 3))
            return torch.stack([0.5 - bright, bright - 0.5], 1)

    data = points(torch.full((3, 1, 8, 8), 0.55), torch.ones(3, dtype=torch.int64))
    found = [
        any("dynamic" in text for text in judged(net(), data, "Linf:0.1").findings)
        for net in (Dynamic, Still)
    ]
    assert found == [True, False]
