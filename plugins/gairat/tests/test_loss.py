"""GAIRAT against the authors' code, weights by hand, burn-in, and what it says without a count of
steps.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.helpers import plugin
from tests.train.test_step import make_step, plain_network, weights
from torch import nn

from abatis import Ball, Net, PluginConflict, Term, Threat, UsageError, maximise
from abatis.testing import AttackConfig, loss_terms, plan_of, tiny_batch, total
from abatis_gairat import GairatConfig
from abatis_gairat.loss import GeometryWeighted

LOSS = np.load(Path(__file__).with_name("gairat_loss.npz"))
ATTACK = np.load(Path(__file__).with_name("gairat_pgd.npz"))
AFTER = 59  # the first epoch, counted from 0, that the released code weights


def terms_of(logits, y, kappa, *base, epoch=AFTER, progress=0.0, **options):
    info = {} if kappa is None else {"steps_correct": torch.as_tensor(kappa)}
    return loss_terms(
        "gairat",
        *base,
        logits_clean=torch.zeros_like(logits),
        logits_adv=logits,
        y=y,
        info=info,
        epoch=epoch,
        progress=progress,
        options={"gairat": options},
    )


def omega(steps, kappa, **options):
    weighted = GeometryWeighted(lambda ctx: {}, GairatConfig(**options), steps)
    return weighted.omega(torch.tensor(kappa, dtype=torch.float64)).tolist()


@pytest.mark.parametrize("case", LOSS["cases"])
def test_equals_the_released_code(case):
    logits = torch.tensor(LOSS[f"{case}_logits_adv"], requires_grad=True)
    y, kappa = torch.tensor(LOSS[f"{case}_labels"]), torch.tensor(LOSS[f"{case}_kappa"]).long()
    assert int(LOSS[f"{case}_num_steps"]) == AttackConfig().steps
    terms = terms_of(
        logits,
        y,
        kappa,
        omega=str(LOSS[f"{case}_func"]).lower(),
        shift=float(LOSS[f"{case}_Lambda"]),
    )
    (gradient,) = torch.autograd.grad(total(terms), logits, retain_graph=True)
    found = (terms["ce"].value / F.cross_entropy(logits, y, reduction="none")).detach()
    assert total(terms).item() == pytest.approx(float(LOSS[f"{case}_loss"]), rel=1e-10)
    assert np.abs(gradient.numpy() - LOSS[f"{case}_grad"]).max() <= 1e-10
    assert np.abs(found.numpy() - LOSS[f"{case}_weight"]).max() <= 1e-10


def test_attack_and_count_equal_the_released_ones():
    """From the clean image; counted before each step, so a point that turns correct again counts
    again.
    """
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 24), nn.Tanh(), nn.Linear(24, 5)).double()
    names = ("f1.weight", "f1.bias", "f2.weight", "f2.bias")
    network.load_state_dict(
        {
            key: torch.tensor(ATTACK[f"param_{name}"])
            for key, name in zip(network.state_dict(), names, strict=True)
        }
    )
    x, y = torch.tensor(ATTACK["x"]), torch.tensor(ATTACK["y"])

    def cross_entropy(logits):
        return F.cross_entropy(logits, y, reduction="none")

    ball = Ball(x, Threat.parse(f"Linf:{float(ATTACK['eps'])}"))
    attacked = maximise(
        network, ball, x, y, cross_entropy, int(ATTACK["num_steps"]), float(ATTACK["step"])
    )
    assert ((attacked.x - torch.tensor(ATTACK["x_adv"])).abs() < 1e-12).double().mean() >= 0.999
    assert np.array_equal(attacked.info["steps_correct"].numpy(), ATTACK["kappa"])
    assert len(set(ATTACK["kappa"].tolist())) > 2  # else the count says nothing


def test_omega_by_hand():
    """K = 4, h = 2: a = Lambda + 5 (2 - kappa) / 2. Odd K = 5 has the same h. Lambda has no place
    in discrete.
    """
    assert omega(4, [0, 2, 4], shift=-1) == pytest.approx(
        [(1 + math.tanh(a)) / 2 for a in (4, -1, -6)], rel=1e-9
    )
    assert omega(5, [5], shift=0) == pytest.approx([(1 + math.tanh(-7.5)) / 2], rel=1e-9)
    assert omega(4, [0, 3], omega="sigmoid", shift=1) == pytest.approx(
        [1 / (1 + math.exp(-6)), 1 / (1 + math.exp(1.5))]
    )
    assert omega(4, [0, 1, 4], omega="discrete", shift=3) == pytest.approx([1, 4 / 5, 1 / 5])


def test_discrete_loss_by_hand():
    """Kappa 0 and 10 of 10 steps: omega 1 and 1/11, weights 11/6 and 1/6, cross-entropies log 2."""
    terms = terms_of(
        torch.zeros(2, 2, dtype=torch.float64), torch.tensor([0, 1]), [0, 10], omega="discrete"
    )
    assert terms["ce"].value.tolist() == pytest.approx(
        [11 / 6 * math.log(2), math.log(2) / 6], rel=1e-12
    )


@pytest.mark.parametrize("function", ["tanh", "sigmoid"])
def test_an_infinite_shift_weights_all_samples_by_1(function):
    assert omega(10, [0, 5, 10], omega=function, shift=math.inf) == [1, 1, 1]
    logits, y = (
        torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
        torch.arange(3),
    )
    terms = terms_of(logits, y, [0, 5, 10], omega=function, shift=math.inf)
    assert torch.equal(terms["ce"].value, F.cross_entropy(logits, y, reduction="none"))


@pytest.mark.parametrize("function", ["tanh", "sigmoid", "discrete"])
@pytest.mark.parametrize("kappa", [[10, 10, 10], [0, 0, 0], [0, 5, 10]])
def test_weights_have_the_mean_1_even_where_nothing_breaks_or_everything(function, kappa):
    logits = torch.zeros(3, 4)
    value = terms_of(logits, torch.arange(3), kappa, omega=function, shift=-10)["ce"].value
    assert value.mean().item() == pytest.approx(math.log(4), rel=1e-6)
    assert value[0] >= value[1] >= value[2]


def test_all_weights_are_1_in_the_first_59_epochs():
    logits, y = (
        torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
        torch.arange(3),
    )
    plain = F.cross_entropy(logits, y, reduction="none")
    for epoch, same in ((0, True), (58, True), (59, False)):
        assert torch.equal(terms_of(logits, y, [0, 5, 10], epoch=epoch)["ce"].value, plain) is same
    assert not torch.equal(terms_of(logits, y, [0, 5, 10], epoch=0, burn_in=0)["ce"].value, plain)


def test_all_weights_are_1_in_a_share_of_the_training():
    logits, y = torch.eye(3, 4, dtype=torch.float64), torch.arange(3)
    plain = F.cross_entropy(logits, y, reduction="none")
    for progress, same in ((0.0, True), (0.59, True), (0.6, False)):
        terms = terms_of(logits, y, [0, 5, 10], epoch=3, progress=progress, begin_at=0.6)
        assert torch.equal(terms["ce"].value, plain) is same


def test_only_terms_that_allow_it_are_weighted():
    """With TRADES the KL is, and the clean cross-entropy is not; weights and marks stay."""
    logits, y = (
        torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
        torch.arange(3),
    )
    plain, terms = (terms_of(logits, y, [0, 5, 10], "trades", epoch=epoch) for epoch in (0, AFTER))
    assert torch.equal(terms["ce"].value, plain["ce"].value)
    argument = [2 * (-1 + 5 * (5 - kappa) / 5) for kappa in (0, 5, 10)]
    raw = torch.tensor(argument, dtype=torch.float64).sigmoid()
    assert torch.allclose(terms["kl"].value, plain["kl"].value * raw / raw.mean(), rtol=1e-12)
    assert (terms["kl"].weight, terms["kl"].reweight) == (6, True)


def test_an_attacker_without_a_count_is_named_in_the_first_step():
    """During the burn-in already."""
    with pytest.raises(UsageError, match="does not report") as caught:
        terms_of(torch.zeros(3, 4), torch.arange(3), None, epoch=0)
    assert len(str(caught.value).splitlines()) <= 4
    with pytest.raises(UsageError, match="does not report"):
        make_step(plain_network(), "gairat", use={"attacker": "none"})(tiny_batch(4, 10), 0, 0, 0.0)


def test_a_loss_without_a_term_to_weight_is_a_conflict():
    fixed = plugin(
        "fixed", loss=lambda run: lambda ctx: {"norm": Term(ctx.logits_adv.square().sum(1))}
    )
    with pytest.raises(PluginConflict, match="nothing to weight"):
        terms_of(torch.zeros(3, 4), torch.arange(3), [0, 5, 10], fixed, epoch=0)


def test_one_attack_step_is_too_few_for_half_of_them():
    net, attack = Net(plain_network()), AttackConfig(steps=1)
    with pytest.raises(UsageError, match="half the number of attack steps"):
        plan_of("gairat", net=net, num_classes=10, attack=attack)
    assert plan_of("gairat", net=net, num_classes=10, attack=attack, options={"omega": "discrete"})


@pytest.mark.parametrize("names", [("gairat",), ("gairat", "trades"), ("gairat", "mail")])
def test_micro_batches_make_the_update_of_the_whole_batch(names):
    """Over the end of the burn-in as well, where the weights begin to couple the samples."""
    found = []
    mail = {"mail": {"burn_in": 2, "normalization": "mean"}} if "mail" in names else {}
    for burn_in, accumulate in ((1, 1), (1, 3), (9, 1)):
        module = plain_network()
        options = {"gairat": {"burn_in": burn_in}, **mail}
        step = make_step(
            module, *names, options=options, accumulate=accumulate, attack=AttackConfig(steps=4)
        )
        for number in range(4):
            step(tiny_batch(8, 10), number, number, 0.0)
        found.append(weights(module))
    assert torch.allclose(found[0], found[1], rtol=0, atol=1e-12)
    assert not torch.allclose(
        found[0], found[2], rtol=0, atol=1e-6
    )  # the weights were not all alike
