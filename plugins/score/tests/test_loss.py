"""SCORE's training step and its distances against the authors' code, and values by hand."""

from __future__ import annotations

import math

import pytest
import torch
from tests.frontier import Tiny, frontier, is_close, load, tensor_of

from abatis import Batch
from abatis.testing import loss_terms, replay, total
from abatis_score.loss import DISTANCES, smooth

NAMES = {
    "JS": "js",
    "JSsqrt": "js-sqrt",
    "LSE": "lse",
    "L1square": "l1-squared",
    "KL": "kl",
    "KLsqrt": "kl-sqrt",
    "1": "l1",
    "2": "l2",
}
STEP = 1.0  # learning rate: the update is the gradient


@pytest.mark.parametrize("clip", [0, 1])
@pytest.mark.parametrize("smoothing", [0, 1])
def test_the_released_step(clip, smoothing):
    """Attack, loss and gradients; the attack runs in train mode and leaves the statistics alone."""
    arrays, prefix = frontier("score"), f"lse_clip{clip}_ls{smoothing}_"
    module = load(Tiny(), arrays, f"{prefix}init_")
    x, y = tensor_of(arrays, f"{prefix}x"), tensor_of(arrays, f"{prefix}y")
    before = {name: part.detach().clone() for name, part in module.named_parameters()}
    (step,) = replay(
        "score",
        module,
        [Batch(x, y, torch.arange(len(y)))],
        options={"clip": clip / 10, "smoothing": smoothing / 10},
        attack={"steps": 10, "step_size": "2/255", "bn": "train"},
        optim={"lr": STEP, "momentum": 0, "weight_decay": 0},
        start=[tensor_of(arrays, f"{prefix}start")],
    )
    same = (step.x_adv - tensor_of(arrays, f"{prefix}x_adv")).abs() <= 1e-9
    assert same.double().mean() >= 0.999
    assert is_close(step.total, arrays[f"{prefix}loss"])
    for name, parameter in step.parameters.items():
        gradient = (before[name] - parameter) / STEP
        assert is_close(gradient, tensor_of(arrays, f"{prefix}grad_{name}")), name


@pytest.mark.parametrize("name", NAMES)
def test_the_released_distances(name):
    arrays = frontier("score")
    output = tensor_of(arrays, "dist_output").requires_grad_()
    value = DISTANCES[NAMES[name]](output, tensor_of(arrays, "dist_target"))
    assert is_close(value.detach(), arrays[f"dist_{name}_value"])
    (gradient,) = torch.autograd.grad(value.sum(), output)
    assert is_close(gradient, arrays[f"dist_{name}_grad"])


def test_by_hand():
    """p = (3/4, 1/4), p' = (1/2, 1/2), label 0: 2 (1/4)^2 each; above the clip 1/10 it is 1/40."""
    logits = torch.tensor([[math.log(3.0), 0.0]], dtype=torch.float64)
    terms = loss_terms(
        "score",
        logits_clean=logits,
        logits_adv=torch.zeros_like(logits),
        y=torch.tensor([0]),
        options={"clip": 0.1},
    )
    assert terms["to_label"].value.item() == pytest.approx(1 / 8, rel=1e-12)
    assert terms["to_clean"].value.item() == pytest.approx(1 / 40, rel=1e-12)
    assert (terms["to_label"].weight, terms["to_clean"].weight) == (1, 4)
    assert (terms["to_label"].reweight, terms["to_clean"].reweight) == (False, True)


def test_a_smoothed_label_gives_its_share_to_the_other_classes():
    found = smooth(torch.tensor([1]), torch.zeros(1, 5), 0.4)
    assert torch.allclose(found, torch.tensor([[0.1, 0.6, 0.1, 0.1, 0.1]]))
    mixed = torch.tensor([[0.5, 0.5, 0.0, 0.0, 0.0]])
    assert torch.equal(smooth(mixed, torch.zeros(1, 5), 0.0), mixed)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("size", [0.0, 1e4])
def test_finite_where_predictions_are_equal_and_where_they_are_certain(distance, size):
    clean = torch.zeros(2, 3)
    clean[:, 0] = size
    clean.requires_grad_()
    adversarial = clean.detach().roll(1, 1 if size else 0).requires_grad_()
    terms = loss_terms(
        "score",
        logits_clean=clean,
        logits_adv=adversarial,
        y=torch.tensor([0, 1]),
        options={"distance": distance},
    )
    gradients = torch.autograd.grad(total(terms), (clean, adversarial))
    assert all(part.isfinite().all() for part in gradients)
