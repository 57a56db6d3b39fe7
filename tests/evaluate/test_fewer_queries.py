"""What the package's attacks are not made to ask changes nothing that they find."""

from __future__ import annotations

import pyautoattack
import pytest
import torch
from pyautoattack.square import SquareAttack
from torch import nn

from abatis.api.ball import Ball
from abatis.api.threat import Threat
from abatis.evaluate import EvaluationRequest, autoattack, evaluate
from abatis.evaluate.fewer_queries import Standing, ask_in_bf16, drop_fooled
from abatis.evaluate.finished_attacks import FinishedAttacks
from abatis.evaluate.isolation import isolate
from abatis.evaluate.judge import Judge
from abatis.nets.net import Net
from tests.evaluate.planted import Before, dim, shorten
from tests.evaluate.test_autoattack import cut_queries

CPU = torch.device("cpu")
QUERIES = 300


class Counted:
    """A forward, and how many rows it was asked for."""

    def __init__(self, net):
        self.net, self.rows = net, 0

    def __call__(self, x):
        self.rows += len(x)
        return self.net(x).clone()


def package(forward, threat):
    found = pyautoattack.AutoAttack(forward, norm=threat.norm, eps=threat.eps, seed=7)
    found.verbose = False
    found.square.n_queries = QUERIES
    return found


@pytest.mark.parametrize("threat", ["Linf:0.15", "L2:0.8", "L1:2"])
@pytest.mark.parametrize("key", ["apgd-ce", "apgd-t"])
def test_apgd_breaks_the_same_points(digits, network, threat, key):
    threat, x, y = Threat.parse(threat), digits.x[1400:1424], digits.y[1400:1424]
    with isolate(network) as net:
        whole, spared = Counted(net), Counted(net)
        found = []
        for forward in (whole, spared):
            foreign = package(forward, threat)
            foreign.attacks_to_run = [key]
            if forward is spared:
                drop_fooled(foreign.apgd, threat)
                drop_fooled(foreign.apgd_targeted, threat)
            found.append(foreign.run_standard_evaluation(x, y, batch_size=24))
        (_, wanted), (images, predicted) = found
        broken = predicted != y
        assert torch.equal(broken, wanted != y)
        assert 0 < int(broken.sum()) < 24
        assert spared.rows < whole.rows
        assert Ball(x, threat).contains(images).all()
        assert torch.equal(net(images).argmax(1) != y, broken)


def test_a_row_that_is_fooled_is_answered_as_right(points):
    """Logits (0, z), z = pixel - 0.5, class 1: fooled below 0.5.

    Then only the other rows are run, and in the end none.
    """
    net, data = dim(points, n=3)
    batch = next(data.eval_batches(3))
    asked, threat = Counted(net), Threat.parse("Linf:0.1")
    forward = Standing(asked, batch.x, batch.y, threat)

    def moved(*shifts):
        x = batch.x.clone()
        x[:, 0, 0, 0] += torch.tensor(shifts)
        return x.requires_grad_()

    assert forward(moved(0, 0, -0.09)).argmax(1).tolist() == [1, 1, 0]
    x = moved(-0.09, 0, 0)
    logits = forward(x)
    assert logits.argmax(1).tolist() == [0, 1, 1]
    assert logits[2].tolist() == [0, 1]
    (gradient,) = torch.autograd.grad(logits[:, 1].sum(), x)
    assert gradient.flatten(1).abs().sum(1).tolist() == [5, 5, 0]
    forward(moved(-0.09, -0.09, 0))
    x = moved(0, 0, 0)
    (gradient,) = torch.autograd.grad(forward(x).sum(), x)
    assert not gradient.any()
    assert asked.rows == 3 + 2 + 1


@pytest.mark.parametrize(
    ("shift", "dropped"), [(-0.11, 1), (-0.12, 0), (-0.0201, 1), (-0.02 - 1e-6, 0)]
)
def test_a_row_is_dropped_inside_the_ball_and_beyond_rounding(points, shift, dropped):
    """Of 20 points of logits 0.01, 0.02, ... 0.2 the second is moved."""
    net, data = dim(points)
    batch = next(data.eval_batches(20))
    forward = Standing(net, batch.x, batch.y, Threat.parse("Linf:0.11"))
    x = batch.x.clone()
    x[1, 0, 0, 0] += shift
    assert forward(x)[1, 1] < 0
    assert len(forward.rows) == 20 - dropped


def test_what_bf16_takes_for_fooled_is_asked_again():
    class Near(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(1, 2, bias=False)
            self.linear.weight.data = torch.tensor([[1.0], [1.001]])

        def forward(self, x):
            return self.linear(x.flatten(1))

    net = Near()
    square = SquareAttack(net, eps=0.1)
    ask = ask_in_bf16(square, Net(net))
    x, y = torch.ones(2, 1, 1, 1), torch.tensor([1, 0])
    with torch.no_grad():
        margins, _ = square.margin_and_loss(x, y)
        assert torch.equal(ask(x, y), margins)
    assert margins.tolist() == pytest.approx([0.001, -0.001], rel=1e-3)


@pytest.fixture(scope="module")
def folded(digits):
    """Convolutions with batch norm behind them, which attacks run without."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(144, 10),
        )
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        for _ in range(4):
            for rows in torch.randperm(1400).split(100):
                x = digits.x[rows] + 0.2 * torch.rand_like(digits.x[rows]) - 0.1
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(x), digits.y[rows]).backward()
                optimizer.step()
    return net.eval()


@pytest.mark.parametrize(
    ("change", "steady"),
    [
        (lambda x: x, True),
        (lambda x: x + 0.1 * torch.rand_like(x), False),
        (lambda x: x - x.mean(0), False),
    ],
)
def test_nothing_is_spared_where_answers_are_not_final(digits, network, change, steady):
    with isolate(Before(network, change)) as net:
        judge = Judge(net, digits, Threat.parse("Linf:0.1"), 10)
        foreign = autoattack._build_package(judge, "standard", 0, CPU)
    assert judge.steady == steady
    spared = [
        name
        for name in ("apgd", "apgd_targeted")
        if "attack_single_run" in vars(getattr(foreign, name))
    ]
    assert spared == ["apgd", "apgd_targeted"] * steady
    assert ("attack_single_run" in vars(foreign.square)) == steady


def test_attacks_run_folded_and_what_they_claim_is_looked_at_as_it_is(digits, folded, points):
    data = points(digits.x[1400:1410], digits.y[1400:1410])
    norms = []
    plain = folded[1].forward

    def look(x):
        norms.append("looked")
        return plain(x)

    folded[1].forward = look  # a hook would keep it from being folded

    def attack(batch):
        norms.append(type(folded[1]).__name__)
        return batch.x, net(batch.x).argmax(1) != batch.y

    with isolate(folded) as net:
        judge = Judge(net, data, Threat.parse("Linf:0.08"), 10)
        correct = judge.classify_clean().correct
        judge.tune()
        norms.clear()
        judge.run_attack("nothing", attack, correct)
    assert norms == ["_Folded", "looked"]


@pytest.fixture
def few_queries(monkeypatch):
    cut_queries(monkeypatch, QUERIES)


@pytest.mark.slow
@pytest.mark.usefixtures("few_queries")
def test_folded_norms_change_no_verdict(digits, folded, points):
    """One call of the package on the network as it is, and our attacks, which run it folded."""
    data, threat = points(digits.x[1400:1416], digits.y[1400:1416]), Threat.parse("Linf:0.08")
    with isolate(folded) as net:
        judge = Judge(net, data, threat, 16)
        clean = judge.classify_clean()
        judge.tune()
        found = autoattack.run_autoattack(judge, clean, 7, CPU, FinishedAttacks())
    _, predicted = package(folded, threat).run_standard_evaluation(data.x, data.y, batch_size=16)
    assert judge.steady
    assert torch.equal(found.verdicts[-1].robust, predicted == data.y)
    assert 0 < found.verdicts[-1].accuracy < clean.correct.double().mean()
    assert not any(verdict.facts["rejected"] for verdict in found.verdicts)


@pytest.mark.usefixtures("few_queries")
def test_square_in_bf16_has_a_number_of_its_own(digits, folded, points, monkeypatch):
    shorten(monkeypatch)
    data = points(digits.x[1400:1404], digits.y[1400:1404])
    request = EvaluationRequest(
        data,
        Threat.parse("Linf:0.08"),
        ladder="standard",
        seed=7,
        batch_size=4,
        device=CPU,
        num_classes=10,
        square_bf16=True,
    )
    found = evaluate(folded, request)
    told = found.to_json()
    assert told["autoattack_acc"] is None
    assert told["autoattack_fast_acc"] == sum(told["per_point"]["AutoAttack fast"]) / 4
    assert told["autoattack_fast_acc"] == told["attacks"]["fast Square"]["accuracy"]
