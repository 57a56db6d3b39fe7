"""The contract of every plugin, and the formula with values computed by hand."""

import math

import pytest
import torch

from abatis.testing import PluginContract, loss_terms


class TestMyLoss(PluginContract):
    plugin = "my-loss"


def test_by_hand():
    """Two classes: equal logits give log 2, a lead of log 3 for the label gives -log 3/4."""
    clean, adversarial = torch.tensor([[0.0, 0.0]]), torch.tensor([[math.log(3), 0.0]])
    terms = loss_terms(
        "my-loss",
        logits_clean=clean,
        logits_adv=adversarial,
        y=torch.tensor([0]),
        options={"clean": 0.25},
    )
    assert terms["clean"].value.tolist() == pytest.approx([math.log(2)])
    assert terms["adv"].value.tolist() == pytest.approx([math.log(4 / 3)])
    assert (terms["clean"].weight, terms["adv"].weight) == (0.25, 0.75)
