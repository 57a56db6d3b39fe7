"""FAB's projections: hand-computed cases, an exact reference, and the package's own attack."""

from __future__ import annotations

import pyautoattack
import pytest
import torch
from pyautoattack import fab_base, fab_projections
from pyautoattack.fab_pt import FABAttack_PT

from abatis.api.threat import Threat
from abatis.evaluate import autoattack
from abatis.evaluate.fab_projection import (
    project_l1,
    project_l2,
    project_linf,
    replace_projections,
)
from abatis.evaluate.isolation import isolate
from abatis.evaluate.judge import Judge
from tests.evaluate.test_fewer_queries import CPU

PROJECTIONS = {
    "Linf": (project_linf, fab_projections.projection_linf, torch.inf),
    "L2": (project_l2, fab_projections.projection_l2, 2),
    "L1": (project_l1, fab_projections.projection_l1, 1),
}
CORNER = [1.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("norm", "t", "w", "b", "change"),
    [
        # c = 0.5 * 3 - 0.9 = 0.6 below the plane: 0.1 * 6 in Linf, w * 0.6 / 14 in L2
        ("Linf", [0.5, 0.5, 0.5], [1.0, 2.0, -3.0], 0.6, [0.1, 0.1, -0.1]),
        ("L2", [0.5, 0.5, 0.5], [1.0, 2.0, -3.0], 0.6, [0.6 / 14, 1.2 / 14, -1.8 / 14]),
        ("L1", [0.5, 0.5, 0.5], [1.0, 2.0, -3.0], 0.6, [0, 0, -0.2]),
        # the first pixel meets the box after 0.1; 1.4 are left for weights 2 and 3
        ("Linf", [0.9, 0.5, 0.5], [1.0, 2.0, -3.0], 1.9, [0.1, 0.28, -0.28]),
        # the third meets it after 0.2 (0.6), the second moves by 2 s, the first by s: 5 s = 0.5
        ("L2", [0.5, 0.5, 0.2], [1.0, 2.0, -3.0], 2.0, [0.1, 0.2, -0.2]),
        # the largest weight first: 0.6 by the third, 0.4 by the second
        ("L1", [0.5, 0.5, 0.2], [1.0, 2.0, -3.0], 1.9, [0, 0.2, -0.2]),
        # above the plane every pixel moves the other way
        ("Linf", [0.5, 0.5, 0.5], [1.0, 2.0, -3.0], -0.6, [-0.1, -0.1, 0.1]),
        ("L2", [0.5, 0.5, 0.5], [1.0, 2.0, -3.0], -0.7, [-0.05, -0.1, 0.15]),
        ("L1", [0.5, 0.5, 0.5], [1.0, 2.0, -3.0], -0.6, [0, 0, 0.2]),
    ],
)
def test_small_cases(norm, t, w, b, change):
    project = PROJECTIONS[norm][0]
    found = project(torch.tensor([t]), torch.tensor([w]), torch.tensor([b]))
    assert found[0].tolist() == pytest.approx(change, abs=1e-7)


@pytest.mark.parametrize("project", [project_linf, project_l2, project_l1])
def test_edges_of_the_box(project):
    """By row: on the plane; out of reach, above and below; no weights; at the corner; one pixel."""
    t = torch.tensor([[0.5, 0.25, 0.75]] * 4 + [CORNER, [0.0, 0.5, 0.5]])
    w = torch.tensor([[1.0, -2.0, 4.0]] * 3 + [[0.0] * 3, [1.0, -2.0, 4.0], [0.0, 2.0, 0.0]])
    b = torch.tensor([3.0, 100.0, -100.0, 1.0, 9.0, 1.5])
    wanted = torch.tensor(
        [[0, 0, 0], [0.5, -0.25, 0.25], [-0.5, 0.75, -0.75], [0, 0, 0], [0, 0, 0], [0, 0.25, 0]]
    )
    assert torch.equal(project(t, w, b), wanted)


def project_by_sorting(norm, t, w, b):
    """One row in float64: try every number of pixels at the box, in the order they reach it."""
    above = float(w @ t) - b
    sign = -torch.sign(w) if above >= 0 else torch.sign(w)
    size, c = w.abs(), abs(above)
    room = torch.where(sign > 0, 1 - t, t)
    speed = torch.ones_like(w) if norm == "Linf" else size
    order = (room / speed).argsort().tolist()
    step = torch.inf
    for place, pixel in enumerate(order):
        free = order[place:]
        left = c - float((size * room)[order[:place]].sum())
        candidate = left / float((size * speed)[free].sum())
        if candidate <= float(room[pixel] / speed[pixel]):
            step = candidate
            break
    return sign * torch.minimum(speed * step, room)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("reach", [0.001, 0.1, 0.7, 0.999])
def test_same_point_as_a_sort(norm, reach):
    """The plane lies at a share of what the box allows; many pixels are at the box already."""
    draw = torch.Generator().manual_seed(0)
    t = torch.rand(10, 40, generator=draw, dtype=torch.float64)
    t[:, ::5], t[:, ::7] = 0, 1
    w = torch.randn(10, 40, generator=draw, dtype=torch.float64)
    furthest = torch.where(w > 0, w * (1 - t), -w * t).sum(1)
    b = (w * t).sum(1) + reach * furthest
    found = PROJECTIONS[norm][0](t, w, b)
    for row in range(10):
        wanted = project_by_sorting(norm, t[row], w[row], float(b[row]))
        torch.testing.assert_close(found[row], wanted, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("norm", PROJECTIONS)
def test_as_near_as_the_package(norm):
    """In float32 on image-sized rows: the same distance, on the plane, inside the box."""
    project, packages, order = PROJECTIONS[norm]
    draw = torch.Generator().manual_seed(1)
    t = torch.rand(16, 768, generator=draw)
    t[:, ::5], t[:, ::7] = 0, 1
    w = torch.randn(16, 768, generator=draw) * torch.rand(16, 768, generator=draw) ** 3
    w[:, ::11] = 0
    b = (w * t).sum(1) + torch.linspace(-60, 60, 16)
    found, wanted = project(t, w, b), packages(t, w, b)
    distances = found.norm(order, 1), wanted.norm(order, 1)
    torch.testing.assert_close(*distances, rtol=1e-6, atol=1e-4 / 255)
    assert ((t + found) >= -1e-7).all()
    assert ((t + found) <= 1 + 1e-7).all()
    torch.testing.assert_close((w * (t + found)).sum(1), b, rtol=0, atol=1e-4)
    assert not found[:, ::11].any()


@pytest.mark.parametrize("threat", ["Linf:0.15", "L2:0.8", "L1:4"])
def test_fab_finds_the_same_distances(digits, network, threat):
    threat, x, y = Threat.parse(threat), digits.x[1400:1416], digits.y[1400:1416]
    order = PROJECTIONS[threat.norm][2]
    with isolate(network) as net:
        distances = []
        for own in (False, True):
            fab = FABAttack_PT(net, norm=threat.norm, eps=threat.eps, n_iter=20, n_restarts=1)
            fab.targeted, fab.n_target_classes = True, 2
            if own:
                replace_projections(fab)
            distances.append((fab.perturb(x, y) - x).flatten(1).norm(order, 1))
    assert (distances[0] > 0).sum() > 8
    torch.testing.assert_close(*distances, rtol=1e-4, atol=1e-4 / 255)


def test_only_our_objects_use_them(digits, network):
    with isolate(network) as net:
        judge = Judge(net, digits, Threat.parse("Linf:0.1"), 10)
        foreign = autoattack._build_package(judge, "standard", 0, CPU)
    used = foreign.fab.attack_single_run.__func__.__globals__
    assert used["projection_linf"] is project_linf
    assert fab_base.projection_linf is fab_projections.projection_linf
    untouched = pyautoattack.AutoAttack(network, norm="Linf", eps=0.1).fab
    assert "attack_single_run" not in vars(untouched)
