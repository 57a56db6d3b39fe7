"""Average margin against the released code's values, layers and margins by hand, and its
options.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tests.golden import golden, margin_network
from tests.train.test_step import make_step, plain_network, weights
from torch import nn

from abatis import Net, UsageError
from abatis.testing import loss_terms, penalty_terms, plan_of, tiny_batch, total
from abatis_average_margin.penalty import orthogonality

RAMP, ORTHOGONALITY = "average-margin/ramp", "average-margin/orthogonality"


@pytest.fixture
def reference():
    """(arrays, network) of the reference file."""
    arrays = golden("amm_avgmargin_wuyu")
    network = margin_network(arrays)
    return arrays, network


def penalty(arrays, network, **options):
    x, y = torch.tensor(arrays["x"]), torch.tensor(arrays["y"])
    return penalty_terms("average-margin", network, x, x, y, options)


def largest_difference(arrays, prefix, network, value):
    gradients = torch.autograd.grad(value, list(network.parameters()), allow_unused=True)
    return max(
        float(
            ((0 if gradient is None else gradient) - torch.tensor(arrays[f"{prefix}{name}"]))
            .abs()
            .max()
        )
        for (name, _), gradient in zip(network.named_parameters(), gradients, strict=True)
    )


def matrix(rows) -> nn.Linear:
    rows = torch.tensor(rows, dtype=torch.float64)
    layer = nn.Linear(rows.shape[1], rows.shape[0], dtype=torch.float64)
    layer.weight.data.copy_(rows)
    return layer


def test_the_ramp_equals_the_reference_values(reference):
    """Value and, beside the cross-entropy, every parameter's gradient."""
    arrays, network = reference
    terms = penalty(
        arrays, network, weight=float(arrays["mu"]), tau=float(arrays["tau"]), orthogonality=0
    )
    ce = F.cross_entropy(network(torch.tensor(arrays["x"])), torch.tensor(arrays["y"]))
    assert terms.keys() == {RAMP}
    assert terms[RAMP].value.mean().item() == pytest.approx(float(arrays["value_ramp"]), rel=1e-10)
    assert (ce + total(terms)).item() == pytest.approx(float(arrays["loss_ramp"]), rel=1e-10)
    assert largest_difference(arrays, "grad_ramp_", network, ce + total(terms)) <= 1e-10


def test_the_orthogonality_equals_the_released_code_at_twice_its_beta(reference):
    """The released loop over weights and biases adds every layer's weight twice: beta 1e-3 there is
    2e-3 here.
    """
    arrays, network = reference
    terms = penalty(arrays, network, weight=0, orthogonality=2e-3)
    assert terms.keys() == {ORTHOGONALITY}
    assert total(terms).item() == pytest.approx(float(arrays["orth_beta1e-3"]), rel=1e-10)
    assert largest_difference(arrays, "grad_orth_", network, total(terms)) <= 1e-10


def test_the_ramp_by_hand():
    """Margins -1, 0.5, 2 and 7 with tau = 5; only margins between 0 and tau have a gradient."""
    margins = torch.tensor([-1.0, 0.5, 2.0, 7.0], dtype=torch.float64)
    logits = torch.stack([margins, torch.zeros(4), torch.full((4,), -9.0)], 1).requires_grad_()
    other = torch.zeros_like(logits)
    options = {"weight": 2, "tau": 5, "orthogonality": 0}
    terms = loss_terms(
        "average-margin",
        logits_clean=other,
        logits_adv=logits,
        y=torch.zeros(4).long(),
        options=options,
    )
    assert terms[RAMP].value.tolist() == [5, 4.5, 3, 0]
    assert terms[RAMP].weight == 2
    (gradient,) = torch.autograd.grad(terms[RAMP].value.sum(), logits)
    assert gradient.tolist() == [[0, 0, 0], [-1, 1, 0], [-1, 1, 0], [0, 0, 0]]


def test_the_released_ramp_equals_the_reference_values(reference):
    """``clamp(-margin, 0, tau)``: value and, beside the cross-entropy, every gradient."""
    arrays, network = reference
    terms = penalty(
        arrays,
        network,
        weight=float(arrays["mu"]),
        tau=float(arrays["tau"]),
        orthogonality=0,
        ramp="released",
    )
    ce = F.cross_entropy(network(torch.tensor(arrays["x"])), torch.tensor(arrays["y"]))
    assert (ce + total(terms)).item() == pytest.approx(
        float(arrays["loss_head_clampneg"]), rel=1e-10
    )
    assert largest_difference(arrays, "grad_head_clampneg_", network, ce + total(terms)) <= 1e-10


def test_the_released_ramp_by_hand():
    """Margins -7, -1, 0.5 and 7 with tau = 5; only those between -tau and 0 have a gradient."""
    margins = torch.tensor([-7.0, -1.0, 0.5, 7.0], dtype=torch.float64)
    logits = torch.stack([margins, torch.zeros(4), torch.full((4,), -9.0)], 1).requires_grad_()
    terms = loss_terms(
        "average-margin",
        logits_clean=torch.zeros_like(logits),
        logits_adv=logits,
        y=torch.zeros(4).long(),
        options={"weight": 2, "tau": 5, "orthogonality": 0, "ramp": "released"},
    )
    assert terms[RAMP].value.tolist() == [5, 1, 0, 0]
    (gradient,) = torch.autograd.grad(terms[RAMP].value.sum(), logits)
    assert gradient.tolist() == [[0, 0, 0], [-1, 1, 0], [0, 0, 0], [0, 0, 0]]


def test_the_orthogonality_by_hand():
    """W W^T = diag(1, 4), which is 9 away from I; its gradient is 4 (W W^T - I) W."""
    layer = matrix([[1, 0, 0], [0, 2, 0]])
    value = orthogonality(layer)
    assert value.shape == ()
    assert value.item() == 9
    assert torch.autograd.grad(value, layer.weight)[0].tolist() == [[0, 0, 0], [0, 24, 0]]


def test_orthonormal_rows_cost_nothing():
    layer = nn.utils.parametrizations.orthogonal(nn.Linear(6, 4, dtype=torch.float64))
    assert orthogonality(layer).item() == pytest.approx(0, abs=1e-20)


def test_layers_with_more_outputs_than_inputs_are_left_out():
    """Rows in a space with too few dimensions cannot be orthonormal."""
    tall, square, conv = matrix([[1, 1]] * 3), matrix([[2, 0], [0, 1]]), nn.Conv2d(1, 10, 3)
    assert orthogonality(nn.Sequential(tall, square, conv)).item() == 9
    wide = nn.Conv2d(1, 9, 3)  # as many as the 9 inputs of its kernel
    assert orthogonality(wide).item() > 0


def test_layers_with_more_outputs_than_inputs_count_where_all_are_asked_for():
    """Rows of ones: W W^T has 2 everywhere, so it is 3 * 1 + 6 * 4 = 27 away from I.

    Every number of the gradient 4 (W W^T - I) W is 4 (1 + 2 + 2) = 20.
    """
    tall, square = matrix([[1, 1]] * 3), matrix([[2, 0], [0, 1]])
    value = orthogonality(nn.Sequential(tall, square), tall=True)
    assert value.item() == 27 + 9
    assert torch.autograd.grad(value, tall.weight)[0].tolist() == [[20, 20]] * 3
    x = torch.rand(2, 1, 1, 2, dtype=torch.float64)
    for layers, value in (("all", 36), ("wide", 9)):
        terms = penalty_terms(
            "average-margin",
            nn.Sequential(nn.Flatten(), square, tall),
            x,
            x,
            torch.tensor([0, 1]),
            {"layers": layers},
        )
        assert terms[ORTHOGONALITY].value.item() == value


def test_a_grouped_convolution_counts_the_inputs_of_its_own_group():
    """4 channels in 2 groups: each output sees 2 inputs of a 1x1 kernel, so the matrix is (2,
    2).
    """
    conv = nn.Conv2d(4, 2, 1, groups=2)
    conv.weight.data = torch.tensor([[3.0, 0.0], [0.0, 1.0]])[:, :, None, None]
    assert orthogonality(conv).item() == 64
    with pytest.raises(UsageError, match="needs a Linear or Conv2d layer"):
        orthogonality(nn.Conv2d(4, 4, 1, groups=2))  # (4, 2)


def test_a_network_without_such_a_layer_is_refused():
    x = torch.rand(2, 1, 1, 2, dtype=torch.float64)
    network = nn.Sequential(nn.Flatten(), matrix([[1, 1]] * 3))
    with pytest.raises(UsageError, match="orthogonality penalty") as caught:
        penalty_terms("average-margin", network, x, x, torch.tensor([0, 1]))
    assert len(str(caught.value).splitlines()) <= 4
    without = penalty_terms(
        "average-margin", network, x, x, torch.tensor([0, 1]), {"orthogonality": 0}
    )
    assert without.keys() == {RAMP}


@pytest.mark.parametrize(
    ("options", "unused"),
    [
        ({"weight": 0}, False),
        ({"orthogonality": 0}, False),
        ({"weight": 0, "orthogonality": 0}, True),
    ],
)
def test_it_is_switched_off_only_where_both_weights_are_0(options, unused):
    plan = plan_of("average-margin", net=Net(plain_network()), num_classes=10, options=options)
    assert (not plan.regularizers) is unused


def test_finite_at_huge_logits():
    logits = torch.tensor([[1e4, -1e4, 0], [-1e4, 1e4, 0]], requires_grad=True)
    options = {"orthogonality": 0}
    terms = loss_terms(
        "average-margin",
        logits_clean=logits,
        logits_adv=logits,
        y=torch.zeros(2).long(),
        options=options,
    )
    assert terms[RAMP].value.tolist() == [0, 5]
    assert torch.autograd.grad(total(terms), logits)[0].isfinite().all()


@pytest.mark.parametrize("names", [("average-margin",), ("average-margin", "mart")])
@pytest.mark.parametrize("use", [None, {"attacker": "none"}])
@pytest.mark.parametrize("parts", [2, 3])
def test_micro_batches_make_the_update_of_the_whole_batch(names, use, parts):
    batch, found = tiny_batch(8, 10), []
    for accumulate in (1, parts):
        module = plain_network()
        step = make_step(module, *names, use=use, accumulate=accumulate)
        results = [step(batch, number, 0, 0.0) for number in range(2)]
        found.append((weights(module), results[-1].total))
    assert torch.allclose(found[0][0], found[1][0], rtol=0, atol=1e-12)
    assert found[0][1].item() == pytest.approx(found[1][1].item(), rel=1e-12)
