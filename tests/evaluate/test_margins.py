"""Margins against numbers computed by hand, published ones, and what must not change them."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from torch import nn

from abatis.api.batch import Batch
from abatis.errors import DataError, UsageError
from abatis.evaluate.deepfool import deepfool, find_boundary, size
from abatis.evaluate.isolation import isolate
from abatis.evaluate.margins import (
    effective_margin,
    input_margin,
    logit_margin,
    measure_margins,
    probability_margin,
)
from tests.golden import golden, linear_model

NORMS = ["L2", "Linf"]
MEASURES = {"logit", "probability", "effective_L2", "effective_Linf", "input_L2", "input_Linf"}
ROOT5 = 5**0.5

# Two pixels, logits (3a + 4b, 0): at (.2, .1) they differ by 1, with a slope of length 5 (L2) and
# 7 (L1).
TWO = linear_model([[3, 4], [0, 0]])
TWO_X = torch.tensor([0.2, 0.1], dtype=torch.float64).view(1, 1, 1, 2)

# Four pixels, logits (1, .5, .52): gaps .5 with slope (2, -1, 0, 0) and .48 with slope
# (0, 0, 0, 2.4), so that class 2 is the nearest in L2 (.2 < .5 / sqrt 5) and class 1 in Linf
# (.5 / 3 < .2).
THREE = linear_model([[2, 0, 0, 0], [0, 1, 0, 0], [2, 0, 0, -2.4]])
THREE_X = torch.tensor([0.5, 0.5, 0.25, 0.2], dtype=torch.float64).view(1, 1, 2, 2)


class Times(nn.Module):
    def __init__(self, net, factor):
        super().__init__()
        self.net, self.factor = net, factor

    def forward(self, x):
        return self.factor * self.net(x)


class Ledge(nn.Module):
    """One pixel t, logits (.2 + max(t - .5, 0), 0): flat below .5, where class 0 stays on top."""

    def forward(self, x):
        t = x.flatten(1)
        return torch.cat([0.2 + (t - 0.5).relu(), 0 * t], 1)


def pixels(*values):
    return torch.tensor(values, dtype=torch.float64).view(-1, 1, 1, 1)


def labels(*values):
    return torch.tensor(values)


def batch_of(x, y):
    return Batch(x, y, torch.arange(len(y)))


def measured(net, batches, norm="Linf", adversarial=None):
    with isolate(net) as judged:
        return measure_margins(judged, batches, norm, adversarial)


def linear_golden():
    arrays = golden("amm_deepfool_linear")
    net = nn.Sequential(nn.Flatten(), nn.Linear(20, 6)).double()
    net[1].weight.data, net[1].bias.data = torch.tensor(arrays["W"]), torch.tensor(arrays["b"])
    return arrays, net, torch.tensor(arrays["x"]), torch.tensor(arrays["label_y"])


def relu_golden():
    arrays = golden("amm_deepfool_mlp")
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 5)).double()
    for layer, place in ((net[1], "1"), (net[3], "2")):
        layer.weight.data, layer.bias.data = (
            torch.tensor(arrays[f"W{place}"]),
            torch.tensor(arrays[f"b{place}"]),
        )
    return arrays, net, torch.tensor(arrays["x"])


def test_margins_of_logits_and_probabilities():
    logits = torch.tensor([[0.7, 0.2, 0.1]], dtype=torch.float64).log().expand(3, 3)
    y = labels(0, 1, 2)
    assert logit_margin(logits, y).tolist() == pytest.approx(
        [np.log(3.5), -np.log(3.5), -np.log(7)]
    )
    assert probability_margin(logits, y).tolist() == pytest.approx([0.5, -0.5, -0.6])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_probability_margin_is_finite_for_any_logits(dtype):
    logits = torch.tensor(
        [[1e4, -1e4, 0], [-1e4, 1e4, 1e4], [-1e4, -1e4, -1e4], [3e38, -3e38, 0]], dtype=dtype
    )
    assert probability_margin(logits, labels(0, 0, 1, 1)).tolist() == pytest.approx(
        [1, -0.5, 0, -1]
    )


@torch.no_grad()
@pytest.mark.parametrize(
    ("norm", "length", "r"), [("L2", 0.2, (-0.12, -0.16)), ("Linf", 1 / 7, (-1 / 7, -1 / 7))]
)
def test_two_classes_by_hand(norm, length, r):
    assert deepfool(TWO, TWO_X, norm).flatten().tolist() == pytest.approx(
        [1.02 * part for part in r], abs=1e-15
    )
    for y, sign in ((0, 1), (1, -1)):
        assert effective_margin(TWO, TWO_X, labels(y), norm).item() == pytest.approx(
            sign * length, abs=1e-15
        )
        assert input_margin(TWO, TWO_X, labels(y), norm).item() == pytest.approx(
            sign * 1.02 * length, abs=1e-15
        )


@pytest.mark.parametrize(
    ("norm", "length", "r", "effective"),
    [
        ("L2", 0.2, (0, 0, 0, -0.2), (0.2, -0.5 / ROOT5, -0.2)),
        ("Linf", 0.5 / 3, (-0.5 / 3, 0.5 / 3, 0, 0), (0.5 / 3, -0.5 / 3, -0.2)),
    ],
)
def test_three_classes_by_hand(norm, length, r, effective):
    """The nearest class depends on the norm; of a wrong point the margins lie at two boundaries."""
    assert deepfool(THREE, THREE_X, norm, overshoot=0.5).flatten().tolist() == pytest.approx(
        [1.5 * part for part in r]
    )
    for y, sign in ((0, 1), (1, -1), (2, -1)):
        assert effective_margin(THREE, THREE_X, labels(y), norm).item() == pytest.approx(
            effective[y], abs=1e-15
        )
        assert input_margin(THREE, THREE_X, labels(y), norm).item() == pytest.approx(
            sign * 1.02 * length, abs=1e-15
        )


@pytest.mark.parametrize("norm", NORMS)
def test_published_values_on_a_linear_model(norm):
    arrays, net, x, y = linear_golden()
    key, right = norm.lower(), torch.tensor(arrays["pred"]) == y
    exact = torch.tensor(arrays[f"exact_{key}"])
    r, reached = find_boundary(net, x, norm)
    assert reached.all()
    assert (r.flatten(1) - torch.tensor(arrays[f"df_{key}_r"])).abs().max() <= 1e-10
    assert (size(r, norm) / 1.02 - exact).abs().max() <= 1e-10
    assert (
        input_margin(net, x, y, norm) / 1.02 - torch.where(right, exact, -exact)
    ).abs().max() <= 1e-10
    assert 0 < right.sum() < len(x)
    effective = effective_margin(net, x, y, norm)
    assert torch.allclose(
        effective[right], input_margin(net, x, y, norm)[right] / 1.02, rtol=0, atol=1e-12
    )
    if norm == "L2":
        assert (effective - torch.tensor(arrays["signed_l2_margin_y"])).abs().max() <= 1e-10


def test_published_rho_adv():
    arrays, net, x, y = linear_golden()
    record = measured(net, [batch_of(x[:9], y[:9]), batch_of(x[9:], y[9:])]).to_json()
    assert record["rho_adv_L2"] == pytest.approx(float(arrays["rho_adv_l2"]), rel=1e-10)
    assert record["rho_adv_Linf"] == pytest.approx(float(arrays["rho_adv_linf"]), rel=1e-10)
    assert record["measures"]["effective_L2"]["mean"] == pytest.approx(
        float(arrays["avg_signed_margin"]), rel=1e-10
    )
    assert record["measures"]["effective_L2"]["min"] == pytest.approx(
        float(arrays["min_signed_margin"]), rel=1e-10
    )


@pytest.mark.parametrize("norm", NORMS)
def test_published_values_on_a_relu_network(norm):
    """The result, and that a row which is out is computed no further.

    One forward ranks the classes, each step takes two.
    """
    arrays, net, x = relu_golden()
    seen = []

    def forward(images):
        seen.append(len(images))
        return net(images)

    r, reached = find_boundary(forward, x, norm)
    assert reached.all()
    assert (r.flatten(1) - torch.tensor(arrays[f"df_{norm.lower()}_r"])).abs().max() <= 1e-10
    needed = arrays[f"df_{norm.lower()}_iters"]
    went_on = [int((needed > step).sum()) for step in range(needed.max())]
    assert seen == [16, *(rows for rows in went_on for _ in range(2))]
    assert find_boundary(net, x, norm, steps=1)[1].sum() == 16 - went_on[1]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_distances_do_not_depend_on_the_scale_of_the_logits(norm, factor):
    _, net, x = relu_golden()
    y = torch.arange(16) % 5
    for distance in (effective_margin, input_margin):
        assert torch.allclose(
            distance(net, x, y, norm), distance(Times(net, factor), x, y, norm), rtol=1e-9, atol=0
        )


def test_only_the_highest_logits_are_looked_at():
    """Twelve classes: the one of lowest logit has the nearest boundary, but is beyond the ten."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 12)).double()
    net[1].weight.data.zero_()
    net[1].weight.data[0, 0], net[1].weight.data[11, 1] = 1.0, 100.0
    net[1].bias.data = -torch.arange(12, dtype=torch.float64)
    x, y = torch.zeros(1, 1, 1, 2, dtype=torch.float64), labels(0)
    assert effective_margin(net, x, y, "Linf").item() == pytest.approx(1.0)
    assert effective_margin(net, x, y, "Linf", candidates=12).item() == pytest.approx(11 / 101)
    assert deepfool(net, x, "L2")[0, 0, 0].tolist() == pytest.approx([-1.02, 0])
    assert size(deepfool(net, x, "L2", candidates=12), "L2").item() == pytest.approx(
        1.02 * 11 / 10001**0.5
    )


@pytest.mark.parametrize("norm", NORMS)
def test_without_a_slope_there_is_no_boundary(norm):
    """On the ledge nothing leads out; from .7 one step leads onto it; nobody else is disturbed."""
    x, y, calls = pixels(0.3, 0.7, 0.2), labels(0, 0, 1), []
    assert effective_margin(Ledge(), x, y, norm).tolist() == pytest.approx(
        [torch.inf, 0.4, -torch.inf]
    )
    assert input_margin(Ledge(), x, y, norm).tolist() == [torch.inf, torch.inf, -torch.inf]
    assert deepfool(Ledge(), x, norm).flatten().tolist() == pytest.approx([0, -0.4 * 1.02, 0])
    find_boundary(lambda images: calls.append(len(images)) or Ledge()(images), x, norm)
    assert calls == [3, 3, 3, 1, 1]  # who is stuck is left alone


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("slope", "reached"), [(1e-30, [True]), (5.65e-309, [False]), (1e-320, [False])]
)
def test_long_steps_stay_finite(norm, slope, reached):
    """A step of 1e30 is taken; one beyond the largest number, even by its overshoot, is not."""
    x = pixels(0.5)
    r, found = find_boundary(
        lambda x: torch.cat([1 + slope * x.flatten(1), 0 * x.flatten(1)], 1), x, norm
    )
    assert r.isfinite().all()
    assert found.tolist() == reached


@pytest.mark.parametrize("norm", NORMS)
def test_a_tie_is_on_the_boundary(norm):
    for net in (TWO, linear_model([[0, 0], [0, 0]])):  # with a slope and without
        x, y = torch.zeros(1, 1, 1, 2, dtype=torch.float64), labels(1)
        assert effective_margin(net, x, y, norm).tolist() == [0]
        assert input_margin(net, x, y, norm).tolist() == [0]


def test_margins_do_not_depend_on_the_batch(digits, network):
    net, x, y = copy.deepcopy(network).double(), digits.x[1400:1440].double(), digits.y[1400:1440]
    shift = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype) / 10
    whole = measured(net, [batch_of(x, y)], adversarial=x + shift)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    parts = [batch_of(x[rows], y[rows]) for rows in order.split(7)]
    shuffled = measured(net, parts, adversarial=(x + shift)[order])
    for name, values in whole.measures.items():
        assert torch.allclose(values[order], shuffled.measures[name], rtol=1e-9, atol=1e-12), name
    assert torch.allclose(whole.adversarial[order], shuffled.adversarial, rtol=1e-9)
    assert whole.rho_adv == pytest.approx(shuffled.rho_adv)


def test_a_trained_network(digits, network):
    """What must hold between the measures; the network is left as found."""
    x, y = digits.x[1400:1500], digits.y[1400:1500]
    before, training = copy.deepcopy(network.state_dict()), network.training
    margins = measured(network, [batch_of(x, y)], adversarial=x)
    right = margins.measures["logit"] > 0
    assert 80 < right.sum() < 100
    assert set(margins.measures) == MEASURES
    for values in margins.measures.values():
        assert values.shape == (100,)
        assert values.dtype == torch.float64
        assert torch.equal(values > 0, right)
    assert (margins.measures["input_L2"].abs() > margins.measures["input_Linf"].abs()).all()
    assert torch.equal(margins.adversarial, margins.measures["logit"])
    assert network.training == training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_everything_is_made_where_the_images_are(digits, network):
    """On a device that holds no numbers, whatever is made without saying where would fail."""
    batch = batch_of(digits.x[:8], digits.y[:8])
    with torch.device("meta"):
        elsewhere = measured(network, [batch], adversarial=batch.x)
    assert torch.equal(
        elsewhere.measures["input_L2"], measured(network, [batch]).measures["input_L2"]
    )


@pytest.mark.parametrize("adversarial", [None, TWO_X - 0.05])
def test_one_point_and_two_classes(adversarial):
    """At (.15, .05) the logits differ by .65."""
    record = measured(TWO, [batch_of(TWO_X, labels(0))], adversarial=adversarial).to_json()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert set(record) == {
        "points",
        "measures",
        "rho_adv_L2",
        "rho_adv_Linf",
        "histogram",
        "unreached",
        "per_point",
    }
    assert record["per_point"]["input_L2"] == pytest.approx([0.204])
    assert record["measures"]["probability"]["mean"] == pytest.approx(np.tanh(0.5))
    assert list(record["measures"]["input_L2"]["quantiles"].values()) == pytest.approx([0.204] * 5)
    assert record["rho_adv_L2"] == pytest.approx(0.204 / 0.05**0.5)
    assert record["rho_adv_Linf"] == pytest.approx(1.02 / 7 / 0.2)
    low, *_, high = record["histogram"]["edges"]
    if adversarial is None:
        assert (low, high) == pytest.approx((0.5, 1.5))
        assert record["histogram"]["adversarial"] is None
        assert set(record["unreached"]) == MEASURES
    else:
        assert (low, high) == pytest.approx((0.65, 1))
        assert record["histogram"]["adversarial"] == [1, *[0] * 19]
    assert sum(record["histogram"]["clean"]) == 1


def test_points_without_a_boundary_are_counted():
    record = measured(Ledge(), [batch_of(pixels(0.3, 0.7), labels(0, 0))]).to_json()
    counts = {name: record["unreached"][name] for name in MEASURES}
    assert counts == {
        "logit": 0,
        "probability": 0,
        "effective_L2": 1,
        "effective_Linf": 1,
        "input_L2": 2,
        "input_Linf": 2,
    }
    assert record["measures"]["effective_L2"]["mean"] == pytest.approx(0.4)
    assert record["measures"]["input_L2"]["mean"] is None
    assert record["rho_adv_L2"] == pytest.approx((0 + 0.4 * 1.02 / 0.7) / 2)


@pytest.mark.parametrize(("norm", "first"), [("Linf", "effective_Linf"), ("L2", "effective_L2")])
def test_the_norm_of_the_threat_comes_first(norm, first):
    assert list(measured(TWO, [batch_of(TWO_X, labels(0))], norm).measures)[2] == first


def test_mistakes_are_told(digits, network):
    batch = batch_of(digits.x[:2], digits.y[:2])
    with pytest.raises(DataError, match="no images"):
        measured(network, [])
    with pytest.raises(ValueError, match="3 adversarial images for 2 points"):
        measured(network, [batch], adversarial=digits.x[:3])

    class Cut(nn.Module):
        def forward(self, x):
            return network(x.detach())

    with pytest.raises(UsageError, match="no gradient"), isolate(network) as net:
        effective_margin(lambda x: net(x.detach()), batch.x, batch.y, "L2")
