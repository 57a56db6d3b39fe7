"""The contract of every plugin, and the formula with values computed by hand."""

import torch

from abatis.testing import PluginContract, loss_terms


class TestMyRegularizer(PluginContract):
    plugin = "my-regularizer"


def test_by_hand():
    """The logits (3, 4) have the squared norm 9 + 16."""
    logits = torch.tensor([[3.0, 4.0]])
    terms = loss_terms(
        "my-regularizer",
        logits_clean=logits,
        logits_adv=logits,
        y=torch.tensor([0]),
        options={"weight": 2},
    )
    assert terms["my-regularizer/norm_sq"].value.tolist() == [25]
    assert terms["my-regularizer/norm_sq"].weight == 2
