"""Geometry of the threat models: hand-computed points and properties."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from abatis.api.ball import Ball
from abatis.api.threat import Threat


def images(seed, size=3):
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(size, 2, 3, 3, generator=draw, dtype=torch.float64), torch.randn(
        size, 2, 3, 3, generator=draw, dtype=torch.float64
    )


def test_linf_by_hand():
    x = torch.tensor([[[[0.0, 0.5, 0.95]]]])
    ball = Ball(x, Threat.parse("Linf:0.1"))
    moved = ball.project(torch.tensor([[[[-1.0, 0.55, 2.0]]]]))
    assert moved.flatten().tolist() == pytest.approx([0.0, 0.55, 1.0])
    climbed = ball.climb(x.clone(), torch.tensor([[[[-2.0, 1e-9, 3.0]]]]), 0.04)
    assert climbed.flatten().tolist() == pytest.approx([0.0, 0.54, 0.99])


def test_l2_by_hand():
    ball = Ball(torch.tensor([[[[0.5, 0.5]]]]), Threat.parse("L2:0.5"))
    assert ball.project(torch.tensor([[[[3.5, 4.5]]]])).flatten().tolist() == pytest.approx(
        [0.8, 0.9]
    )
    climbed = ball.climb(torch.tensor([[[[0.5, 0.5]]]]), torch.tensor([[[[30.0, 40.0]]]]), 0.1)
    assert climbed.flatten().tolist() == pytest.approx([0.56, 0.58])
    assert ball.distance(climbed).item() == pytest.approx(0.1)


@pytest.mark.parametrize("threat", ["Linf:8/255", "L2:0.5", "Linf:0", "L2:0"])
@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([0.0, 0.01, 1.0, 100.0]))
@settings(deadline=None, max_examples=25, derandomize=True)
def test_projection_is_inside_and_idempotent(threat, seed, scale):
    x, noise = images(seed)
    ball = Ball(x, Threat.parse(threat))
    once = ball.project(x + scale * noise)
    assert ball.contains(once).all()
    assert torch.allclose(ball.project(once.clone()), once, rtol=0, atol=1e-12)


@pytest.mark.parametrize("threat", ["Linf:0.3", "L2:1.5"])
def test_starts_are_inside_and_spread(threat):
    x, normal = images(1, 500)
    ball = Ball(x, Threat.parse(threat))
    start = ball.uniform_start(
        torch.rand(x.shape, generator=torch.Generator().manual_seed(2), dtype=x.dtype), normal
    )
    assert ball.contains(start).all()
    assert ball.distance(start).mean() > 0.5 * ball.eps
    assert ball.distance(start).std() > 0


@pytest.mark.parametrize("threat", ["Linf:0.1", "L2:0.1"])
def test_contains_refuses_what_is_outside_or_not_a_number(threat):
    x = torch.full((4, 1, 2, 2), 0.5)
    point = x.clone()
    point[1] += 0.11
    point[2] = float("nan")
    point[3, 0, 0, 0] += 0.05
    assert Ball(x, Threat.parse(threat)).contains(point).tolist() == [True, False, False, True]
    edge = Ball(torch.ones(1, 1, 1, 1), Threat.parse(threat))
    assert not edge.contains(torch.full((1, 1, 1, 1), 1.01)).item()
