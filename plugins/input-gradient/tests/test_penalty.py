"""The input-gradient penalty against reference values, a linear model by hand, and its options."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tests.golden import golden, linear_model, margin_network
from tests.train.test_step import make_step, plain_network, weights

from abatis import Batch, Net, StepContext
from abatis.testing import penalty_terms, plan_of, tiny_batch, tiny_network, total

TERM = "input-gradient/grad_sq"


def test_equals_the_reference_values():
    """Value and parameter gradients of 1/2 sum_n || d CE_mean / dx_n ||^2, and the mean of the
    per-sample squares.
    """
    arrays = golden("amm_avgmargin_wuyu")
    network = margin_network(arrays)
    x, y = torch.tensor(arrays["x"]), torch.tensor(arrays["y"])
    penalty = total(penalty_terms("input-gradient", network, x, x, y, {"weight": 1}))
    gradients = torch.autograd.grad(penalty, list(network.parameters()))
    assert penalty.item() == pytest.approx(
        float(arrays["inputgrad_tf_l2loss_of_mean_ce"]), rel=1e-10
    )
    for (name, _), gradient in zip(network.named_parameters(), gradients, strict=True):
        assert (gradient - torch.tensor(arrays[f"grad_inputgrad_{name}"])).abs().max() <= 1e-10
    mean = (
        penalty_terms("input-gradient", network, x, x, y, {"reduction": "mean"})[TERM]
        .value.mean()
        .item()
    )
    assert mean == pytest.approx(float(arrays["inputgrad_mean_sq_norm_per_sample"]), rel=1e-10)


def test_by_hand_on_a_linear_model():
    """Equal logits: grad_x CE = W^T (p - e_y) = -1/2 (1, 2) + 1/2 (3, 0) = (1, -1), its square 2,
    over N = 2.
    """
    x = torch.zeros(2, 1, 1, 2, dtype=torch.float64)
    model, y = linear_model([[1, 2], [3, 0]]), torch.tensor([0, 0])
    terms = penalty_terms("input-gradient", model, x, x, y, {"weight": 7})
    assert terms[TERM].value.tolist() == pytest.approx([1, 1])
    assert terms[TERM].weight == 3.5
    mean = penalty_terms("input-gradient", model, x, x, y, {"reduction": "mean"})
    assert mean[TERM].value.tolist() == pytest.approx([2, 2])


def test_where_it_is_taken():
    """At (50, 0) the first sample is right with certainty, at 0 undecided; at, not the batch, says
    which is meant.
    """
    model, y = linear_model([[1, 2], [-1, 0]]), torch.tensor([0])
    clean, adversarial = torch.tensor([[[[50.0, 0.0]]]]).double(), torch.zeros(1, 1, 1, 2).double()
    found = {
        at: penalty_terms("input-gradient", model, clean, adversarial, y, {"at": at})[
            TERM
        ].value.item()
        for at in ("clean", "adv")
    }
    assert found["clean"] == pytest.approx(0, abs=1e-20)
    assert found["adv"] == pytest.approx(2)  # 1/2 (-1 + -1, -2 + 0) = (-1, -1)


def test_mixed_labels_are_the_target_where_the_batch_has_them():
    """Between two equally likely classes with half a label each, nothing is left of the
    gradient.
    """
    net, x = Net(linear_model([[1, 2], [3, 0]])), torch.zeros(1, 1, 1, 2, dtype=torch.float64)
    plan = plan_of("input-gradient", net=net, num_classes=2)
    batch = Batch(x, torch.tensor([0]), torch.arange(1), y_soft=torch.tensor([[0.5, 0.5]]).double())
    assert (
        plan.regularizers[0][1](StepContext(batch, x, {}, net, 0, 0, 0.0, 1))[
            "grad_sq"
        ].value.item()
        == 0
    )


def test_eval_statistics_are_used_and_left_alone():
    module, batch = tiny_network(10), tiny_batch(8, 10)
    module(batch.x)  # moves the running statistics away from 0 and 1
    before = {name: value.clone() for name, value in module.state_dict().items()}
    value = penalty_terms(
        "input-gradient", module, batch.x, batch.x, batch.y, {"reduction": "mean"}
    )[TERM].value
    assert module.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    x = batch.x.clone().requires_grad_()
    loss = F.cross_entropy(module.eval()(x), batch.y, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, x)
    assert torch.allclose(value, gradient.flatten(1).square().sum(1), rtol=1e-12)


@pytest.mark.parametrize("names", [("input-gradient",), ("input-gradient", "mart")])
@pytest.mark.parametrize("options", [{}, {"at": "clean", "reduction": "mean", "weight": 1}])
@pytest.mark.parametrize("parts", [2, 3])
def test_micro_batches_make_the_update_of_the_whole_batch(names, options, parts):
    batch, found = tiny_batch(8, 10), []
    for accumulate in (1, parts):
        module = plain_network()
        step = make_step(module, *names, options={"input-gradient": options}, accumulate=accumulate)
        results = [step(batch, number, 0, 0.0) for number in range(2)]
        found.append((weights(module), results[-1].total))
    assert torch.allclose(found[0][0], found[1][0], rtol=0, atol=1e-12)
    assert found[0][1].item() == pytest.approx(found[1][1].item(), rel=1e-12)
