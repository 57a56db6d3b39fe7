"""The contract every plugin keeps, and loss and projection against reference values."""

from __future__ import annotations

import shutil

import pytest
import torch
from abatis_ramp.projection import project
from tests.frontier import frontier, is_close, tensor_of
from tests.helpers import final_bytes, tiny

import abatis
from abatis import Net, UsageError
from abatis.testing import PluginContract, loss_terms, plan_of, tiny_network, total


@pytest.mark.slow
class TestRamp(PluginContract):
    plugin = "ramp"


def test_the_loss_equals_the_reference_values():
    arrays = frontier("multinorm")
    names = ("linf", "l1", "worst")
    first, second, worst = (
        tensor_of(arrays, f"ramp_loss_logits_{name}").requires_grad_() for name in names
    )
    terms = loss_terms(
        "ramp",
        logits_clean=worst.detach(),
        logits_adv=worst,
        y=tensor_of(arrays, "ramp_loss_labels"),
        options={"natural": 0, "pairing": float(arrays["ramp_loss_lam"])},
        also_train=["L1:12"],
        further={"first": first, "second": second},
    )
    assert is_close(terms["kl"].value.mean().detach(), arrays["ramp_loss_kl"])
    value = total(terms)
    assert is_close(value.detach(), arrays["ramp_loss_loss"])
    for name, gradient in zip(
        names, torch.autograd.grad(value, (first, second, worst)), strict=True
    ):
        assert is_close(gradient, arrays[f"ramp_loss_grad_{name}"]), name


@pytest.mark.parametrize("name", ["a.weight", "bn.weight", "bn.running_mean"])
def test_the_projection_equals_the_reference_values(name):
    arrays = frontier("multinorm")
    parts = [tensor_of(arrays, f"ramp_gp_{part}_{name}") for part in ("old", "nat", "adv")]
    assert is_close(project(*parts, 0.5), arrays[f"ramp_gp_result_{name}"])


def test_no_sample_that_is_right_gives_no_pairing():
    wrong = torch.tensor([[0.0, 1.0]])
    terms = loss_terms(
        "ramp",
        logits_clean=wrong,
        logits_adv=wrong,
        y=torch.tensor([0]),
        options={"natural": 0},
        also_train=["L1:12"],
        further={"first": wrong, "second": -wrong},
    )
    assert terms["kl"].value.tolist() == [0.0]


def test_a_run_with_one_threat_is_refused():
    with pytest.raises(UsageError, match="pairs two threats, and this run has 1"):
        plan_of("ramp", net=Net(tiny_network(10)), num_classes=10)


@pytest.mark.slow
def test_a_run_that_goes_on_from_its_first_epoch_ends_to_the_bit(tmp_path):
    """The natural copy, and the weights of the epoch's start, are in the checkpoint."""
    config = {"plugin": ["ramp"], "also_train": ["L1:2"]}
    whole = abatis.run(tiny(tmp_path, name="whole", **config)).folder
    resumed = tmp_path / "resumed"
    shutil.copytree(whole, resumed)
    shutil.rmtree(resumed / "checkpoints" / "step-00000008")
    abatis.run(tiny(tmp_path, name="resumed", resume=True, **config))
    assert final_bytes(resumed) == final_bytes(whole)
