"""EMR against the authors' code, a linear model by hand, and its options."""

from __future__ import annotations

import pytest
import torch
from tests.golden import TinyNetwork, golden, linear_model

from abatis.testing import penalty_terms, total


@pytest.mark.parametrize("temperature", [40, 1])
def test_equals_the_released_code(temperature):
    """Value and parameter gradients of the penalty, behind the training forward that moves the
    running statistics.
    """
    arrays = golden("emr")
    network = TinyNetwork().load(arrays)
    x, x_adv, y = (torch.tensor(arrays[key]) for key in ("x_nat", "x_adv", "labels"))
    network(x_adv)
    options = {"weight": 1, "temperature": temperature}
    penalty = total(penalty_terms("emr", network, x, x_adv, y, options))
    gradients = torch.autograd.grad(penalty, network.parameters(), allow_unused=True)
    prefix = f"at_T{temperature}_"
    assert penalty.item() == pytest.approx(float(arrays[prefix + "reg"]), rel=1e-10)
    named = dict(zip(dict(network.named_parameters()), gradients, strict=True))
    assert network.largest_difference(arrays, prefix + "reg_grad_", named) <= 1e-10
    assert network.buffers_equal(arrays, prefix + "after_buf_")
    assert network.training


def test_by_hand_on_a_linear_model():
    """Equal logits weight the classes equally: sum_k q_k w_k = (2, 1), its square 5, over N^2 = 4
    for each of two samples.
    """
    model = linear_model([[1.0, 2.0], [3.0, 0.0]])
    x = torch.zeros(2, 1, 1, 2, dtype=torch.float64)
    terms = penalty_terms("emr", model, x, x, torch.tensor([0, 1]), {"weight": 7})
    assert terms["emr/grad_sq"].value.mean().item() == pytest.approx((5 + 5) / 4)
    assert terms["emr/grad_sq"].weight == 7
    mean = penalty_terms("emr", model, x, x, torch.tensor([0, 1]), {"reduction": "mean"})
    assert mean["emr/grad_sq"].value.mean().item() == pytest.approx(5)


@pytest.mark.parametrize(("temperature", "expected"), [(1e9, 5.0), (1e-9, 9.0)])
def test_temperature_goes_from_the_mean_logit_to_the_largest(temperature, expected):
    model = linear_model([[1.0, 2.0], [3.0, 0.0]])
    x = torch.tensor(
        [[[[1.0, 0.0]]]], dtype=torch.float64
    )  # logits 1 and 3: class 1 wins, its weight has the square 9
    terms = penalty_terms("emr", model, x, x, torch.tensor([0]), {"temperature": temperature})
    assert terms["emr/grad_sq"].value.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("epoch", "weight"), [(0, 3.0), (58, 3.0), (59, 0.3), (88, 0.3), (89, 0.03), (99, 0.03)]
)
def test_the_weight_decays_at_the_start_of_epochs_60_and_90_counted_from_1(epoch, weight):
    model = linear_model([[1.0, 0.0], [0.0, 1.0]])
    x = torch.zeros(1, 1, 1, 2, dtype=torch.float64)
    terms = penalty_terms("emr", model, x, x, torch.tensor([0]), epoch=epoch)
    assert terms["emr/grad_sq"].weight == pytest.approx(weight, rel=1e-12)


def test_the_class_weights_are_constants_of_the_gradient():
    """With q detached the gradient of ||W^T q||^2 in W is 2 q (W^T q)^T; a differentiated q would
    add more.
    """
    model = linear_model([[1.0, 2.0], [3.0, 0.0]])
    weight = model[1].weight.detach()
    x = torch.tensor([[[[0.3, 0.8]]]], dtype=torch.float64)
    penalty = total(
        penalty_terms("emr", model, x, x, torch.tensor([0]), {"weight": 1, "temperature": 1})
    )
    (gradient,) = torch.autograd.grad(penalty, model[1].weight)
    q = model(x).detach().softmax(1)[0]
    assert torch.allclose(gradient, 2 * torch.outer(q, weight.T @ q), rtol=1e-12)
