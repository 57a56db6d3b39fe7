"""Features beside logits: what the layer gets that makes the logits, of the same forward pass."""

from __future__ import annotations

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from abatis import Net, PluginConfig, StepContext, Term, UsageError, run
from abatis.nets.backbones import build
from abatis.system.timm_import import timm
from abatis.testing import loss_terms, plan_of, tiny_batch, tiny_network, tiny_vit
from tests.helpers import cut_last_epoch, final_bytes, plugin, tiny


class Reads(PluginConfig):
    @property
    def needs_features(self):
        return True


def pulls_features(name="pulls"):
    """CE, and the distance of the features at the attack from the clean ones of a frozen copy."""

    def loss(run):
        start = run.auxiliary("start", copy.deepcopy(run.net.module), train=False)

        def terms(ctx):
            with torch.no_grad():
                target = start.features(ctx.batch.x)
            gap = (ctx.features_adv - target).square().sum(1)
            entropy = F.cross_entropy(ctx.logits_clean, ctx.batch.y, reduction="none")
            return {"gap": Term(gap, 0.5), "ce": Term(entropy)}

        return terms

    return plugin(name, config=lambda: Reads, loss=loss)


@pytest.mark.parametrize("name", ["cnn", "resnet8"])
def test_our_backbones_have_the_features_of_their_last_layer(name):
    net = Net(build(name, num_classes=10, channels=3, image_size=32, mean=(0,) * 3, std=(1,) * 3))
    x = torch.rand(3, 3, 32, 32)
    with net.frozen_mode():
        logits, features = net.with_features(x)
        head = net.find_head(x)
        assert torch.equal(head(features), logits)
        assert torch.equal(net(x), logits)
        assert torch.equal(net.features(x), features)
    assert features.shape == (3, head.in_features)


@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224", "convnext_atto"])
def test_those_of_timm_are_its_own(name):
    size = {"img_size": 32} if "vit" in name else {}
    module = timm.create_model(name, num_classes=7, **size)
    net, x = Net(module), torch.rand(2, 3, 32, 32)
    with net.frozen_mode(), torch.no_grad():
        expected = module.forward_head(module.forward_features(x), pre_logits=True)
        assert torch.allclose(net.features(x), expected, atol=1e-6)
        assert net.find_head(x) is module.get_classifier()


class Scaled(nn.Module):
    """Zero-shot logits: a constant head of its own, without an nn.Linear."""

    def __init__(self):
        super().__init__()
        self.register_buffer("text", torch.eye(4, 3))

    def forward(self, features):
        return 100 * F.normalize(features, dim=1) @ self.text


def test_any_head_counts_that_gets_a_row_for_each_image():
    inside = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 4), Scaled())
    net, x = Net(nn.Sequential(inside, nn.Dropout(0.5))), torch.rand(5, 3, 4, 4)
    assert torch.equal(net.features(x), inside[2](inside[1](inside[0](x))))
    assert net.find_head(x) is inside[3]


class Bare(nn.Module):
    """Logits that no layer of its own makes."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(12, 10)

    def forward(self, x):
        return 2 * self.fc(F.adaptive_avg_pool2d(x, 2).flatten(1))


class Twice(Bare):
    def forward(self, x):
        pooled = F.adaptive_avg_pool2d(x, 2).flatten(1)
        self.fc(pooled.flip(1))
        return self.fc(pooled)


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (Bare(), "Bare has no features"),
        (Twice(), "calls its last layer more than once"),
        (nn.Sequential(nn.Conv2d(3, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()), "no features"),
        (nn.Sequential(Bare(), nn.LogSoftmax(1)), "no features"),
    ],
)
def test_a_network_without_such_a_layer_is_refused(module, words):
    with pytest.raises(UsageError, match=words):
        Net(module).features(torch.rand(2, 3, 4, 4))


def test_logits_and_features_are_of_one_forward_pass():
    net, batch = Net(tiny_network(10)), tiny_batch(4, 10)
    plan = plan_of(pulls_features(), net=net, num_classes=10)
    assert plan.features_for == ("pulls",)
    step_context = make_context(net, batch, plan)
    plan.terms(step_context)
    assert int(net.module[1].num_batches_tracked) == 2  # clean and adversarial, once each
    assert torch.equal(net.module[4](step_context.features_adv), step_context.logits_adv)
    same = make_context(net, batch, plan, attacked=False)
    assert same.features_adv is same.features_clean


def make_context(net, batch, plan, attacked=True):
    x_adv = (batch.x + 0.01).clamp(0, 1) if attacked else batch.x
    return StepContext(batch, x_adv, {}, net, 0, 0, 0.0, 4, keeps_features=bool(plan.features_for))


def test_in_an_attack_they_use_running_statistics_and_reach_the_input_only():
    net, x = Net(tiny_network(10)), tiny_batch(4, 10).x.requires_grad_()
    before = net.module[1].running_mean.clone()
    with net.attack_mode():
        (gradient,) = torch.autograd.grad(net.features(x).square().sum(), x)
    assert bool(gradient.abs().sum() > 0)
    assert torch.equal(net.module[1].running_mean, before)
    assert all(weight.requires_grad and weight.grad is None for weight in net.module.parameters())
    with net.frozen_mode():
        assert torch.equal(net.features(x), net.module[:4](x))


def test_half_precision_is_widened():
    net = Net(tiny_vit(10).float(), precision="bf16")
    logits, features = net.with_features(tiny_batch(2, 10).x.float())
    assert (logits.dtype, features.dtype) == (torch.float32, torch.float32)


def test_an_attack_in_bf16_has_features_of_folded_weights():
    sizes = {"channels": 1, "image_size": 8, "mean": (0,), "std": (1,)}
    net = Net(build("resnet8", num_classes=10, **sizes), attack_precision="bf16")
    x = torch.rand(2, 1, 8, 8)
    assert net.tune(x)["norms folded"] != "0 of 9"
    with net.attack_mode(), torch.no_grad():
        features = net.features(x)
    with net.frozen_mode(), torch.no_grad():
        exact = net.features(x)
    assert torch.allclose(features, exact, rtol=0, atol=0.02 * float(exact.abs().max()))
    assert not torch.equal(features, exact)


def test_a_killed_run_goes_on_to_the_bit(install, tmp_path):
    install(pulls_features())
    config = {"plugin": ["pulls"], "accumulate": 2}
    whole = run(tiny(tmp_path, name="whole", **config)).folder
    resumed = cut_last_epoch(whole)
    run(tiny(tmp_path, name="resumed", resume=True, **config))
    assert final_bytes(resumed) == final_bytes(whole)


def test_the_plan_and_the_trace_show_the_layer(install, tmp_path, capsys):
    install(pulls_features())
    folder = run(tiny(tmp_path, name="run", plugin=["pulls"], epochs=1)).folder
    rows = json.loads((folder / "plan.json").read_text())
    (row,) = [row for row in rows if row["role"] == "features"]
    assert row["options"] == {"read by": "pulls"}
    run(tiny(tmp_path, plugin=["pulls"], dry_run=True, trace=True, quiet=False))
    assert f"trace: features are the input of layer {row['provider']}" in capsys.readouterr().out


def test_what_does_not_go_with_it_says_the_way_out(install, tmp_path):
    install(gap_alone())
    with pytest.raises(UsageError, match="--compile step: a compiled forward pass keeps no feat"):
        run(tiny(tmp_path, plugin=["gap"], compile="step"))
    with pytest.raises(UsageError, match="--shard root is not supported with the features"):
        run(tiny(tmp_path, plugin=["gap"], shard="root", dry_run=True))
    with pytest.raises(UsageError, match="gap reads features, and Grey has none"):
        run(tiny(tmp_path, plugin=["gap"], dry_run=True), model=Grey())


class Grey(Bare):
    def forward(self, x):
        return super().forward(x.expand(-1, 3, -1, -1))


def gap_alone():
    """The squared distance of the features."""

    def loss(run):
        return lambda ctx: {"gap": Term((ctx.features_adv - ctx.features_clean).square().sum(1))}

    return plugin("gap", config=lambda: Reads, loss=loss)


def test_losses_are_tested_with_given_features():
    """(3, 4) from 0: 25."""
    terms = loss_terms(
        gap_alone(),
        logits_clean=torch.zeros(1, 2),
        logits_adv=torch.zeros(1, 2),
        y=torch.tensor([0]),
        features={"clean": torch.zeros(1, 2), "adv": torch.tensor([[3.0, 4.0]])},
    )
    assert terms["gap"].value.tolist() == [25.0]
