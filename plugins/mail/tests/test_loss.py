"""MAIL against the authors' code with three base losses, numbers by hand, burn-in and
normalisation.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.golden import check_attack, check_network
from tests.helpers import plugin
from tests.train.test_step import make_step, plain_network, weights

from abatis import PluginConflict, Term
from abatis.testing import loss_terms, tiny_batch, total
from abatis_mail import MailConfig

AFTER = 76  # the first epoch, counted from 0, that the released code weights
BASES = {
    "mail_at": ({"slope": 10, "bias": -0.5}, None, "ce"),
    "mail_trades": ({"slope": 2, "bias": 0}, "trades", "kl"),
    "mail_mart": ({"slope": 2, "bias": 0}, "mart", "bce"),
}
GOLDEN = {name: np.load(Path(__file__).with_name(f"{name}.npz")) for name in BASES}
CASES = [(name, case) for name, arrays in GOLDEN.items() for case in range(len(arrays["loss"]))]


def terms_of(clean, adversarial, y, *base, epoch=AFTER, progress=0.0, tables=None, **options):
    return loss_terms(
        "mail",
        *base,
        logits_clean=clean,
        logits_adv=adversarial,
        y=y,
        options={"mail": options, **(tables or {})},
        epoch=epoch,
        progress=progress,
    )


def released(name, clean, adversarial, y):
    options, base, weighted = BASES[name]
    tables = {base: {"beta": 5}} if base else None
    return terms_of(
        clean, adversarial, y, *([base] if base else []), tables=tables, **options
    ), weighted


def random_logits(*shape, seed=0):
    return (
        torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        .mul(3)
        .requires_grad_()
    )


@pytest.mark.parametrize(("name", "case"), CASES)
def test_equals_the_released_code(name, case):
    """MAIL-AT, MAIL-TRADES and MAIL-MART. Of MAIL-AT the clean logits get no gradient at all."""
    arrays = GOLDEN[name]
    clean, adversarial = (
        torch.tensor(arrays[key][case], requires_grad=True) for key in ("logits_nat", "logits_adv")
    )
    terms, _ = released(name, clean, adversarial, torch.tensor(arrays["labels"][case]))
    to_clean, to_adversarial = torch.autograd.grad(
        total(terms), (clean, adversarial), allow_unused=True
    )
    assert total(terms).item() == pytest.approx(arrays["loss"][case], rel=1e-10)
    assert np.abs(to_adversarial.numpy() - arrays["grad_logits_adv"][case]).max() <= 1e-10
    assert (to_clean is not None) == bool(arrays["nat_has_grad"])
    if to_clean is not None:
        assert np.abs(to_clean.numpy() - arrays["grad_logits_nat"][case]).max() <= 1e-10


@pytest.mark.parametrize(("name", "case"), CASES)
def test_weights_equal_the_released_ones(name, case):
    """Weighted over plain value of the one term that may be weighted; every other term is the plain
    one.
    """
    arrays = GOLDEN[name]
    clean, adversarial, y = (
        torch.tensor(arrays[key][case]) for key in ("logits_nat", "logits_adv", "labels")
    )
    terms, weighted = released(name, clean, adversarial, y)
    options, base, _ = BASES[name]
    plain = terms_of(clean, adversarial, y, *([base] if base else []), epoch=0, **options)
    expected = plain[weighted].value.numpy() * arrays["mid_norm_weight"][case]
    assert np.abs(terms[weighted].value.numpy() - expected).max() <= 1e-10 * max(
        1, np.abs(expected).max()
    )
    for key in plain.keys() - {weighted}:
        assert torch.equal(terms[key].value, plain[key].value)


@pytest.mark.parametrize(("name", "case"), CASES)
def test_float32_stays_close_to_the_released_code(name, case):
    arrays = GOLDEN[name]
    clean, adversarial = (
        torch.tensor(arrays[key][case], dtype=torch.float32) for key in ("logits_nat", "logits_adv")
    )
    terms, _ = released(name, clean, adversarial, torch.tensor(arrays["labels"][case]))
    assert total(terms).item() == pytest.approx(arrays["loss_f32"][case], rel=2e-5)


@pytest.mark.parametrize(
    ("margin", "value"), [("adv", 0.1 - 0.7), ("nat", 0.5 - 0.3), ("dif", 0.5 - 0.1)]
)
def test_three_margins_by_hand(margin, value):
    """Three classes, clean p = (0.5, 0.3, 0.2), adversarial p' = (0.1, 0.2, 0.7), label 0."""
    clean, adversarial = (
        torch.tensor([p], dtype=torch.float64).log() for p in ((0.5, 0.3, 0.2), (0.1, 0.2, 0.7))
    )
    terms = terms_of(clean, adversarial, torch.tensor([0]), margin=margin, slope=4, bias=0.25)
    weight = 3 / (1 + math.exp(4 * (value - 0.25)))
    assert terms["ce"].value.item() == pytest.approx(weight * math.log(10), rel=1e-12)
    assert MailConfig(margin=margin).needs_clean == (margin != "adv")


@pytest.mark.parametrize("num_classes", [2, 3, 1000])
def test_any_number_of_classes(num_classes):
    """Equal logits have the margin 0; with the label one logit ahead it is (e - 1) / (e + K -
    1).
    """
    logits = torch.zeros(2, num_classes, dtype=torch.float64)
    logits[1, 1] = 1
    terms = terms_of(logits, logits, torch.tensor([0, 1]), slope=1, bias=0)
    margin = (math.e - 1) / (math.e + num_classes - 1)
    expected = [
        1.5 * math.log(num_classes),
        3 / (1 + math.exp(margin)) * (math.log(math.e + num_classes - 1) - 1),
    ]
    assert terms["ce"].value.tolist() == pytest.approx(expected, rel=1e-12)


def test_the_weights_are_constants_of_the_gradient():
    adversarial, y = random_logits(6, 10), torch.arange(6)
    terms = terms_of(
        random_logits(6, 10, seed=1), adversarial, y, normalization="mean", margin="dif"
    )
    plain = F.cross_entropy(adversarial, y, reduction="none")
    constants = (terms["ce"].value / plain).detach()
    (gradient,) = torch.autograd.grad(terms["ce"].value.sum(), adversarial, retain_graph=True)
    (expected,) = torch.autograd.grad((constants * plain).sum(), adversarial)
    assert torch.allclose(gradient, expected, rtol=0, atol=1e-13)


def test_mean_normalisation_spends_the_full_budget():
    """Weights of mean 1 in the proportions of the released ones."""
    clean, adversarial, y = random_logits(6, 10), random_logits(6, 10, seed=1), torch.arange(6)
    found = {}
    for normalization in ("mean", "constant"):
        value = terms_of(clean, adversarial, y, normalization=normalization)["ce"].value
        found[normalization] = value / F.cross_entropy(adversarial, y, reduction="none")
    assert found["mean"].mean().item() == pytest.approx(1, rel=1e-12)
    assert torch.allclose(found["mean"], found["constant"] / found["constant"].mean(), rtol=1e-12)


@pytest.mark.parametrize("normalization", ["mean", "constant"])
@pytest.mark.parametrize("slope", [0, 10, 1000])
def test_finite_in_float32_for_any_slope_and_logits(normalization, slope):
    """Even where every weight by itself underflows to 0."""
    logits = torch.zeros(4, 10)
    logits[:, 0] = torch.tensor([1e4, 20.0, 10.0, 1.0])
    logits.requires_grad_()
    value = total(
        terms_of(
            logits,
            logits,
            torch.zeros(4, dtype=torch.int64),
            slope=slope,
            normalization=normalization,
        )
    )
    assert value.isfinite()
    assert torch.autograd.grad(value, logits)[0].isfinite().all()


@pytest.mark.parametrize("normalization", ["mean", "constant"])
def test_all_weights_are_1_in_the_first_76_epochs(normalization):
    clean, adversarial, y = random_logits(6, 10), random_logits(6, 10, seed=1), torch.arange(6)
    plain = loss_terms("trades", logits_clean=clean, logits_adv=adversarial, y=y)
    for epoch, same in ((0, True), (75, True), (76, False)):
        terms = terms_of(clean, adversarial, y, "trades", epoch=epoch, normalization=normalization)
        assert torch.equal(terms["kl"].value, plain["kl"].value) is same
    assert not torch.equal(
        terms_of(clean, adversarial, y, "trades", epoch=0, burn_in=0)["kl"].value, plain["kl"].value
    )  # none is none


def test_all_weights_are_1_in_a_share_of_the_training():
    """Whatever the epoch and the burn-in are."""
    clean, adversarial, y = random_logits(6, 10), random_logits(6, 10, seed=1), torch.arange(6)
    plain = loss_terms("trades", logits_clean=clean, logits_adv=adversarial, y=y)
    for progress, same in ((0.0, True), (0.59, True), (0.6, False), (0.99, False)):
        terms = terms_of(clean, adversarial, y, "trades", epoch=3, progress=progress, begin_at=0.6)
        assert torch.equal(terms["kl"].value, plain["kl"].value) is same


def test_weights_and_marks_of_the_terms_stay():
    terms = terms_of(
        random_logits(4, 10),
        random_logits(4, 10, seed=1),
        torch.arange(4),
        "trades",
        tables={"trades": {"beta": 7}},
    )
    assert (terms["kl"].weight, terms["kl"].reweight) == (7, True)
    assert (terms["ce"].weight, terms["ce"].reweight) == (1, False)


def test_a_loss_without_a_term_to_weight_is_a_conflict():
    """From the first step on, not when the burn-in ends."""
    fixed = plugin(
        "fixed", loss=lambda run: lambda ctx: {"norm": Term(ctx.logits_adv.square().sum(1))}
    )
    logits = random_logits(4, 10)
    with pytest.raises(PluginConflict, match="nothing to weight") as caught:
        loss_terms("mail", fixed, logits_clean=logits, logits_adv=logits, y=torch.arange(4))
    assert len(str(caught.value).splitlines()) <= 4


@pytest.mark.parametrize("kind", ["fixed", "attack"])
def test_mail_at_on_a_network_with_batch_norm(kind):
    """There is no clean forward, or the running statistics would differ."""
    check_network("mail_at_model", kind, "mail", epoch=AFTER)


def test_the_attack_of_mail_at_equals_the_released_one():
    check_attack("mail_at_model")


@pytest.mark.parametrize(
    "names", [("mail",), ("mail", "trades"), ("mail", "mart"), ("emr", "mail")]
)
@pytest.mark.parametrize("normalization", ["mean", "constant"])
def test_micro_batches_make_the_update_of_the_whole_batch(names, normalization):
    """Over the end of the burn-in as well, where the weights begin to couple the samples."""
    found = []
    options = {
        "mail": {
            "normalization": normalization,
            "burn_in": 1,
            "margin": "dif",
            "slope": 3,
            "bias": 0,
        }
    }
    for accumulate in (1, 3):
        module = plain_network()
        step = make_step(module, *names, options=options, accumulate=accumulate)
        for number in range(3):
            step(tiny_batch(8, 10), number, number, 0.0)
        found.append(weights(module))
    assert torch.allclose(*found, rtol=0, atol=1e-12)
