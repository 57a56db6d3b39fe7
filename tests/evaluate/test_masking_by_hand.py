"""Each diagnostic counts what can be counted by hand; the whole leaves everything as found."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from abatis.api.randomness import per_sample
from abatis.api.threat import Threat
from abatis.evaluate.isolation import isolate
from abatis.evaluate.judge import Judge
from abatis.evaluate.masking import diagnosis
from abatis.evaluate.masking.diagnosis import NO_CLAIM, REASONS
from abatis.evaluate.masking.outputs import run_output_tests
from abatis.evaluate.masking.record import GATES, grade_share, make_outcome
from abatis.evaluate.masking.training import TrainingFacts
from abatis.nets.net import Net
from tests.evaluate.planted import (
    PLANTED,
    Before,
    Dynamic,
    Shifted,
    Times,
    Window,
    by_id,
    diagnosed,
    dim,
    shorten,
)


@pytest.fixture
def short(monkeypatch):
    shorten(monkeypatch)


def test_a_linear_network_is_counted_by_hand(points):
    """The logit is 0.01, 0.02, ... 0.2.

    An attack of radius 0.0222 takes 5 * 0.0222 = 0.111 from it.
    """
    net, data = dim(points)
    found = diagnosed(net, data, "Linf:0.0222")
    tests = by_id(found)
    assert found.verdict == "UNDECIDED"
    assert found.list_findings() == [f"too little to judge: {found.shortage}"]
    assert found.shortage == (
        "only 20 of 20 points are right without an attack; 50 are needed for a verdict"
    )
    assert found.robust.tolist() == [number > 11 for number in range(1, 21)]
    assert [(tests[name].count, tests[name].of) for name in ("D2", "D9", "D10", "D13", "D18")] == [
        (0, 20)
    ] * 5
    assert (tests["D16"].count, tests["D16"].of) == (0, 9)
    assert tests["D9"].interval == (0, pytest.approx(3.841458820694124 / 23.841458820694124))
    assert tests["D5"].value == pytest.approx(1, abs=1e-3)
    assert (tests["D17"].count, tests["D17"].of) == (0, 20 + 9)
    # eps / 4, / 2, 1, 2, 4 take 0.02775, 0.0555, 0.111, 0.222 and more; 0.5 and 1 everything
    assert [int(right.sum()) for right in found.curve.right] == [20, 18, 15, 9, 0, 0, 0, 0]
    absent = {name: tests[name].says for name in tests if tests[name].status == "not applicable"}
    assert absent == dict.fromkeys(("D11", "D23"), "nothing is known about the training") | {
        "D22": "the network has no batch norm",
        **REASONS,
    }


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize(("threat", "stand"), [("Linf:0.0366", 2), ("Linf:0.0344", 3)])
def test_searches_run_where_doubt_meets_a_claim(points, monkeypatch, threat, stand):
    """The radii take 0.183 and 0.172 of the logits 0.01, ... 0.2; a claim is more than 2 of 20."""
    net, data = dim(points)
    asked = []

    def note(tally, *_):
        asked.append(int(tally.robust.sum()))
        return [], ()

    monkeypatch.setattr(diagnosis, "run_searches", note)
    found = diagnosed(nn.Sequential(net, Times(1e-8)), data, threat)
    tests = by_id(found)
    assert tests["D3"].status == "fail"
    assert int(found.robust.sum()) == stand
    assert asked == ([3] if stand == 3 else [])
    assert (tests["D27"].says == tests["D28"].says == NO_CLAIM) == (stand == 2)


def test_a_network_that_is_never_right_has_no_robustness_to_doubt(points):
    net, data = dim(points)
    wrong = points(data.x, 1 - data.y)
    found = diagnosed(net, wrong, "Linf:0.0222")
    assert found.verdict == "UNDECIDED"
    assert str(found) == (
        "too little to judge: none of 20 points is right without an attack, so nothing is left to "
        "attack"
    )
    assert {test.status for test in found.tests} == {"not applicable"}
    assert (found.curve.accuracy, int(found.robust.sum())) == ((0.0,), 0)


@pytest.mark.usefixtures("short")
def test_slopes_are_compared_inside_the_box(points):
    """A network may cut its images at the box, and images may lie at its edge."""
    net, data = dim(points)
    edge = replace(
        data,
        x=torch.stack([torch.zeros(4), torch.ones(4)] * 10).view(20, 1, 2, 2),
        y=torch.tensor([0, 1] * 10),
    )
    net.bias = -0.5
    test = by_id(diagnosed(Before(net, lambda x: x.clamp(0, 1)), edge, "Linf:0.01"))["D5"]
    assert test.value == pytest.approx(1, abs=1e-3)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("dead", [1, 3, 4])
def test_dead_points_are_counted_and_few_only_warn(points, dead):
    """The first pixel of a dead point is beyond where the network stops looking."""
    net, data = dim(points)
    bright = data.x.clone()
    bright[:dead] = 0.95
    data = replace(data, x=bright)
    cut = Before(net, lambda x: torch.where((x > 0.9).all(1, keepdim=True), 1.0, x))
    test = by_id(diagnosed(cut, data, "Linf:0.01"))["D2"]
    assert (test.count, test.of, test.value) == (dead, 20, dead / 20)
    assert test.status == ("fail" if dead > 3 else "warn")
    assert (test.warn, test.fail) == ("any", "> 1 %")


@pytest.mark.parametrize(
    ("test", "count", "of", "status"),
    [
        ("D9", 3, 10, "pass"),  # 30 %, but three points
        ("D9", 4, 10, "fail"),
        ("D9", 4, 201, "warn"),
        ("D9", 4, 400, "pass"),  # exactly 1 %
        ("D22", 90, 100, "warn"),  # it has no gate to fail at
        ("D24", 1, 10_000, "fail"),
        ("D17", 1, 10, "warn"),
        ("D9", 0, 0, "not applicable"),
    ],
)
def test_gates(test, count, of, status):
    assert grade_share(test, count, of, "").status == status


def test_a_record_in_plain_types():
    record = json.loads(json.dumps(grade_share("D10", 1, 210, "one").to_json(), allow_nan=False))
    assert record == {
        "id": "D10",
        "name": GATES["D10"].name,
        "status": "pass",
        "value": 1 / 210,
        "count": 1,
        "of": 210,
        "interval": pytest.approx([0.0008, 0.0265], abs=1e-4),
        "warn": "> 1 %",
        "fail": "> 2 %",
        "says": "one",
    }
    assert make_outcome("D1", "fail", "no").to_json()["interval"] is None


@pytest.mark.parametrize("problem", ["raises", "detached"])
def test_without_gradients_nothing_crashes(points, problem):
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            return x.clone()

        @staticmethod
        def backward(context, gradient):
            raise ValueError("no derivative")

    net, data = dim(points)
    found = diagnosed(
        Before(net, Broken.apply if problem == "raises" else torch.Tensor.detach),
        data,
        "Linf:0.0222",
    )
    tests = by_id(found)
    assert (found.verdict, tests["D1"].status) == ("FAIL", "fail")
    assert ("no derivative" in tests["D1"].says) == (problem == "raises")
    numbers = (2, 3, 4, 5, 9, 11, *range(13, 24), 25, 26)
    needing = (f"D{number}" for number in numbers)
    assert {name for name in tests if tests[name].status == "not applicable"} == set(needing)
    assert found.curve.accuracy == (1.0,)
    assert (
        tests["D12"].count == 11
    )  # some of 100 corners are the worst one: all there is to find in a linear network
    assert tests["D10"].status == "fail"
    assert found.robust.tolist() == [number > 11 for number in range(1, 21)]


@pytest.mark.usefixtures("short")
def test_a_window_is_found_by_restarts_and_by_steps_and_not_by_one(points):
    """From 0.3 a step of 0.6 jumps over the window; PGD lands in it unless it starts behind it."""
    n, threat = 60, Threat.parse("Linf:0.6")
    data = points(torch.full((n, 1, 1, 1), 0.3), torch.zeros(n, dtype=torch.int64))
    start = (
        (0.3 + (2 * per_sample("uniform", 0, "evaluate/uniform", data.index, data.x) - 1) * 0.6)
        .clamp(0, 1)
        .flatten()
    )
    past = int((start >= 0.8).sum())
    assert past > 3
    found = diagnosed(Window(), data, str(threat), training=TrainingFacts(data, Window(), threat))
    tests = by_id(found)
    assert (tests["D23"].count, tests["D23"].of) == (n - past, n)
    clean = diagnosed(
        Window(), data, str(threat), training=TrainingFacts(data, Window(), threat, attacked=False)
    )
    assert by_id(clean)["D23"].status == "not applicable"
    assert tests["D9"].count == 0  # a single step breaks nothing here
    assert int(found.curve.right[found.curve.eps.index(0.6)].sum()) == past
    assert 0 < tests["D14"].count <= past
    assert tests["D12"].count == past  # of 200 draws one lands in the window
    assert not found.robust.any()


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_a_masked_network_is_found_by_transfer(digits, network, points):
    data = points(digits.x[1400:1440], digits.y[1400:1440])
    training = TrainingFacts(data, network, Threat.parse("Linf:0.1"))
    masked = diagnosed(PLANTED["quantised input"](network), data, training=training)
    assert by_id(masked)["D11"].status == "fail"


@pytest.mark.usefixtures("short")
def test_images_are_transferred_to_a_network_without_gradient(points):
    """The network in front of which the gradient ends breaks what can be broken, 11 points."""
    net, data = dim(points)
    training = TrainingFacts(data, net, Threat.parse("Linf:0.0222"))
    blind = diagnosed(Before(net, torch.Tensor.detach), data, "Linf:0.0222", training=training)
    test = by_id(blind)["D11"]
    assert (test.status, test.count, test.of) == ("fail", 11, 20)


@pytest.mark.usefixtures("short")
def test_the_twin_is_asked_for_only_where_points_are_left(points):
    def no_twin():
        raise AssertionError("nobody needs it")

    net, data = dim(points)
    found = diagnosed(
        net, data, "Linf:0.3", training=TrainingFacts(data, no_twin, Threat.parse("Linf:0.3"))
    )
    assert (by_id(found)["D11"].status, by_id(found)["D11"].count) == ("pass", 0)


@pytest.mark.parametrize(("gradient", "status", "value"), [(True, "warn", 2), (False, "fail", 1)])
def test_a_forward_that_does_more_is_found_out(points, gradient, status, value):
    """A gradient in each of two forwards, or a buffer that is not what it was."""
    net, data = dim(points)
    network = Dynamic(net, gradient)
    with isolate(network) as judged:
        test = run_output_tests(Judge(judged, data, Threat.parse("Linf:0.02"), 20), False)[2]
        honest = run_output_tests(Judge(Net(net), data, Threat.parse("Linf:0.02"), 20), False)[2]
    assert (test.id, test.status, test.value) == ("D8", status, value)
    assert (honest.status, honest.value) == ("pass", 0)
    assert network.forwards == 0  # as it was


@pytest.mark.usefixtures("short")
def test_batch_statistics_that_protect_are_found_out(points):
    net = Shifted()
    data = points(torch.full((30, 1, 1, 1), 0.6), torch.ones(30, dtype=torch.int64))
    test = by_id(diagnosed(net, data, "Linf:0.15"))["D22"]
    assert (test.status, test.count, test.of) == ("warn", 30, 30)
    assert net.norm.running_mean.item() == pytest.approx(0.7)
    one = by_id(diagnosed(net, data.subset(torch.arange(1)), "Linf:0.15"))["D22"]
    assert one.status == "not applicable"


@pytest.mark.usefixtures("short")
def test_everything_is_left_as_found(digits, network, points):
    network.train()
    network[2].eval()
    network[1].weight.requires_grad_(False)
    functions = torch.autograd.grad, torch.autograd.backward

    def state():
        return repr(
            [
                [module.training for module in network.modules()],
                [one.requires_grad for one in network.parameters()],
                {
                    name: (id(one), one.tolist())
                    for name, one in network.state_dict(keep_vars=True).items()
                },
                torch.get_rng_state().tolist(),
                np.random.get_state()[1].tolist(),
                random.getstate(),
            ]
        )

    before = state()
    try:
        data = points(digits.x[:6], digits.y[:6])
        diagnosed(network, data, training=TrainingFacts(data, network, Threat.parse("Linf:0.1")))
        assert state() == before
        assert (torch.autograd.grad, torch.autograd.backward) == functions
    finally:
        network.train().requires_grad_(True)


@pytest.mark.slow
@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("threat", ["Linf:0.08", "L2:0.4"])
def test_nothing_depends_on_the_batch(digits, network, points, threat):
    """But Square, whose draws are its authors', and batch statistics, nor then whether they raise
    the doubt that D27 and D28 wait for.
    """
    data = points(digits.x[1400:1420], digits.y[1400:1420])
    whole, parts = (by_id(diagnosed(network, data, threat, batch_size=size)) for size in (20, 7))
    for name in whole.keys() - {"D10", "D22", "D27", "D28"}:
        assert (whole[name].status, whole[name].count) == (parts[name].status, parts[name].count)


@pytest.mark.usefixtures("short")
def test_l2_measures_to_the_end_of_the_box(digits, network, points):
    found = diagnosed(network, points(digits.x[1400:1420], digits.y[1400:1420]), "L2:0.4")
    assert found.curve.eps == (0, 0.4, 1.6, 4, 8)  # sqrt(64) holds the whole box
    assert by_id(found)["D20"].count == 0
    net, data = dim(points)
    small = by_id(diagnosed(net, data, "L2:0.02"))
    assert small["D10"].status == "not applicable"
    assert small["D12"].status == "pass"


@pytest.mark.usefixtures("short")
def test_no_radius_no_alarm(points):
    net, data = dim(points)
    found = diagnosed(net, data, "Linf:0")
    assert (found.verdict, bool(found.shortage)) == ("UNDECIDED", True)
    assert {test.status for test in found.tests} == {"pass", "not applicable"}
    assert by_id(found)["D15"].says == "the radius is 0"
    assert found.robust.all()
