"""The contract of every plugin, and the formula with values computed by hand."""

import math

import pytest
import torch

from abatis.testing import PluginContract, loss_terms


class TestMyWrapper(PluginContract):
    plugin = "my-wrapper"


def test_by_hand():
    """A label of probability 3/4 has the weight 1/16, and the cross-entropy -log 3/4."""
    logits = torch.tensor([[math.log(3), 0.0]])
    terms = loss_terms(
        "my-wrapper",
        logits_clean=logits,
        logits_adv=logits,
        y=torch.tensor([0]),
        options={"gamma": 2},
    )
    assert terms["ce"].value.tolist() == pytest.approx([math.log(4 / 3) / 16])
