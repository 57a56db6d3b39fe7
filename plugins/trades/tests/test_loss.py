"""TRADES' loss against the authors' code, hand-computed values, and where it must stay finite."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.golden import TinyNetwork, check_logits, golden
from tests.train.test_step import make_step, plain_network, weights

from abatis import Batch, Net, PluginConflict, StepContext
from abatis.testing import loss_terms, plan_of, tiny_batch, total
from abatis_trades.loss import TradesLoss

GOLDEN = np.load(Path(__file__).with_name("trades.npz"))


def terms_of(clean, adversarial, y, **options):
    return loss_terms("trades", logits_clean=clean, logits_adv=adversarial, y=y, options=options)


@pytest.mark.parametrize(
    "case", range(len(GOLDEN["loss"])), ids=lambda case: str(GOLDEN["case_name"][case])
)
def test_equals_the_released_code(case):
    terms = check_logits(
        GOLDEN, case, lambda clean, adversarial, y: terms_of(clean, adversarial, y, beta=6)
    )
    assert terms["ce"].value.mean().item() == pytest.approx(
        GOLDEN["mid_loss_natural"][case], rel=1e-10
    )
    assert terms["kl"].value.mean().item() == pytest.approx(
        GOLDEN["mid_loss_robust"][case], rel=1e-10
    )


def test_by_hand():
    """Two classes, clean p = (3/4, 1/4), adversarial p' = (1/4, 3/4), label 0."""
    clean = torch.tensor([[math.log(3.0), 0.0]], dtype=torch.float64)
    adversarial = torch.tensor([[0.0, math.log(3.0)]], dtype=torch.float64)
    terms = terms_of(clean, adversarial, torch.tensor([0]), beta=2)
    assert terms["ce"].value.item() == pytest.approx(math.log(4 / 3), rel=1e-12)
    assert terms["kl"].value.item() == pytest.approx(
        0.75 * math.log(3) - 0.25 * math.log(3), rel=1e-12
    )
    assert (terms["ce"].weight, terms["kl"].weight) == (1, 2)
    assert not terms["ce"].reweight
    assert terms["kl"].reweight


def test_mixed_labels_reach_the_clean_cross_entropy():
    """Logits (log 3, 0) and the label distribution (1/2, 1/2): the mean of log 4/3 and log 4."""
    batch = Batch(
        torch.zeros(1, 1, 1, 1),
        torch.tensor([0]),
        torch.arange(1),
        y_soft=torch.tensor([[0.5, 0.5]]),
    )
    ctx = StepContext(batch, batch.x, {}, Net(torch.nn.Identity()), 0, 0, 0.0, 1)
    ctx.__dict__["logits_clean"] = torch.tensor([[math.log(3.0), 0.0]])
    loss = plan_of("trades", net=Net(torch.nn.Identity()), num_classes=2).loss
    assert isinstance(loss, TradesLoss)
    assert loss(ctx)["ce"].value.item() == pytest.approx((math.log(4 / 3) + math.log(4)) / 2)


@pytest.mark.parametrize("size", [1e2, 1e4, 1e30])
def test_finite_where_the_released_code_gives_nan(size):
    clean = torch.zeros(4, 10)
    clean[:, 0] = size  # clean probabilities underflow to exactly 0
    clean.requires_grad_()
    adversarial = clean.detach().roll(1, 1).requires_grad_()
    loss = total(terms_of(clean, adversarial, torch.tensor([0, 1, 2, 3])))
    gradients = torch.autograd.grad(loss, (clean, adversarial))
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert bool(GOLDEN["underflow_f32_nan_in_grad_nat"])


def test_the_gradient_flows_into_both_arguments_of_the_kl():
    """By hand: d KL / d z'_k = p'_k - p_k, and d KL / d z_k = p_k (log(p_k / p'_k) - KL)."""
    draw = torch.Generator().manual_seed(0)
    clean, adversarial = (
        torch.randn(1, 5, dtype=torch.float64, generator=draw).requires_grad_() for _ in range(2)
    )
    kl = terms_of(clean, adversarial, torch.tensor([0]))["kl"].value
    to_clean, to_adversarial = torch.autograd.grad(kl.sum(), (clean, adversarial))
    p, q = clean.detach().softmax(1), adversarial.detach().softmax(1)
    assert torch.allclose(to_adversarial, q - p, rtol=0, atol=1e-14)
    assert torch.allclose(to_clean, p * ((p / q).log() - kl.detach()), rtol=0, atol=1e-14)


@pytest.mark.parametrize("kind", ["fixed", "attack"])
def test_on_a_network_with_batch_norm(kind):
    """Loss and every parameter's gradient. The released code makes a third forward, clean again;
    after one more the running statistics are its own too.
    """
    arrays, prefix = golden("trades_model"), f"model_{kind}_"
    network = TinyNetwork().load(arrays, prefix)
    net = Net(network)
    plan = plan_of("trades", net=net, num_classes=10)
    x, x_adv, y = (torch.tensor(arrays[prefix + key]) for key in ("x_nat", "x_adv", "labels"))
    ctx = StepContext(Batch(x, y, torch.arange(8)), x_adv, {}, net, 0, 0, 0.0, 8, plan.clean_first)
    loss = total(plan.terms(ctx))
    gradients = dict(
        zip(
            dict(network.named_parameters()),
            torch.autograd.grad(loss, network.parameters()),
            strict=True,
        )
    )
    assert loss.item() == pytest.approx(float(arrays[prefix + "loss"]), rel=1e-10)
    assert network.largest_difference(arrays, prefix + "grad_", gradients) <= 1e-10
    assert int(network.bn1.num_batches_tracked) == 2
    assert not network.buffers_equal(arrays, prefix + "after_buf_")
    network(x)
    assert network.buffers_equal(arrays, prefix + "after_buf_")


@pytest.mark.parametrize("names", [("trades",), ("emr", "trades")])
@pytest.mark.parametrize("parts", [2, 3])
def test_micro_batches_make_the_update_of_the_whole_batch(names, parts):
    found = []
    for accumulate in (1, parts):
        module = plain_network()
        step = make_step(module, *names, accumulate=accumulate)
        for number in range(2):
            step(tiny_batch(8, 10), number, 0, 0.0)
        found.append(weights(module))
    assert torch.allclose(*found, rtol=0, atol=1e-12)


def test_two_losses_conflict_and_the_loser_takes_its_attack_along():
    net = Net(plain_network())
    with pytest.raises(PluginConflict, match="mart, trades") as caught:
        plan_of("trades", "mart", net=net, num_classes=10)
    assert "--use loss=mart or --use loss=trades" in str(caught.value)
    chosen = [
        ({"loss": "mart"}, ("mart", "pgd")),
        ({"loss": "trades"}, ("trades", "trades")),
        ({"loss": "mart", "attacker": "trades"}, ("mart", "trades")),
        ({"loss": "trades", "attacker": "pgd"}, ("trades", "pgd")),
    ]
    for use, expected in chosen:
        plan = plan_of("trades", "mart", net=net, num_classes=10, use=use)
        assert (plan.loss_name, plan.attacker_name) == expected
