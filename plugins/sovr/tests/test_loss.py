"""SOVR against reference values, closed-form margins, numbers by hand, and its options."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.helpers import final_bytes, tiny
from tests.train.test_step import make_step, plain_network, weights
from torch import nn

import abatis
from abatis import Batch, Net, StepContext, UsageError
from abatis.testing import loss_terms, plan_of, tiny_batch, total
from abatis_sovr.loss import one_versus_rest

LOSS = np.load(Path(__file__).with_name("sovr_loss.npz"))
THEOREM = np.load(Path(__file__).with_name("sovr_theorem.npz"))


def terms_of(logits, y, clean=None, **options):
    return loss_terms(
        "sovr",
        logits_clean=torch.zeros_like(logits) if clean is None else clean,
        logits_adv=logits,
        y=y,
        options=options,
    )


def random_logits(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("case", LOSS["cases"])
def test_equals_the_reference_values(case):
    logits = torch.tensor(LOSS[f"{case}_logits"], requires_grad=True)
    y = torch.tensor(LOSS[f"{case}_labels"])
    weight = float(LOSS[f"{case}_lam"])
    terms = terms_of(logits, y, fraction=float(LOSS[f"{case}_M"]) / 100, weight=weight)
    (gradient,) = torch.autograd.grad(total(terms), logits)
    ce, ovr, chosen = terms["ce"].value, terms["ovr"].value, torch.tensor(LOSS[f"{case}_L_mask"])
    assert total(terms).item() == pytest.approx(float(LOSS[f"{case}_loss"]), rel=1e-10)
    assert np.abs(gradient.numpy() - LOSS[f"{case}_grad"]).max() <= 1e-10
    assert torch.equal(ovr != 0, chosen)
    assert torch.equal(ce != 0, ~chosen)
    assert np.abs((ce + weight * ovr).detach().numpy() - LOSS[f"{case}_per_sample"]).max() <= 1e-10


@pytest.mark.parametrize(
    ("key", "num_classes", "fraction"),
    [
        ("ovr", 10, 1.0),
        ("ce_K2", 2, 0.5),
        ("ce_K10", 10, 0.5),
        ("ce_K100", 100, 0.5),
    ],
)
def test_gradient_flow_follows_the_closed_form_margins(key, num_classes, fraction):
    """dz/dt = -grad from z = 0, by Runge-Kutta of order 4 in log(1 + t), to 1e-6. Half of one
    sample is none: CE.
    """
    y, net = torch.tensor([0]), Net(nn.Identity())
    loss = plan_of(
        "sovr", net=net, num_classes=num_classes, options={"fraction": fraction, "weight": 1}
    ).loss
    batch = Batch(torch.zeros(1, 1, 1, 1), y, torch.arange(1))

    def slope(log_time, logits):
        z = logits.clone().requires_grad_()
        ctx = StepContext(batch, batch.x, {}, net, 0, 0, 0.0, 1)
        ctx.__dict__["logits_clean"] = z
        return -math.exp(log_time) * torch.autograd.grad(total(loss(ctx)), z)[0]

    logits, now = torch.zeros(1, num_classes, dtype=torch.float64), 0.0
    for t, expected in zip(THEOREM["t"], THEOREM[f"margin_{key}"], strict=True):
        steps = math.ceil((math.log1p(t) - now) / 0.05)
        h = (math.log1p(t) - now) / max(steps, 1)
        for step in range(steps):
            logits = logits + runge_kutta(slope, now + step * h, logits, h)
        now = math.log1p(t)
        margin = logits[0, 0] - logits[0, 1:].max()
        assert margin.item() == pytest.approx(float(expected), abs=1e-6)


def runge_kutta(slope, time, point, h):
    """The classical step of order 4."""
    a = slope(time, point)
    b = slope(time + h / 2, point + h / 2 * a)
    c = slope(time + h / 2, point + h / 2 * b)
    d = slope(time + h, point + h * c)
    return h / 6 * (a + 2 * b + 2 * c + d)


def test_by_hand():
    """Margins 0 and log 3, one of two switched: OVR(0, 0) = 2 log 2 for the first, CE = log(4 / 3)
    for the second.
    """
    logits = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]], dtype=torch.float64)
    terms = terms_of(logits, torch.tensor([0, 0]), fraction=0.5, weight=0.25)
    assert terms["ovr"].value.tolist() == pytest.approx([2 * math.log(2), 0])
    assert terms["ce"].value.tolist() == pytest.approx([0, math.log(4 / 3)])
    assert total(terms).item() == pytest.approx((math.log(4 / 3) + 0.25 * 2 * math.log(2)) / 2)
    assert terms["ce"].reweight
    assert terms["ovr"].reweight


@pytest.mark.parametrize(
    ("size", "fraction", "count"),
    [(128, 0.4, 51), (100, 0.29, 29), (13, 0.4, 5), (2, 0.4, 0), (7, 1, 7)],
)
def test_the_floor_of_the_share_with_the_smallest_margins_is_switched(size, fraction, count):
    logits, y = random_logits(size, 10), torch.arange(size) % 10
    switched = terms_of(logits, y, fraction=fraction)["ovr"].value != 0
    margins = logits[range(size), y] - logits.scatter(1, y[:, None], -1e9).amax(1)
    assert switched.sum() == count
    assert set(margins[switched].tolist()) == set(margins.sort().values[:count].tolist())


@pytest.mark.parametrize(
    "index", [[40, 30, 10, 0, 20], [2**24 + 4, 2**24 + 3, 2**24 + 1, 2**24, 2**24 + 2]]
)
def test_equal_margins_go_to_the_samples_that_come_first_in_the_training_set(index):
    """Float32 could not tell the larger indices apart."""
    net, y = Net(nn.Identity()), torch.zeros(5, dtype=torch.int64)
    batch = Batch(torch.zeros(5, 1, 1, 1), y, torch.tensor(index))
    ctx = StepContext(batch, batch.x, {}, net, 0, 0, 0.0, 5)
    ctx.__dict__["logits_clean"] = torch.zeros(5, 3)
    terms = plan_of("sovr", net=net, num_classes=3, options={"fraction": 0.4}).loss(ctx)
    assert (terms["ovr"].value != 0).tolist() == [False, False, True, True, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_finite_and_exact_at_huge_logits(dtype):
    logits = torch.tensor([[1e4, -1e4], [1e4, -1e4], [0, 1e4]], dtype=dtype, requires_grad=True)
    y = torch.tensor([0, 1, 0])
    assert one_versus_rest(logits, y).tolist() == pytest.approx([0, 2e4, 1e4 + math.log(2)])
    for options in ({"fraction": 1.0}, {"fraction": 0.5}, {"beta": 6.0}):
        value = total(terms_of(logits, y, clean=-logits, **options))
        assert value.isfinite()
        assert torch.autograd.grad(value, logits)[0].isfinite().all()


def test_the_logistic_losses_keep_small_values():
    """log(1 + exp(-50)) would vanish in z - (z - tiny)."""
    value = one_versus_rest(torch.tensor([[50.0, -60.0]], dtype=torch.float64), torch.tensor([0]))
    assert value.item() == pytest.approx(math.exp(-50) + math.exp(-60), rel=1e-12)


def test_with_beta_the_switched_loss_is_clean_and_a_kl_joins_it():
    clean, adversarial, y = (
        random_logits(8, 10, seed=1),
        random_logits(8, 10, seed=2),
        torch.arange(8),
    )
    terms = terms_of(adversarial, y, clean=clean, fraction=0.5, beta=6)
    switched = terms["ovr"].value != 0
    assert torch.equal(
        switched, terms_of(adversarial, y, fraction=0.5)["ovr"].value != 0
    )  # chosen at the adversarial images
    assert torch.allclose(
        terms["ce"].value[~switched], F.cross_entropy(clean, y, reduction="none")[~switched]
    )
    assert torch.allclose(terms["ovr"].value[switched], one_versus_rest(clean, y)[switched])
    p, p_adv = clean.softmax(1), adversarial.softmax(1)
    assert torch.allclose(terms["kl"].value, (p * (p / p_adv).log()).sum(1))
    assert terms["kl"].weight == 6
    assert [terms[name].reweight for name in ("ce", "ovr", "kl")] == [False, False, True]


def test_the_margins_may_be_those_of_the_clean_images():
    clean, adversarial, y = (
        random_logits(8, 10, seed=1),
        random_logits(8, 10, seed=2),
        torch.arange(8),
    )
    for beta in (0, 6):
        terms = terms_of(adversarial, y, clean=clean, fraction=0.5, select_on="nat", beta=beta)
        expected = terms_of(clean, y, fraction=0.5)["ovr"].value != 0
        assert torch.equal(terms["ovr"].value != 0, expected)


@pytest.mark.parametrize(
    ("options", "needed"),
    [({}, False), ({"beta": 1}, True), ({"select_on": "nat"}, True), ({"bias_init": True}, False)],
)
def test_clean_images_are_needed_for_the_kl_and_for_clean_margins_only(options, needed):
    assert (
        plan_of("sovr", net=Net(plain_network()), num_classes=10, options=options).clean_first
        is needed
    )


@pytest.mark.parametrize("names", [("sovr",), ("emr", "sovr")])
@pytest.mark.parametrize("options", [{}, {"beta": 6, "select_on": "nat"}, {"fraction": 1}])
@pytest.mark.parametrize("parts", [2, 3])
@pytest.mark.parametrize("tied", [False, True])
def test_micro_batches_make_the_update_of_the_whole_batch(names, options, parts, tied):
    """tied: all logits are 0 in the first step, and the order in the training set, here backwards,
    decides alone.
    """
    batch, found = tiny_batch(9, 10), []
    batch = Batch(batch.x, batch.y, batch.index.flip(0))
    for accumulate in (1, parts):
        module = plain_network()
        if tied:
            nn.init.zeros_(module[3].weight), nn.init.zeros_(module[3].bias)
        step = make_step(module, *names, options={"sovr": options}, accumulate=accumulate)
        results = [step(batch, number, 0, 0.0) for number in range(2)]
        found.append((weights(module), results[-1].total))
    assert torch.allclose(found[0][0], found[1][0], rtol=0, atol=1e-12)
    assert found[0][1].item() == pytest.approx(found[1][1].item(), rel=1e-12)


def test_fraction_0_is_the_cross_entropy_and_weight_0_is_not():
    logits, y = random_logits(10, 10), torch.arange(10)
    mean = F.cross_entropy(logits, y).item()
    assert total(terms_of(logits, y, fraction=0)).item() == mean
    assert total(terms_of(logits, y, fraction=0.05)).item() == pytest.approx(
        mean
    )  # floor(0.5) is none either
    assert total(terms_of(logits, y, fraction=1, weight=0)).item() == 0


def test_the_last_bias_starts_at_one_against_the_others():
    module = plain_network(100)
    first = module[0].bias.clone()
    plan_of("sovr", net=Net(module), num_classes=100, options={"bias_init": True})
    assert torch.allclose(module[3].bias.sigmoid(), torch.tensor(0.01, dtype=torch.float64))
    assert torch.equal(module[0].bias, first)


@pytest.mark.parametrize(
    "head", [nn.Linear(4, 10, bias=False), nn.Linear(4, 9), nn.Conv2d(4, 10, 1)]
)
def test_a_network_without_such_a_bias_is_refused(head):
    net = Net(nn.Sequential(nn.Linear(2, 4), head))
    with pytest.raises(UsageError, match="last Linear layer with a bias and 10 outputs") as caught:
        plan_of("sovr", net=net, num_classes=10, options={"bias_init": True})
    assert len(str(caught.value).splitlines()) <= 4


def test_a_resumed_run_keeps_the_bias_it_had_learned(tmp_path):
    """The hook sets the bias again, the checkpoint is restored after that: the same weights as
    without the stop.
    """
    changes = {"plugin": ["sovr"], "sovr": {"bias_init": True}, "optim": {"schedule": "constant"}}
    whole = abatis.run(tiny(tmp_path, name="whole", **changes)).folder
    abatis.run(tiny(tmp_path, name="cut", epochs=1, **changes))
    resumed = abatis.run(tiny(tmp_path, name="cut", resume=True, **changes)).folder
    assert final_bytes(resumed) == final_bytes(whole)
