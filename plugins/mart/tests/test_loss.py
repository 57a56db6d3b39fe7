"""MART against the authors' code, hand-computed values, and where it must stay finite."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.golden import check_attack, check_logits, check_network

from abatis.testing import loss_terms, total

GOLDEN = np.load(Path(__file__).with_name("mart.npz"))


def terms_of(clean, adversarial, y, **options):
    return loss_terms("mart", logits_clean=clean, logits_adv=adversarial, y=y, options=options)


@pytest.mark.parametrize(
    "case", range(len(GOLDEN["loss"])), ids=lambda case: str(GOLDEN["case_name"][case])
)
def test_equals_the_released_code(case):
    check_logits(
        GOLDEN, case, lambda clean, adversarial, y: terms_of(clean, adversarial, y, beta=6)
    )


def test_by_hand():
    """Two classes, clean p = (3/4, 1/4), adversarial p' = (1/4, 3/4), label 0."""
    clean = torch.tensor([[math.log(3.0), 0.0]], dtype=torch.float64)
    adversarial = torch.tensor([[0.0, math.log(3.0)]], dtype=torch.float64)
    terms = terms_of(clean, adversarial, torch.tensor([0]), beta=2)
    assert terms["bce"].value.item() == pytest.approx(math.log(4) - math.log(1.0001 - 0.75))
    kl = 0.75 * math.log(3) + 0.25 * math.log(1 / 3)
    assert terms["kl"].value.item() == pytest.approx(kl * (1.0000001 - 0.75), rel=1e-9)
    assert terms["kl"].weight == 2
    assert terms["bce"].reweight
    assert not terms["kl"].reweight


def test_gradients_stay_finite_where_the_released_code_gives_nan():
    clean = torch.zeros(4, 10)
    clean[:, 0] = 1e4  # clean probabilities underflow to exactly 0
    clean.requires_grad_()
    adversarial = torch.zeros(4, 10, requires_grad=True)
    loss = total(terms_of(clean, adversarial, torch.tensor([0, 1, 2, 3])))
    gradients = torch.autograd.grad(loss, (clean, adversarial))
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert bool(GOLDEN["underflow_f32_nan_in_grad_nat"])


def test_the_gradient_flows_into_the_clean_target_and_its_weight():
    clean = torch.randn(
        4, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ).requires_grad_()
    adversarial = clean.detach().roll(1, 1)
    (gradient,) = torch.autograd.grad(total(terms_of(clean, adversarial, torch.arange(4))), clean)
    assert gradient.abs().min() > 0


@pytest.mark.parametrize("kind", ["fixed", "attack"])
def test_on_a_network_with_batch_norm(kind):
    """The clean forward comes first, or the running statistics would differ."""
    check_network("mart_model", kind, "mart")


def test_the_attack_equals_the_released_one():
    check_attack("mart_model")
