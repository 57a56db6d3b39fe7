"""The penalty against the released code, its functions by hand, and that cutting a batch changes
nothing.
"""

from __future__ import annotations

import math

import pytest
import torch
from tests.golden import golden
from tests.train.test_step import make_step, plain_network, weights
from torch import nn

from abatis import Batch
from abatis.testing import penalty_terms, tiny_batch, tiny_network, total
from abatis_amm import AmmConfig
from abatis_amm.penalty import pull, push, worst

README = {"weight": 32, "c": 2, "d": 1}
SMALL = {"weight": 1, "c": 2, "d": 1}
LIN = {"weight": 1, "c": 0.1, "d": 0.1, "shrinkage": "lin"}
AVG = {"aggregation": "avg"}
RELEASED = {
    "avg_exp_c2_d1_l32": {**AVG, **README},
    "avg_exp_nobp": {**AVG, **README, "backprop_previous": False},
    "avg_exp_small": {**AVG, **SMALL},
    "avg_lin": {**AVG, **LIN},
    "avg_invprop": {**AVG, "weight": 1, "c": 2, "d": 0.5, "shrinkage": "invprop"},
    "avg_margin": {**AVG, "weight": 1, "c": 1, "shrinkage": "margin"},
    "min_exp_c2_d1_l32": {},  # the defaults
    "min_exp_small": SMALL,
    "min_lin": LIN,
    "posonly_avg_exp": {**AVG, **README, "positive_only": True},
    "avg_exp_clip36": {**AVG, **README, "clip": 36},
    "avg_exp_iter1": {**AVG, **SMALL, "iterations": 1},
    "avg_exp_iter1_usefailed": {**AVG, **SMALL, "iterations": 1, "use_failed": True},
}


def official(arrays):
    """fc1, fc2, fc3 with ReLU between them."""
    layers = [nn.Flatten()]
    for name in ("fc1", "fc2", "fc3"):
        weight, bias = (torch.tensor(arrays[f"param_{name}.{part}"]) for part in ("weight", "bias"))
        layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=torch.float64)
        layer.weight.data, layer.bias.data = weight, bias
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@pytest.mark.parametrize("case", RELEASED)
def test_equals_the_released_code(case):
    arrays = golden("amm_official_relu")
    model, x, y = official(arrays), torch.tensor(arrays["x"]), torch.tensor(arrays["y"])
    terms = penalty_terms("amm", model, x, x, y, {"epsilon": 5e-6, **RELEASED[case]})
    for name, term in terms.items():
        expected = float(arrays[f"reg_{case}_{name[4:7]}"])
        assert (term.weight * term.value.mean()).item() == pytest.approx(
            expected, rel=1e-12, abs=1e-14
        )
    assert ("amm/negative" in terms) is ("posonly" not in case)
    names = [f"fc{layer}.{part}" for layer in (1, 2, 3) for part in ("weight", "bias")]
    for name, gradient in zip(
        names, torch.autograd.grad(total(terms), list(model.parameters())), strict=True
    ):
        assert (gradient - torch.tensor(arrays[f"grad_{case}_{name}"])).abs().max() <= 1e-12


@pytest.mark.parametrize("name", ["positive", "negative"])
def test_min_selects_the_samples_of_the_released_code(name):
    arrays = golden("amm_official_relu")
    x, y = torch.tensor(arrays["x"]), torch.tensor(arrays["y"])
    value = penalty_terms("amm", official(arrays), x, x, y, {"epsilon": 5e-6})[f"amm/{name}"].value
    assert value.nonzero().flatten().tolist() == arrays[f"min_selected_{name[:3]}"].tolist()


def line(positions, y, slope=5.0, **options):
    """The terms on a row of points between two classes: z = (slope a, 0), so the margin is |a|."""
    layer = nn.Linear(1, 2, dtype=torch.float64)
    layer.weight.data, layer.bias.data = (
        torch.tensor([[slope], [0]], dtype=torch.float64),
        torch.zeros(2, dtype=torch.float64),
    )
    x = torch.tensor(positions, dtype=torch.float64)[:, None, None, None]
    options = {
        "weight": 3,
        "c": 2,
        "d": 1,
        "aggregation": "avg",
        "overshoot": 0,
        "epsilon": 1e-15,
        **options,
    }
    terms = penalty_terms("amm", nn.Sequential(nn.Flatten(), layer), x, x, torch.tensor(y), options)
    return {name: term.value.tolist() for name, term in terms.items()}


def test_by_hand():
    """Two correct samples with the margins 0.5 and 0.25, a wrong one at the distance 1.5; no
    overshoot, so nobody arrives.
    """
    values = line([0.5, 0.25, 1.5], [0, 0, 1], use_failed=True)
    assert values["amm/positive"] == pytest.approx([math.exp(-1), math.exp(-0.5), 0], rel=1e-12)
    assert values["amm/negative"] == pytest.approx([0, 0, math.exp(1.5)], rel=1e-12)


def test_failed_samples_are_left_out():
    """Epsilon adds to the slope of 5 on one side and takes from it on the other: there the step
    ends short of the boundary.
    """
    short = {"epsilon": 1e-3, "iterations": 1}
    assert [value > 0 for value in line([-0.5, 0.5], [1, 0], **short)["amm/positive"]] == [
        False,
        True,
    ]
    assert [
        value > 0 for value in line([-0.5, 0.5], [1, 0], **short, use_failed=True)["amm/positive"]
    ] == [True, True]


def test_relative_margins_are_those_of_deep_defense():
    """A point on a line through the boundary is as far from it as it is long: 0.5 / 0.5."""
    values = line([0.5, 0.25, 1.5], [0, 0, 1], use_failed=True, relative=True)
    assert values["amm/positive"] == pytest.approx([math.exp(-2), math.exp(-2), 0], rel=1e-12)
    assert values["amm/negative"] == pytest.approx([0, 0, math.exp(1)], rel=1e-12)


@pytest.mark.parametrize(
    ("shrinkage", "pushed", "pulled"),
    [
        ("exp", math.exp(-1), math.exp(0.25)),
        ("invprop", 0.5, 4 / 3),
        ("lin", -1.0, 0.25),
        ("margin", 1.5, 2.5),
    ],
)
def test_shrinkage_by_hand(shrinkage, pushed, pulled):
    """m = 0.5, c = 2, d = 0.5; in units of lambda."""
    config, m = (
        AmmConfig(weight=4, c=2, d=0.5, shrinkage=shrinkage),
        torch.tensor([0.5], dtype=torch.float64),
    )
    assert push(m, config).item() == pytest.approx(pushed)
    assert pull(m, config).item() == pytest.approx(pulled)


@pytest.mark.parametrize("shrinkage", ["exp", "invprop"])
@pytest.mark.parametrize("weight", [1e-3, 32, 100])
def test_clipped_penalties_have_the_value_of_the_clip_and_no_gradient(shrinkage, weight):
    """Far beyond where the exponential overflows and the inverse changes sign; at weight 100 near
    the boundary too.
    """
    config = AmmConfig(weight=weight, c=2, d=1, shrinkage=shrinkage, clip=50)
    m = torch.tensor([1e6], dtype=torch.float64, requires_grad=True)
    assert weight * pull(m, config).item() == pytest.approx(50)
    assert torch.autograd.grad(pull(m, config).sum(), m)[0].item() == 0
    near = torch.tensor([1e-3], dtype=torch.float64, requires_grad=True)
    clipped = weight * push(near, config).item() == pytest.approx(50)
    assert clipped is (weight > 50)
    assert (torch.autograd.grad(push(near, config).sum(), near)[0].item() == 0) is clipped


def test_the_readme_s_penalty_of_wrong_samples_saturates_early():
    """lambda = 32 and V = 50 leave no gradient beyond m = ln(50 / 32) = 0.446."""
    for m, flat in ((0.44, False), (0.45, True)):
        m = torch.tensor([m], dtype=torch.float64, requires_grad=True)
        assert (torch.autograd.grad(pull(m, AmmConfig()).sum(), m)[0].item() == 0) is flat


def test_selection_by_hand():
    """Labels 0, 1, 2, 3; the least of a label must be among the `top` least of all."""
    key = torch.tensor([0.5, 0.2, 0.3, 0.9, float("inf"), 0.1, 0.8])
    labels = torch.tensor([0, 0, 1, 2, 3, 1, 2])
    for top, expected in ((1, [5]), (2, [1, 5]), (5, [1, 5, 6]), (7, [1, 5, 6])):
        assert worst(key, labels, 4, top).nonzero().flatten().tolist() == expected
    assert worst(torch.tensor([1.0, 1.0, 2.0]), torch.tensor([0, 0, 1]), 2, 1).tolist() == [
        True,
        True,
        False,
    ]
    assert not worst(torch.full((3,), float("inf")), torch.tensor([0, 0, 1]), 2, 3).any()


def test_of_wrong_samples_the_farthest_stand_for_their_class():
    """Two classes: the nearest of the correct, the farthest of the wrong; a share of 0.1 is still
    one sample.
    """
    positions, y = [0.5, 0.25, -0.75, 1.5, 0.9, -0.3], [0, 0, 1, 1, 1, 0]
    every = line(positions, y, aggregation="min", overshoot=0.02, top_fraction=1)
    assert [bool(value) for value in every["amm/positive"]] == [
        False,
        True,
        True,
        False,
        False,
        False,
    ]
    assert [bool(value) for value in every["amm/negative"]] == [
        False,
        False,
        False,
        True,
        False,
        True,
    ]
    one = line(positions, y, aggregation="min", overshoot=0.02, top_fraction=0.1)
    assert [bool(value) for value in one["amm/positive"]] == [
        False,
        True,
        False,
        False,
        False,
        False,
    ]
    assert [bool(value) for value in one["amm/negative"]] == [
        False,
        False,
        False,
        True,
        False,
        False,
    ]


def half_right(module, size=12):
    """A batch whose even rows are classified correctly."""
    batch = tiny_batch(size, 10)
    even = torch.arange(size) % 2 == 0
    return Batch(
        batch.x,
        torch.where(
            even, module(batch.x).argmax(1), (module(batch.x).argmax(1) + batch.y + 1) % 10
        ),
        batch.index,
    )


@pytest.mark.parametrize(
    "options",
    [{"top_fraction": 0.4}, {"aggregation": "avg"}, {"norm": "Linf", "top_fraction": 0.4}],
)
@pytest.mark.parametrize("parts", [2, 3, 12])
def test_micro_batches_make_the_update_of_the_whole_batch(options, parts):
    found = []
    for accumulate in (1, parts):
        module = plain_network()
        batch = half_right(module)
        step = make_step(
            module, "amm", accumulate=accumulate, lr=0.01, options={"weight": 1, **options}
        )
        results = [step(batch, number, 0, 0.0) for number in range(2)]
        found.append((weights(module), results[-1].terms))
    assert torch.allclose(found[0][0], found[1][0], rtol=0, atol=1e-12)
    for name, value in found[0][1].items():
        assert value.item() == pytest.approx(found[1][1][name].item(), rel=1e-11)
        assert value.item() > 0


def test_indices_that_float32_cannot_tell_apart():
    """The worst samples are found by their indices, which may be larger than 2**24."""
    found = []
    for first in (0, 2**24):
        module = plain_network()
        batch = half_right(module)
        batch = Batch(batch.x, batch.y, batch.index + first)
        step = make_step(module, "amm", lr=0.01, options={"weight": 1, "top_fraction": 0.2})
        step(batch, 0, 0, 0.0)
        found.append(weights(module))
    assert torch.equal(*found)


def test_the_images_are_the_clean_ones_and_the_statistics_those_of_eval_mode():
    module, batch = tiny_network(10), tiny_batch(8, 10)
    module(batch.x)
    buffers = [buffer.clone() for buffer in module.buffers()]
    values = []
    for x_adv, training in ((batch.x, True), (1 - batch.x, True), (batch.x, False)):
        module.train(training)
        values.append(total(penalty_terms("amm", module, batch.x, x_adv, batch.y)).item())
        assert module.training is training
    assert values[0] == values[1] == values[2] > 0
    assert all(
        torch.equal(buffer, before)
        for buffer, before in zip(module.buffers(), buffers, strict=True)
    )


@pytest.mark.parametrize("shrinkage", ["exp", "invprop", "lin", "margin"])
@pytest.mark.parametrize(
    "options",
    [{}, {"aggregation": "avg", "norm": "Linf"}, {"aggregation": "avg", "relative": True}],
)
def test_huge_logits_in_float32_give_finite_values_and_gradients(shrinkage, options):
    module = plain_network().float()
    with torch.no_grad():
        module[-1].weight.mul_(1e4)
    batch = half_right(module.double())
    module.float()
    value = total(
        penalty_terms(
            "amm",
            module,
            batch.x.float(),
            batch.x.float(),
            batch.y,
            {"shrinkage": shrinkage, **options},
        )
    )
    assert value.isfinite()
    assert all(
        part.isfinite().all()
        for part in torch.autograd.grad(value, list(module.parameters()), allow_unused=True)
    )
