"""The L1 ball cut with the box: projection against the released one, steps and starts by hand."""

from __future__ import annotations

import pytest
import torch

from abatis import Ball, Threat
from tests.frontier import frontier, is_close, tensor_of

CASES = ("dense12", "big192", "insideball", "boxonly", "edge", "sparse", "ties")


def ball(x, eps):
    return Ball(x, Threat("L1", eps, str(eps)))


@pytest.mark.parametrize("case", CASES)
def test_the_projection_is_the_released_one(case):
    arrays, prefix = frontier("multinorm"), f"proj_{case}_"
    x, y = tensor_of(arrays, f"{prefix}x"), tensor_of(arrays, f"{prefix}y")
    found = ball(x, float(arrays[f"{prefix}eps"])).project(x + y)
    assert is_close(found, arrays[f"{prefix}point"])


def test_the_projection_by_hand():
    """Twenty equal parts of 0.5 share 3: 0.15 each. A part that the box cuts keeps its room."""
    x = torch.full((1, 20), 0.5)
    assert torch.allclose(ball(x, 3.0).project(x + 0.5), x + 0.15)
    x = torch.tensor([[0.9, 0.5]])
    # room 0.1 and 0.5: 0.1 + (0.5 - a) = 0.4
    found = ball(x, 0.4).project(x + torch.tensor([[0.5, 0.5]]))
    assert torch.allclose(found, torch.tensor([[1.0, 0.8]]))


def test_a_radius_for_every_image():
    x = torch.full((2, 4), 0.5)
    radii = torch.tensor([0.4, 1.0])
    found = Ball(x, Threat("L1", 1.0, "1"), radii).project(x + 0.5)
    assert torch.allclose(found - x, torch.tensor([[0.1] * 4, [0.25] * 4]))


def test_a_step_moves_the_pixels_of_the_largest_gradients():
    """Two of four share a step of 0.2, by their signs."""
    x = torch.full((1, 1, 2, 2), 0.5)
    gradient = torch.tensor([[[[0.1, -3.0], [2.0, 0.0]]]])
    found = ball(x, 1.0).climb(x.clone(), gradient, 0.2, top=0.5)
    assert torch.allclose(found - x, torch.tensor([[[[0.0, -0.1], [0.1, 0.0]]]]))


def test_a_start_lies_in_ball_and_box():
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(16, 3, 8, 8, generator=draw)
    normal = torch.randn(16, 3, 8, 8, generator=draw)
    own = ball(x, 2.0)
    found = own.uniform_start(x, normal)
    assert own.contains(found).all()
    assert (own.distance(found) > 1.99).all()
