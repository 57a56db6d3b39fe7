"""The contract every plugin keeps, and the helper term by hand."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import abatis
from abatis import RunConfig, UsageError
from abatis.testing import PluginContract, penalty_terms

TINY = {
    "backbone": "cnn",
    "data": "digits",
    "limit": 60,
    "batch_size": 32,
    "epochs": 1,
    "threat": "Linf:0.1",
    "attack": {"steps": 1},
    "eval": "none",
    "quiet": True,
}


class TestHat(PluginContract):
    plugin = "hat"

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        self.folder = tmp_path

    def options_for(self, module, num_classes):
        file = (
            self.folder
            / f"{num_classes}-{sum(weight.numel() for weight in module.parameters())}.safetensors"
        )
        if not file.exists():  # asked again in the middle of a training, it is the same network
            save_file(module.state_dict(), file)
        return {"standard": str(file)}


def sums(weight):
    """Images of two pixels to their sum times a weight for each of two classes."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[weight, weight], [0.0, 0.0]]))
    return model


def test_by_hand(tmp_path):
    """x = (0.5, 0.5), x' = (0.6, 0.4 + 0.2): at h = 3 the helper is (0.8, 0.8), its logits (1.6,
    0); the standard network, whose weights are -1, sees (-1.2, 0) at x' and says class 1: CE =
    log(1 + e^1.6).
    """
    save_file(sums(-1.0).state_dict(), tmp_path / "standard.safetensors")
    x, x_adv = torch.full((1, 1, 1, 2), 0.5).double(), torch.full((1, 1, 1, 2), 0.6).double()
    options = {"weight": 0.25, "scale": 3, "standard": tmp_path / "standard.safetensors"}
    terms = penalty_terms("hat", sums(1.0), x, x_adv, torch.tensor([0]), options=options)
    assert terms["hat/helper"].value.tolist() == pytest.approx([math.log(1 + math.exp(1.6))])
    assert terms["hat/helper"].weight == 0.25


def test_scale_1_is_the_attacked_image(tmp_path):
    save_file(sums(-1.0).state_dict(), tmp_path / "standard.safetensors")
    x, x_adv = torch.rand(3, 1, 1, 2).double(), torch.rand(3, 1, 1, 2).double()
    options = {"scale": 1, "standard": tmp_path / "standard.safetensors"}
    found = penalty_terms("hat", sums(1.0), x, x_adv, torch.zeros(3).long(), options=options)[
        "hat/helper"
    ].value
    assert found.tolist() == pytest.approx((x_adv.sum((1, 2, 3)).exp() + 1).log().tolist())


def test_trains_beside_the_network_of_a_run_folder(tmp_path):
    standard = abatis.run(RunConfig(**TINY, out=tmp_path, use={"attacker": "none"})).folder
    found = abatis.run(
        RunConfig(**TINY, out=tmp_path, plugin=["hat", "trades"], hat={"standard": str(standard)})
    )
    assert "hat/helper" in (found.folder / "metrics.jsonl").read_text()


@pytest.mark.parametrize(
    ("options", "words"),
    [({}, "trained without an attack"), ({"standard": "none.safetensors"}, "none")],
)
def test_says_what_is_missing(tmp_path, options, words):
    with pytest.raises(UsageError, match=words):
        abatis.run(RunConfig(**TINY, out=tmp_path, plugin=["hat"], hat=options))
