"""Whole evaluations of networks without gradients, with random answers, or with a memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from abatis.api.threat import Threat
from abatis.evaluate import EvaluationRequest, TrainingFacts, evaluate, examination
from abatis.evaluate.examination import choose_diagnosed
from abatis.evaluate.gradient_access import WithGradient, find_gradient_access
from abatis.evaluate.isolation import isolate
from abatis.evaluate.judge import Judge
from abatis.evaluate.masking import attacks, doubts, radii
from abatis.evaluate.randomised import Draws, MeanOfDraws, Worst, find_randomness
from tests.evaluate.conftest import PointsInMemory

N = 60
EPS = 0.05


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Short attacks, and no searches."""
    for name, value in {"QUERIES": 60, "MORE_STEPS": 24, "RESTARTS": 2}.items():
        monkeypatch.setattr(attacks, name, value)
    monkeypatch.setattr(radii, "GRID", (0, 1, 4))
    monkeypatch.setattr(doubts, "SEARCHES", {})
    monkeypatch.setattr(examination, "SEARCHES", {})


def grey(n=N, low=0.2, high=0.8):
    """Images of one pixel value each; class 1 is brighter than one half."""
    x = torch.linspace(low, high, n).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()
    return PointsInMemory(x, (x[:, 0, 0, 0] > 0.5).long(), torch.arange(n))


class Bright(nn.Module):
    """Logits (0, 10 (mean - 0.5)), after a change of the images."""

    def __init__(self, change=lambda x: x):
        super().__init__()
        self.change = change

    def forward(self, x):
        z = 10 * (self.change(x).mean((1, 2, 3)) - 0.5)
        return torch.stack([torch.zeros_like(z), z], 1)


class Raises(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise RuntimeError("no derivative was written")


def judged(module, points=None, **changes):
    points = points or grey()
    request = {"ladder": "quick", "all_tests": True, "batch_size": 32, "num_classes": 2, **changes}
    request = {"device": torch.device("cpu"), "threat": Threat.parse(f"Linf:{EPS}"), **request}
    request = {"seed": 0, **request}
    return evaluate(module, EvaluationRequest(points, **request))


def crossing(points):
    """The points that a change of EPS of all pixels moves to the other side."""
    return (points.x[:, 0, 0, 0] - 0.5).abs() < EPS


@pytest.mark.parametrize("change", [torch.Tensor.detach, Raises.apply, torch.round])
def test_no_gradient_is_a_finding(change):
    """Of rounding the gradient is zero, and D2 speaks; the others have none, and D1 speaks."""
    rounds = change is torch.round
    found = judged(Bright((lambda x: (x * 50).round() / 50) if rounds else change)).to_json()
    tests = {test["id"]: test for test in found["masking"]["tests"]}
    assert found["verdict"] == "FAIL"
    assert tests["D2" if rounds else "D1"]["status"] == "fail"
    assert found["robust_acc"] is None
    assert found["robust_acc_upper"] < found["clean_acc"]
    assert tests["D12"]["status"] != "not applicable"
    if not rounds:
        assert found["pgd20_acc"] is None
        assert "no gradient" in found["attacks"]["PGD-20"]["not_applicable"]
        assert "accuracy" not in found["attacks"]["PGD-20"]
        assert any("PGD-20 is not applicable" in text for text in found["findings"])
        assert found["margins"] is None
        assert ("no derivative" in tests["D1"]["says"]) == (change is not torch.Tensor.detach)


@pytest.mark.slow
def test_without_gradients_the_standard_ladder_has_square_alone():
    found = judged(Bright(torch.Tensor.detach), ladder="standard").to_json()
    assert "Square" in found["per_point"]
    assert found["autoattack_acc"] is None
    assert found["robust_acc_upper"] <= found["attacks"]["Square"]["accuracy"] < 1


def detach_dark(x):
    """No gradient where a whole batch is dark."""
    return x.detach() if bool(x.detach().max() < 0.5) else x


def test_some_batches_without_a_gradient_are_named_and_the_rest_is_attacked():
    module = Bright(detach_dark)
    points = grey()
    with isolate(module) as net:
        access = find_gradient_access(Judge(net, points, Threat.parse(f"Linf:{EPS}"), 20), 0)
    assert access.kind == "some"
    found = judged(module, points, batch_size=20)
    (first,) = (test for test in found.diagnosis.tests if test.id == "D1")
    assert first.status == "fail"
    assert "attacks took it as zero there" in first.says
    bright = points.y == 1
    assert not (found.per_point["robust"] & crossing(points) & bright).any()


def test_a_gradient_that_fails_late_stops_no_evaluation():
    """Near the boundary only, where no image and no random start of these points lies."""

    def change(x):
        near = (x.mean((1, 2, 3)) - 0.5).abs().min() < 0.01
        return Raises.apply(x) if near else x

    points = PointsInMemory(
        torch.cat([grey(30, 0.2, 0.46).x, grey(30, 0.54, 0.8).x]),
        (torch.arange(60) >= 30).long(),
        torch.arange(60),
    )
    found = judged(Bright(change), points)
    (first,) = (test for test in found.diagnosis.tests if test.id == "D1")
    assert (found.verdict, first.status) == ("FAIL", "fail")
    assert "no derivative" in first.says


def test_a_failing_backward_is_zero_and_a_working_one_is_itself():
    x = grey().x.clone().requires_grad_()
    for change, expected in ((lambda x: x, 10 / 16), (Raises.apply, 0), (torch.Tensor.detach, 0)):
        safe = WithGradient(Bright(change))
        logits = safe(x)
        assert torch.equal(logits, Bright(change)(x))
        (gradient,) = torch.autograd.grad(logits[:, 1].sum(), x, retain_graph=True)
        assert torch.allclose(gradient, torch.full_like(x, expected))
        (again,) = torch.autograd.grad(logits[:, 1].sum(), x)
        assert torch.equal(again, gradient)
        assert safe.lost == (0 if expected else 2)


class Memory(nn.Module):
    """Right within 0.06 of known points; elsewhere a plain network, which EPS breaks."""

    def __init__(self, points):
        super().__init__()
        self.plain = Bright(lambda x: 0.5 + 0.05 * (x - 0.5))  # the logits are small
        self.x, self.y = points.x.flatten(1), points.y

    def forward(self, x):
        apart, place = torch.cdist(x.flatten(1), self.x, p=torch.inf).min(1)
        logits = self.plain(x)
        known = logits + nn.functional.one_hot(self.y[place], 2)
        return torch.where((apart <= 0.06)[:, None], known, logits)


def patterned(seed, n=60):
    """Images whose mean is 0.03 from one half, with patterns far apart from each other."""
    source = torch.Generator().manual_seed(seed)
    signs = torch.tensor([0.2, -0.2]).repeat(8)
    rows = [signs[torch.randperm(16, generator=source)] for _ in range(n)]
    y = torch.arange(n) % 2
    x = 0.5 + torch.stack(rows).view(n, 1, 4, 4) + 0.03 * (2 * y - 1).view(-1, 1, 1, 1)
    return PointsInMemory(x, y, torch.arange(n))


def test_a_memorised_test_set_is_found_by_its_training_images():
    test = patterned(0)
    facts = TrainingFacts(patterned(1), None, Threat.parse(f"Linf:{EPS}"), attacked=None)
    found = judged(Memory(test), test, training=facts)
    tests = {one.id: one for one in found.diagnosis.tests}
    assert tests["D26"].status == "fail"
    assert "memorised" in tests["D26"].says
    assert found.per_point["robust"].all()
    # the bound is that of images that it has not seen
    assert found.accuracies["robust_acc_upper"] == found.diagnosis.unseen == 0
    assert tests["D11"].says == "there is no network to transfer from"
    unknown = {one.id: one for one in judged(Memory(test), test).diagnosis.tests}
    assert unknown["D26"].status == "not applicable"
    assert "nobody can tell a memorised test set" in unknown["D26"].says


def test_an_honest_network_stands_no_better_on_test_images():
    facts = TrainingFacts(grey(61), None, Threat.parse(f"Linf:{EPS}"), attacked=None)
    tests = {one.id: one for one in judged(Bright(), training=facts).diagnosis.tests}
    assert tests["D26"].status == "pass"


def test_the_points_of_the_diagnostics_are_drawn_anew_for_every_seed():
    labels = torch.arange(1000) % 10
    first, again, other = (choose_diagnosed(labels, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert len(first) == len(other) == 256
    assert len(set(first.tolist()) & set(other.tolist())) < 150
    assert set(torch.bincount(labels[first]).tolist()) <= {25, 26}
    assert torch.equal(choose_diagnosed(labels[:100], 0), torch.arange(100))


def test_what_breaks_more_on_the_chosen_points_runs_on_all(monkeypatch):
    """Zero gradients stop PGD at its random start; noise moves more, and breaks more everywhere."""
    points = grey(400, 0.4, 0.6)
    monkeypatch.setattr(examination, "DIAGNOSED", 100)

    def hide(x):
        return (x * 40).round() / 40

    found = judged(Bright(hide), points)
    assert found.diagnosis.breakers
    spread = [name for name in found.per_point if name.endswith(", all points")]
    assert {name.removesuffix(", all points") for name in spread} == {*found.diagnosis.breakers}
    broken = found.per_point["clean"] & ~found.per_point["robust"]
    others = torch.ones(400, dtype=torch.bool)
    others[found.diagnosed] = False
    first = found.per_point["PGD-20"]
    assert (broken & first & others).any()
    for name in spread:
        assert not (found.per_point["robust"] & ~found.per_point[name]).any()


class Noisy(nn.Module):
    """The logits of Bright, plus noise of standard deviation 0.3, which is 0.03 of a pixel."""

    def __init__(self, noise=0.3):
        super().__init__()
        self.noise = noise

    def forward(self, x):
        logits = Bright()(x)
        return logits + self.noise * torch.randn_like(logits[:, :1]) * torch.tensor([0.0, 1.0])


def test_a_random_network_is_judged_by_the_mean_over_draws():
    """An image of value v is wrong, under attack, with P(noise > 10 (|v - 0.5| - eps))."""
    points = grey(60, 0.4, 0.6)
    found = judged(Noisy(), points).to_json()
    normal = torch.distributions.Normal(0.0, 0.3)
    apart = (points.x[:, 0, 0, 0] - 0.5).abs()
    expected = normal.cdf(10 * (apart - EPS))
    draws = found["draws"]
    assert draws["number"] == 34  # 2,000 draws over 60 points
    mean = sum(draws["right"]["robust"]) / (60 * 34)
    assert found["robust_acc_upper"] == draws["mean"] == pytest.approx(mean)
    # the standard error of the mean is 0.006
    assert mean == pytest.approx(float(expected.mean()), abs=0.03)
    assert draws["worst"] <= mean <= draws["majority"] + 0.2
    assert found["clean_acc"] == pytest.approx(float(normal.cdf(10 * apart).mean()), abs=0.03)
    low, high = found["interval"]["robust_acc_upper"]
    assert low < mean < high
    assert found["attacks"]["PGD-20"]["gradient_draws"] == draws["gradient"] == 4
    assert found["pgd20_acc"] == found["attacks"]["PGD-20"]["accuracy"]
    assert found["verdict"] == "FAIL"
    (sixth,) = (test for test in found["masking"]["tests"] if test["id"] == "D6")
    assert sixth["status"] == "fail"
    assert any("means over 34 draws" in text for text in found["findings"])


@pytest.mark.slow
def test_a_random_network_meets_the_package_version_for_it():
    for ladder in ("standard", "rand"):
        found = judged(Noisy(), grey(20, 0.4, 0.6), ladder=ladder).to_json()
        assert found["autoattack_acc"] is None
        assert 0 < found["autoattack_rand_acc"] <= found["clean_acc"]
        assert found["attacks"]["AutoAttack rand"]["attacks"] == ["apgd-ce"]  # two classes
        assert found["attacks"]["rand APGD-CE"]["gradient_draws"] == 20


def test_the_rand_ladder_judges_honest_networks_too():
    found = judged(Bright(), ladder="rand").to_json()
    assert "draws" not in found
    assert found["autoattack_rand_acc"] == found["robust_acc"]


def test_randomness_is_found_by_repetition():
    threat = Threat.parse(f"Linf:{EPS}")
    for module, random in ((Bright(), False), (Noisy(1e-7), False), (Noisy(), True)):
        with isolate(module) as net:
            assert find_randomness(Judge(net, grey(), threat, 32), 0) is random


def test_draws_are_counted_by_hand():
    draws = Draws(4, 2, {"clean": torch.tensor([4, 4, 2]), "robust": torch.tensor([4, 1, 2])})
    assert draws.compute_mean(draws.right["robust"]) == pytest.approx(7 / 12)
    worst = Worst(torch.zeros(3, 1, 1, 1), torch.tensor([4, 4, 2]))
    worst.take(torch.tensor([2, 0]), torch.ones(2, 1, 1, 1), torch.tensor([1, 4]))
    assert worst.images.flatten().tolist() == [0, 0, 1]
    assert worst.counts.tolist() == [4, 4, 1]
    told = draws.to_json()
    assert (told["majority"], told["worst"]) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert "58.33 % of the draws" in draws.describe()
    calls = []

    class Counts(nn.Module):
        def forward(self, x):
            calls.append(1)
            return x * len(calls)

    assert MeanOfDraws(Counts(), 3)(torch.ones(1, 1)).item() == 2  # (1 + 2 + 3) / 3
