"""Accuracy over the radius, on networks whose curve is known."""

from __future__ import annotations

import pytest
import torch

from abatis.api.threat import Threat
from abatis.evaluate.curves import measure_curve
from abatis.evaluate.isolation import isolate
from abatis.evaluate.judge import Judge, compute_share
from tests.evaluate.planted import Linear, Window


def curve(net, data, threat, eps, **settings):
    with isolate(net) as judged:
        judge = Judge(judged, data, Threat.parse(threat), 7, **settings)
        return measure_curve(judge, judge.classify_clean().correct, eps, seed=0)


@pytest.mark.parametrize(("norm", "dual"), [("Linf", 1), ("L2", 2)])
def test_linear_network_is_known_at_every_radius(points, norm, dual):
    weight = torch.tensor([1.0, -2.0, 2.0, 0.0]).view(1, 2, 2)  # of length 5 and 3
    x = torch.full((20, 1, 2, 2), 0.5)
    x[:, 0, 0, 0] += torch.linspace(
        -0.095, 0.095, 20
    )  # the logit is the first pixel's distance from 0.5
    net = Linear(weight, -0.5)
    data = points(x, torch.ones(20, dtype=torch.int64))
    eps = (0.0, 0.004, 0.012, 0.018)
    found = curve(net, data, f"{norm}:0.01", eps)
    logit = x[:, 0, 0, 0] - 0.5
    for radius, right, accuracy in zip(eps, found.right, found.accuracy, strict=True):
        assert right.tolist() == (logit > radius * float(weight.norm(p=dual))).tolist()
        assert accuracy == compute_share(right)
    assert found.norm == norm
    assert found.eps == eps


def test_radii_do_not_lean_on_each_other(points):
    """Behind the window the network is right again, and the curve must show the rise.

    Long steps from far away miss the window.
    """
    data = points(torch.full((40, 1, 1, 1), 0.3), torch.zeros(40, dtype=torch.int64))
    found = curve(Window(), data, "Linf:0.4", (0.0, 0.4, 1.0))
    assert found.accuracy[:2] == (1.0, 0.0)
    assert found.accuracy[2] > 0.2
    alone = curve(Window(), data, "Linf:0.4", (1.0,))
    assert torch.equal(found.right[2], alone.right[0])


def test_progress_names_the_radius(points):
    told = []
    data = points(torch.full((3, 1, 1, 1), 0.3), torch.zeros(3, dtype=torch.int64))
    curve(Window(), data, "Linf:0.4", (0.05,), progress=lambda *report: told.append(report))
    assert ("PGD-20 at 0.05", 3, 3) in told
