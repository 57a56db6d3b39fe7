"""IKL's loss against the authors' code, values worked out by hand, and its class means."""

from __future__ import annotations

import math

import pytest
import torch
from tests.frontier import frontier, is_close, tensor_of

from abatis import Batch, Net, StepContext
from abatis.testing import plan_of, total
from abatis_ikl.loss import soft_cross_entropy, weighted_squares

CASES = {
    "v1_a4b20": {},
    "v2_a4b20g1": {"gamma": 1.0},
    "v2_a4b20g02": {"gamma": 0.2},
    "kd_sample_T4_g05": {
        "weights": "samples",
        "temperature": 2.0,
        "ce_temperature": 4.0,
        "alpha": 2.0,
        "beta": 3.0,
        "gamma": 0.5,
    },
}


def make_plan(classes, **options):
    net = Net(torch.nn.Identity())
    plan = plan_of("ikl", net=net, num_classes=classes, options=options)
    return plan, dict(plan.trainers)["ikl"], net


def context(net, clean, adversarial, y):
    x = clean.new_zeros(len(y), 1, 1, 1)
    ctx = StepContext(
        Batch(x, y, torch.arange(len(y))), x.clone(), {}, net, 0, 0, 0.0, global_size=len(y)
    )
    ctx.__dict__.update(logits_clean=clean, logits_adv=adversarial)
    return ctx


def logits_of(arrays, classes):
    prefix = f"K{classes}_"
    clean, adversarial = (
        tensor_of(arrays, f"{prefix}logits_{kind}").requires_grad_() for kind in ("nat", "adv")
    )
    return clean, adversarial, tensor_of(arrays, f"{prefix}labels")


@pytest.mark.parametrize("classes", [2, 10, 100])
@pytest.mark.parametrize("case", CASES)
def test_equals_the_released_code(case, classes):
    """Both terms of the divergence; the cross-entropy to the label is added outside of it.

    The last case is the form of the distillation, with the teacher in the place of clean images.
    """
    arrays = frontier("dkl")
    clean, adversarial, y = logits_of(arrays, classes)
    plan, class_means, net = make_plan(classes, **CASES[case])
    class_means.means = tensor_of(arrays, f"K{classes}_class_means")
    terms = dict(plan.terms(context(net, clean, adversarial, y)))
    del terms["ce"]
    loss = total(terms)
    assert is_close(loss.detach(), arrays[f"K{classes}_{case}_loss"])
    gradients = torch.autograd.grad(loss, (clean, adversarial))
    for gradient, kind in zip(gradients, ("nat", "adv"), strict=True):
        assert is_close(gradient, arrays[f"K{classes}_{case}_grad_{kind}"])


@pytest.mark.parametrize("classes", [2, 10, 100])
@pytest.mark.parametrize(("case", "beta"), [("v1_attack", 0.0), ("v2_attack100", 1.0)])
def test_the_attack_climbs_the_released_objective(case, beta, classes):
    arrays = frontier("dkl")
    clean, adversarial, y = logits_of(arrays, classes)
    weights = tensor_of(arrays, f"K{classes}_class_means")[y]
    value = soft_cross_entropy(clean, adversarial)
    value = value + beta * weighted_squares(clean.detach() - adversarial, weights)
    assert is_close(value.mean().detach(), arrays[f"K{classes}_{case}_loss"])
    (gradient,) = torch.autograd.grad(value.mean(), adversarial)
    assert is_close(gradient, arrays[f"K{classes}_{case}_grad_adv"])


def test_the_class_means_are_the_released_ones():
    arrays = frontier("dkl")
    plan, class_means, net = make_plan(10)
    logits, labels = tensor_of(arrays, "means_logits"), tensor_of(arrays, "means_labels")
    for clean, y in zip(logits, labels, strict=True):
        ctx = context(net, clean, clean, y)
        plan.terms(ctx)
        class_means.after_update(ctx)
    class_means.epoch_end(0)
    assert is_close(class_means.means.double(), arrays["means_result"], 2e-7)  # kept in float32


def test_by_hand():
    """Two classes, z = (log 3, 0), z' = (0, 0), weights 1/2: p = (3/4, 1/4), p' = (1/2, 1/2)."""
    plan, _, net = make_plan(2)
    clean = torch.tensor([[math.log(3.0), 0.0]], dtype=torch.float64)
    terms = plan.terms(context(net, clean, torch.zeros_like(clean), torch.tensor([1])))
    assert terms["ce"].value.item() == pytest.approx(math.log(4), rel=1e-12)
    assert terms["sce"].value.item() == pytest.approx(math.log(2), rel=1e-12)
    # 1/4 times the pairs (0, 1) and (1, 0): 1/4 * 2 * (1/2 * 1/2) * (log 3)^2, over (sum c)^2 = 1
    assert terms["wmse"].value.item() == pytest.approx(math.log(3) ** 2 / 8, rel=1e-12)
    assert (terms["sce"].weight, terms["wmse"].weight) == (4, 20)
    assert [term.reweight for term in terms.values()] == [False, True, True]


def test_a_class_without_samples_keeps_its_row():
    plan, class_means, net = make_plan(3, temperature=1.0)
    clean = torch.tensor([[math.log(2.0), 0.0, 0.0]])
    ctx = context(net, clean, clean, torch.tensor([1]))
    plan.terms(ctx)
    class_means.after_update(ctx)
    class_means.epoch_end(0)
    assert torch.allclose(class_means.means[1], torch.tensor([0.5, 0.25, 0.25]))
    assert torch.allclose(class_means.means[0], torch.full((3,), 1 / 3))
    class_means.epoch_end(1)  # an epoch without any
    assert torch.allclose(class_means.means[1], torch.tensor([0.5, 0.25, 0.25]))


@pytest.mark.parametrize("size", [1e2, 1e4, 1e15])
def test_finite_at_extreme_logits(size):
    plan, _, net = make_plan(3, gamma=0.2)
    clean = torch.tensor([[size, 0.0, 0.0]], requires_grad=True)
    adversarial = torch.tensor([[0.0, size, 0.0]], requires_grad=True)
    loss = total(plan.terms(context(net, clean, adversarial, torch.tensor([0]))))
    gradients = torch.autograd.grad(loss, (clean, adversarial))
    assert all(part.isfinite().all() for part in (loss, *gradients))
