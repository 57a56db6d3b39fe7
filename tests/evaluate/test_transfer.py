"""The transfer matrix, on networks whose answers are worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from abatis.api.threat import Threat
from abatis.errors import UsageError
from abatis.evaluate.transfer import measure_transfer


class OnePixel(nn.Module):
    """Class 1 where one pixel exceeds one half."""

    def __init__(self, place, cut=False):
        super().__init__()
        self.place, self.cut = place, cut

    def forward(self, x):
        value = x.flatten(1)[:, self.place] - 0.5
        value = value.detach() if self.cut else value
        return torch.stack([-value, value], 1)


@pytest.fixture
def four(points):
    """Class 1. The first pixel is 0.55, 0.55, 0.8 and 0.4, the second 0.8, 0.55, 0.55 and 0.8."""
    x = torch.full((4, 1, 2, 2), 0.9)
    x[:, 0, 0, 0] = torch.tensor([0.55, 0.55, 0.8, 0.4])
    x[:, 0, 0, 1] = torch.tensor([0.8, 0.55, 0.55, 0.8])
    return points(x, torch.ones(4).long())


def test_each_network_is_shown_the_images_of_each_other(four):
    """Only the attacked pixel gets a direction; the other one ends where its start was."""
    nets = {"first": OnePixel(0), "second": OnePixel(1)}
    found = measure_transfer(nets, four, Threat.parse("Linf:0.04"), 0, 3)
    assert found.clean == (3, 4)
    assert found.right == ((3, 4), (3, 4))  # 0.55 - 0.04 is still right
    found = measure_transfer(nets, four, Threat.parse("Linf:0.1"), 0, 3)
    own = (found.right[0][0], found.right[1][1])
    assert own == (1, 2)  # pixels of 0.55 fall, that of 0.4 was wrong before
    # the other network sees at most what a random start does to its pixel
    assert found.right[0][1] >= 2
    assert found.right[1][0] >= 1
    assert found.to_json()["n"] == 4


def test_a_network_without_gradient_makes_no_images(four):
    nets = {"blind": OnePixel(0, cut=True), "second": OnePixel(1)}
    found = measure_transfer(nets, four, Threat.parse("L2:0.1"), 0, 4)
    assert found.right[0] is None
    assert found.right[1] is not None


def test_there_is_no_transfer_in_l1(four):
    with pytest.raises(UsageError, match="PGD does not support L1"):
        measure_transfer({"first": OnePixel(0)}, four, Threat.parse("L1:1"), 0, 4)
