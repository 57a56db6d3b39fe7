"""The Jacobian penalty against reference values, linear models by hand, and the statistics of its
projections.
"""

from __future__ import annotations

import pytest
import torch
from tests.golden import golden, linear_model, margin_network
from tests.train.test_step import make_step, plain_network, weights
from torch import nn

from abatis import Batch, Net, StepContext
from abatis.testing import penalty_terms, plan_of, tiny_batch, tiny_network, total

TERM = "jacobian/frobenius_sq"


def penalty_and_context(model, x, **options):
    """The regularizer, and a context at step 0."""
    net, y = Net(model), torch.zeros(len(x), dtype=torch.int64)
    classes = model(x[:1]).shape[1]
    plan = plan_of("jacobian", net=net, num_classes=classes, options=options)
    return plan.regularizers[0][1], StepContext(
        Batch(x, y, torch.arange(len(x))), x, {}, net, 0, 0, 0.0, len(x)
    )


def test_exact_equals_the_reference_values():
    """Value and parameter gradients of 1/2 mean || J ||_F^2, and the squares of the Jacobian
    itself.
    """
    arrays = golden("amm_avgmargin_wuyu")
    network = margin_network(arrays)
    x, y = torch.tensor(arrays["x"]), torch.tensor(arrays["y"])
    terms = penalty_terms("jacobian", network, x, x, y, {"weight": 1, "projections": 0})
    gradients = torch.autograd.grad(total(terms), list(network.parameters()), allow_unused=True)
    assert total(terms).item() == pytest.approx(float(arrays["jacobian_reg_exact"]), rel=1e-10)
    for (name, _), gradient in zip(network.named_parameters(), gradients, strict=True):
        expected = torch.tensor(arrays[f"grad_jacobian_{name}"])
        assert ((0 if gradient is None else gradient) - expected).abs().max() <= 1e-10
    squares = torch.tensor(arrays["jacobian"]).square().sum((1, 2))
    assert torch.allclose(terms[TERM].value, squares, rtol=1e-10)


def test_exact_by_hand_on_a_linear_model():
    """|| W ||_F^2 = 1 + 4 + 9 for every sample, at any input and label."""
    x = torch.rand(3, 1, 1, 2, dtype=torch.float64)
    terms = penalty_terms(
        "jacobian",
        linear_model([[1, 2], [3, 0]]),
        x,
        x,
        torch.tensor([0, 1, 0]),
        {
            "projections": 0,
            "weight": 5,
        },
    )
    assert terms[TERM].value.tolist() == pytest.approx([14, 14, 14])
    assert terms[TERM].weight == 2.5


@pytest.mark.parametrize("projections", [1, 3])
def test_any_projection_is_exact_where_the_rows_are_orthogonal_and_equally_long(projections):
    x = torch.rand(4, 1, 1, 3, dtype=torch.float64)
    penalty, ctx = penalty_and_context(
        linear_model([[0, 3, 0], [3, 0, 0]]), x, projections=projections
    )
    assert penalty(ctx)["frobenius_sq"].value.tolist() == pytest.approx([18] * 4)


@pytest.mark.parametrize("projections", [1, 3])
def test_projections_are_unbiased(projections):
    """The mean over 400 steps of 24 samples lies within 4 standard errors of the exact value, and
    that is within 3 %.
    """
    x = torch.rand(24, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    model = tiny_network(10).eval()
    exact_penalty, ctx = penalty_and_context(model, x, projections=0)
    penalty, _ = penalty_and_context(model, x, projections=projections)
    means = []
    for step in range(400):
        penalty.random.at(step)
        means.append(penalty(ctx)["frobenius_sq"].value.mean().detach())
    exact, means = exact_penalty(ctx)["frobenius_sq"].value.mean().item(), torch.stack(means)
    error = means.std().item() / 20
    assert error < 0.03 * exact
    assert abs(means.mean().item() - exact) < 4 * error


def test_more_projections_vary_less():
    """The variance of a mean of 4 is a quarter."""
    x = torch.rand(500, 1, 1, 2, dtype=torch.float64)
    variances = []
    for projections in (1, 4):
        penalty, ctx = penalty_and_context(
            linear_model([[1, 2], [3, 0]]), x, projections=projections
        )
        variances.append(penalty(ctx)["frobenius_sq"].value.var().item())
    assert variances[1] == pytest.approx(variances[0] / 4, rel=0.2)


def test_vectors_are_of_unit_length_and_differ_by_sample_projection_and_step():
    x = torch.rand(5, 1, 1, 2, dtype=torch.float64)
    penalty, _ = penalty_and_context(linear_model([[1, 2], [3, 0]]), x, projections=2)
    logits, found = torch.zeros(5, 10, dtype=torch.float64), []
    for step in (0, 1):
        penalty.random.at(step)
        found += list(penalty.directions(logits))
        again = list(penalty.directions(logits))
        assert torch.equal(torch.stack(found[-2:]), torch.stack(again))
    vectors = torch.cat(found)  # (20, 10)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(20, dtype=torch.float64))
    assert ((vectors @ vectors.T - torch.eye(20)).abs() < 0.999).all()


def test_where_it_is_taken():
    """Behind a ReLU that is open at the clean image and closed at the adversarial one."""
    model = nn.Sequential(nn.Flatten(), nn.ReLU(), linear_model([[1, 2], [3, 0]])[1])
    clean, adversarial = torch.ones(1, 1, 1, 2).double(), -torch.ones(1, 1, 1, 2).double()
    for at, expected in (("clean", 14), ("adv", 0)):
        terms = penalty_terms(
            "jacobian", model, clean, adversarial, torch.tensor([0]), {"projections": 0, "at": at}
        )
        assert terms[TERM].value.item() == pytest.approx(expected)


@pytest.mark.parametrize("names", [("jacobian",), ("jacobian", "mart")])
@pytest.mark.parametrize("projections", [0, 1, 3])
@pytest.mark.parametrize("parts", [2, 3])
def test_micro_batches_make_the_update_of_the_whole_batch(names, projections, parts):
    """Random vectors are drawn for the whole batch; every part takes its own."""
    batch, found = tiny_batch(8, 10), []
    for accumulate in (1, parts):
        module = plain_network()
        options = {"jacobian": {"projections": projections, "weight": 0.1}}
        step = make_step(module, *names, options=options, accumulate=accumulate)
        results = [step(batch, number, 0, 0.0) for number in range(2)]
        found.append((weights(module), results[-1].total))
    assert torch.allclose(found[0][0], found[1][0], rtol=0, atol=1e-12)
    assert found[0][1].item() == pytest.approx(found[1][1].item(), rel=1e-12)
