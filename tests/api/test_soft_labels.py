"""Mixed and smoothed labels: what makes them, which methods take them, and what reads them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import abatis
from abatis.api.batch import Batch
from abatis.api.context import StepContext
from abatis.api.randomness import Randomness
from abatis.config import discovery
from abatis.config.option_groups import AttackConfig, MixConfig
from abatis.errors import PluginConflict, UsageError
from abatis.nets.net import Net
from abatis.system import distributed
from abatis.testing import THREAT, loss_terms, plan_of
from abatis.train.builtin.mixing import Mixing
from tests.helpers import our_plugins, plugin, tiny
from tests.nets.test_large import batch_of

HARD_ONLY = {"amm", "average-margin", "gairat", "he", "ikl", "mail", "mart", "sovr"}


def mixing_at(step=7, rows=slice(0, 8), size=8, **options):
    random = Randomness(3)
    random.at(step, rows, size)
    run = abatis.Run(
        None,
        4,
        1,
        1,
        THREAT,
        None,
        AttackConfig(),
        random,
        {},
        train_size=8,
        gatherer=lambda values, of: distributed.gather(values, of),
    )
    return Mixing(MixConfig(**options), run)


def mixed(**options):
    return mixing_at(**options).transform_batch(batch_of(8))


def test_mixup_is_a_mixture_of_the_batch_with_its_reverse():
    plain, batch = batch_of(8), mixed(mixup=0.8)
    share = float(batch.y_soft[0, 0])  # of label 0, whose partner has label 3
    assert 0 < share < 1
    torch.testing.assert_close(batch.x, share * plain.x + (1 - share) * plain.x.flip(0))
    pairs = F.one_hot(plain.y, 4) * share + F.one_hot(plain.y.flip(0), 4) * (1 - share)
    torch.testing.assert_close(batch.y_soft, pairs)
    assert torch.equal(batch.y, plain.y if share > 0.5 else plain.y.flip(0))
    assert torch.equal(batch.index, plain.index)


def test_cutmix_takes_every_pixel_from_one_of_two_images():
    plain, batch = batch_of(8), mixed(cutmix=1.0)
    own, other = (batch.x == plain.x).all(1), (batch.x == plain.x.flip(0)).all(1)
    assert bool((own | other).all())
    assert own[0].float().mean().item() == pytest.approx(float(batch.y_soft[0, 0]))


def test_smoothing_alone_leaves_images_and_hard_labels():
    plain, batch = batch_of(8), mixed(smoothing=0.2)
    assert torch.equal(batch.x, plain.x)
    assert torch.equal(batch.y, plain.y)
    assert batch.y_soft[0].tolist() == pytest.approx([0.85, 0.05, 0.05, 0.05])


def test_a_step_draws_its_own_mixture_and_leaves_the_generators():
    state = np.random.get_state()[1].copy()
    first, again = mixed(mixup=1, cutmix=1), mixed(mixup=1, cutmix=1)
    assert np.array_equal(state, np.random.get_state()[1])
    assert torch.equal(first.x, again.x)
    assert not torch.equal(mixed(mixup=1, cutmix=1, step=8).x, first.x)


def test_processes_mix_the_global_batch(monkeypatch):
    """Two shares of a batch, mixed through the exchange, are rows of the mixed whole batch."""
    whole, batch = mixed(mixup=1, cutmix=1, smoothing=0.1), batch_of(8)
    for rows in (slice(0, 5), slice(5, 8)):

        def fetch(values, of, rows=rows):
            return (batch.x if values.dim() == 4 else batch.y).flip(0)[rows]

        monkeypatch.setattr(distributed, "fetch_partners", fetch)
        share = mixing_at(rows=rows, mixup=1, cutmix=1, smoothing=0.1).transform_batch(
            batch.rows(rows)
        )
        for name in ("x", "y", "y_soft", "index"):
            assert torch.equal(getattr(share, name), getattr(whole, name)[rows])


def test_an_odd_batch_cannot_be_paired():
    with pytest.raises(UsageError, match="the batch has 5"):
        mixing_at(size=5, rows=slice(0, 5), mixup=1).transform_batch(batch_of(5))


@pytest.mark.parametrize("name", our_plugins())
def test_every_method_is_defined_for_soft_labels_or_refuses_them(name, tmp_path):
    kept = {"convstem": {"other": "keep"}} if name == "convstem" else {}
    config = tiny(tmp_path, plugin=[name], mix={"mixup": 0.8}, dry_run=True, **kept)
    if name not in HARD_ONLY:
        abatis.run(config)
        return
    with pytest.raises(PluginConflict, match=f"{name} is defined for one label per sample"):
        abatis.run(config)


def test_soft_labels_of_a_plugin_meet_the_same_refusal(install, tmp_path):
    class Smoother(abatis.TrainerHooks):
        def transform_batch(self, batch):
            return replace(batch, y_soft=F.one_hot(batch.y, 10) * 0.9 + 0.01)

    install(plugin("smoother", trainer=lambda run: Smoother()))
    with pytest.raises(PluginConflict, match="mart"):
        abatis.run(tiny(tmp_path, plugin=["smoother", "mart"], epochs=1))


def test_plugins_say_whether_they_take_soft_labels():
    ours = our_plugins()
    soft = {name for name in ours if discovery.load_plugin(name).config_class.soft_labels}
    assert soft == set(ours) - HARD_ONLY


@pytest.mark.parametrize(("names", "term"), [([], "ce"), (["trades"], "ce")])
def test_the_cross_entropy_is_that_of_the_soft_label(names, term):
    logits = torch.tensor([[2.0, 0.0, -1.0]])
    net, soft = Net(torch.nn.Flatten()), torch.tensor([[0.7, 0.3, 0.0]])
    ctx = StepContext(
        Batch(logits, torch.tensor([0]), torch.tensor([0]), soft), logits, {}, net, 0, 0, 0.0, 1
    )
    ctx.__dict__.update(logits_clean=logits, logits_adv=logits)
    plan = plan_of(*names, net=net, num_classes=3)
    by_hand = -(soft * logits.log_softmax(1)).sum(1)
    assert plan.terms(ctx)[term].value.tolist() == pytest.approx(by_hand.tolist())
    hard = loss_terms(*names, logits_clean=logits, logits_adv=logits, y=torch.tensor([0]))
    assert plan.terms(ctx)[term].value.item() != pytest.approx(hard[term].value.item())


@pytest.mark.parametrize("use", ["pgd", "apgd"])
def test_the_attack_ascends_the_cross_entropy_to_the_soft_label(use):
    """The logits are x and -x: towards label 0 the loss falls with x, towards label 1 it rises."""

    def forward(x):
        return torch.stack([x.flatten(1)[:, 0], -x.flatten(1)[:, 0]], 1)

    x = torch.full((2, 1, 1, 1), 0.5)
    soft = torch.tensor([[0.9, 0.1], [0.1, 0.9]])
    batch = Batch(x, torch.tensor([0, 0]), torch.arange(2), soft)
    plan = plan_of(
        net=Net(torch.nn.Flatten()),
        num_classes=2,
        use={"attacker": use},
        threat="Linf:0.1",
        attack=AttackConfig(steps=4, start="none"),
    )
    assert plan.attacker(forward, batch).x.flatten().tolist() == pytest.approx([0.4, 0.6])
