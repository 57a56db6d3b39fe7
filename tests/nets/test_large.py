"""What large nets are trained with: mixed labels, ramps, rules of weight decay, views of files,
gradient checkpointing.
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import abatis
from abatis.api.batch import Batch
from abatis.api.context import StepContext
from abatis.api.randomness import Randomness, seeded
from abatis.config.option_groups import AttackConfig, OptimConfig
from abatis.data.info import DataInfo, View
from abatis.data.policy import PolicyView
from abatis.data.statistics import IMAGENET_MEAN, IMAGENET_STD
from abatis.errors import Stopped, UsageError
from abatis.nets.backbones import Normalized, build, switch_checkpointing, view_of
from abatis.nets.net import Net
from abatis.system.timm_import import timm
from abatis.testing import THREAT, plan_of, step_of, total
from abatis.train.optimizer import make_optimizer, schedule_rate, set_rate
from tests.helpers import final_bytes, our_plugins, tiny

NETS = {"cnn": "test_resnet", "convnext": "test_convnext", "vit": "test_vit"}
SWIN = {
    "img_size": 32,
    "patch_size": 2,
    "window_size": 4,
    "embed_dim": 12,
    "depths": (1, 2),
    "num_heads": (2, 2),
}


def net_of(name, *, classes=4, size=32, **options):
    torch.manual_seed(0)
    made = build(
        name, num_classes=classes, channels=3, image_size=size, mean=[0.5] * 3, std=[0.25] * 3
    )
    return Net(made, **options)


def batch_of(count, classes=4, size=32):
    draw = torch.Generator().manual_seed(count)
    x = torch.rand(count, 3, size, size, generator=draw)
    return Batch(x, torch.arange(count) % classes, torch.arange(count))


# --- every method on every kind of net


def small_net(kind):
    if kind != "swin":
        return net_of(NETS[kind])
    torch.manual_seed(0)
    swin = timm.create_model("swin_tiny_patch4_window7_224", num_classes=4, **SWIN)
    return Net(Normalized(swin, [0.5] * 3, [0.25] * 3))


@pytest.mark.parametrize("kind", [*NETS, "swin"])
@pytest.mark.parametrize("method", ["at", *our_plugins()])
def test_every_plugin_makes_a_step_on_every_kind_of_net(method, kind):
    net, random = small_net(kind), Randomness(0)
    names = [] if method == "at" else [method]
    plan = plan_of(*names, net=net, num_classes=4, attack=AttackConfig(steps=2), random=random)
    before = [weight.detach().clone() for weight in net.module.parameters()]
    optimizer = make_optimizer(OptimConfig(name="adamw", lr=1e-3), net.list_modules())
    step = step_of(net, plan, optimizer, THREAT, random)
    with seeded(0, "one step"):
        result = step(batch_of(4), 0, 100, 0.5)
    assert result.total.isfinite()
    assert any(
        not torch.equal(old, new) for old, new in zip(before, net.module.parameters(), strict=True)
    )


def test_a_penalty_on_input_gradients_differentiates_attention_twice():
    """The gradient of a penalty of a transformer, along a random direction, against central
    differences in float64.
    """
    net, batch = net_of("test_vit"), batch_of(2)
    net.module.double()
    batch = replace(batch, x=batch.x.double())
    plan = plan_of("input-gradient", net=net, num_classes=4, options={"weight": 1})

    def penalty():
        return total(plan.penalties(StepContext(batch, batch.x, {}, net, 0, 0, 0.0, 2)))

    weights = [weight for weight in net.module.parameters() if weight.requires_grad]
    gradients = torch.autograd.grad(penalty(), weights, allow_unused=True, materialize_grads=True)
    draw = torch.Generator().manual_seed(1)
    directions = [
        torch.randn(weight.shape, generator=draw, dtype=torch.float64) for weight in weights
    ]
    sides = []
    with torch.no_grad():
        for length in (1e-6, -2e-6):
            for weight, direction in zip(weights, directions, strict=True):
                weight.add_(length * direction)
            with torch.enable_grad():
                sides.append(penalty().item())
    exact = sum(
        (gradient * direction).sum()
        for gradient, direction in zip(gradients, directions, strict=True)
    ).item()
    assert exact == pytest.approx((sides[0] - sides[1]) / 2e-6, rel=1e-4)


# --- ramps and rules


def test_the_steps_of_the_attack_grow_and_stay(tmp_path):
    random = Randomness(0)
    lengths = []
    for step in (0, 4, 9, 10, 99):
        random.at(step)
        run = abatis.Run(
            None, 2, 10, 10, THREAT, None, AttackConfig(ramp=0.1), random, {}, train_size=8
        )
        lengths.append(run.step_size / (THREAT.eps / 4))
    assert lengths == pytest.approx([1 / 11, 5 / 11, 10 / 11, 1, 1])


def test_a_start_at_the_image_itself():
    net, batch = net_of("test_resnet"), batch_of(2)
    plan = plan_of(net=net, num_classes=4, attack=AttackConfig(steps=0, start="none"))
    found = plan.attacker(net, batch).x
    assert torch.equal(found, batch.x)
    assert found is not batch.x  # that would mean clean training


def test_warm_up_and_last_rate():
    config = OptimConfig(schedule="cosine", warmup=0.1, final=0.02)
    rates = [schedule_rate(config, step, 100) for step in (0, 9, 10, 55, 100)]
    assert rates == pytest.approx([1 / 11, 10 / 11, 1, 0.51, 0.02])
    assert schedule_rate(OptimConfig(warmup=0.1), 60, 100) == pytest.approx(
        0.1
    )  # drops stay where they are


def names_in_groups(optimizer, module):
    names = {id(weight): name for name, weight in module.named_parameters()}
    return [
        ({names[id(weight)] for weight in group["params"]}, group)
        for group in optimizer.param_groups
    ]


def test_norms_biases_and_position_embeddings_are_not_decayed():
    module = net_of("test_vit").module
    groups = names_in_groups(
        make_optimizer(OptimConfig(name="adamw", decay_all=False, weight_decay=0.05), module),
        module,
    )
    decay = {name: group["weight_decay"] for names, group in groups for name in names}
    assert decay.keys() == dict(module.named_parameters()).keys()
    plain = {name for name, weight in module.named_parameters() if weight.ndim < 2}
    assert {name for name, value in decay.items() if value == 0} == plain | {
        "backbone.pos_embed",
        "backbone.cls_token",
    }
    assert set(decay.values()) == {0, 0.05}


def test_rates_fall_from_layer_to_layer():
    module = net_of("test_vit").module
    config = OptimConfig(name="adamw", decay_all=False, layer_decay=0.5)
    optimizer = make_optimizer(config, module)
    set_rate(optimizer, 0.1)
    rate = {
        name: group["lr"] for names, group in names_in_groups(optimizer, module) for name in names
    }
    assert rate["backbone.head.weight"] == pytest.approx(0.1)
    assert rate["backbone.blocks.1.mlp.fc1.weight"] == pytest.approx(
        2 * rate["backbone.blocks.0.mlp.fc1.weight"]
    )
    assert rate["backbone.patch_embed.proj.weight"] < rate["backbone.blocks.0.mlp.fc1.weight"]


def test_layers_that_are_unknown_and_rules_that_contradict_are_refused():
    config = OptimConfig(decay_all=False, layer_decay=0.5)
    with pytest.raises(UsageError, match="does not say what its layers are"):
        make_optimizer(config, torch.nn.Linear(2, 2))
    with pytest.raises(UsageError, match=r"--no-optim\.decay-all"):
        OptimConfig(layer_decay=0.5)


# --- image files


@pytest.mark.parametrize(
    ("name", "view"),
    [
        ("vit_base_patch16_384", View(384, "bicubic", 1.0)),
        ("convnext_tiny", View(224, "bicubic", 0.95)),
        ("resnet18.tv_in1k", View(224, "bilinear", 0.875)),
        ("cnn", View()),
        ("wrn34", View()),
        ("my.py:net", View()),
        ("python:Net", View()),
    ],
)
def test_size_interpolation_and_crop_are_those_of_the_net_s_configuration(name, view):
    assert view_of(name) == view


def policy_view(augment="crop-flip", **view):
    info = DataInfo("folder:x", 2, 3, 48, IMAGENET_MEAN, IMAGENET_STD, augment)
    return PolicyView(info, View(interpolation="bicubic", **view))


@pytest.fixture
def photograph():
    ramp = np.add.outer(np.arange(60), np.arange(80)).astype(np.uint8)
    return Image.fromarray(np.stack([ramp, ramp[::-1], 255 - ramp], 2))


def test_a_policy_is_a_function_of_the_global_generators(photograph):
    views = []
    for step in (1, 1, 2):
        with seeded(0, "augment/5", step):
            views.append(policy_view(auto_augment="rand-m9-mstd0.5-inc1")(photograph))
    assert views[0].shape == (3, 48, 48)
    assert views[0].dtype == torch.uint8
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])


def test_erasing_leaves_all_other_pixels(photograph):
    found = []
    for share in (0.0, 1.0):
        with seeded(0, "augment/0", 0):
            found.append(policy_view(erasing=share, auto_augment="")(photograph))
    changed = (found[0] != found[1]).any(0)
    rows, columns = changed.nonzero().unbind(1)
    height, width = (int(side.max() - side.min()) + 1 for side in (rows, columns))
    assert 0.01 < changed.float().mean() < 0.4
    assert (
        changed.sum() > 0.9 * height * width
    )  # one rectangle; a few pixels of noise may be as they were


def test_a_policy_that_timm_does_not_know_is_refused():
    with pytest.raises(UsageError, match="--auto-augment rant-m9: timm has no such policy"):
        policy_view(auto_augment="rant-m9")
    with pytest.raises(UsageError, match="random crop"):
        policy_view("none", erasing=0.5)


def test_data_without_files_have_no_policy(tmp_path):
    with pytest.raises(UsageError, match="apply to image files, and the data are digits"):
        abatis.run(tiny(tmp_path, auto_augment="rand-m9"))


# --- gradient checkpointing


def checkpointed_net(name, on):
    torch.manual_seed(0)
    made = build(name, num_classes=4, channels=3, image_size=32, mean=[0.5] * 3, std=[0.25] * 3)
    return Net(made, checkpointing=(lambda now: switch_checkpointing(made, now)) if on else None)


@pytest.mark.parametrize("name", ["test_vit", "test_convnext"])
@pytest.mark.parametrize("plugin_name", ["emr", "trades", "awp"])
def test_activations_that_are_computed_again_give_the_same_update(name, plugin_name):
    found = []
    for on in (False, True):
        net, random = checkpointed_net(name, on), Randomness(0)
        plan = plan_of(
            plugin_name, net=net, num_classes=4, attack=AttackConfig(steps=2), random=random
        )
        step = step_of(net, plan, torch.optim.SGD(net.module.parameters(), lr=0.1), THREAT, random)
        with seeded(0, "one step"):
            step(batch_of(4), 0, 0, 0.0)
        found.append(torch.cat([weight.detach().flatten() for weight in net.module.parameters()]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)


def test_activations_are_really_dropped():
    """The tensors that the graph keeps: fewer with the switch on, and as many as ever in a frozen
    forward.
    """

    def kept(net, forward):
        count = 0

        def pack(tensor):
            nonlocal count
            count += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            forward(net, batch_of(2).x)
        return count

    plain, again = checkpointed_net("test_vit", False), checkpointed_net("test_vit", True)
    assert kept(again, Net.__call__) < 0.5 * kept(plain, Net.__call__)
    assert kept(again, Net.frozen) == kept(plain, Net.frozen)
    assert again.module.backbone.grad_checkpointing


@pytest.mark.parametrize(
    ("name", "words"), [("resnet18", "batch norms"), ("test_resnet", "batch norms")]
)
def test_batch_norms_are_refused(name, words):
    with pytest.raises(UsageError, match=words):
        checkpointed_net(name, True)


def test_a_net_without_the_switch_is_refused():
    with pytest.raises(UsageError, match="is not supported by Linear"):
        switch_checkpointing(torch.nn.Linear(2, 2), True)


# --- whole runs

LARGE = {
    "mix": {"mixup": 0.8, "cutmix": 1.0, "smoothing": 0.1},
    "optim": {"name": "adamw", "lr": 1e-3, "decay_all": False, "schedule": "cosine", "warmup": 0.2},
    "attack": {"steps": 2, "start": "none", "ramp": 0.5},
    "ema": 0.9998,
    "use": {"attacker": "apgd"},
}


def test_a_run_with_all_of_it_resumes_bit_for_bit(tmp_path, monkeypatch):
    whole = abatis.run(tiny(tmp_path, name="whole", **LARGE)).folder
    part = tiny(tmp_path, name="part", **LARGE)
    calls = iter(range(99))
    monkeypatch.setattr("abatis.system.distributed.any_says", lambda flag: next(calls) == 4)
    with pytest.raises(Stopped):
        abatis.run(part)
    monkeypatch.undo()
    assert final_bytes(abatis.run(part.model_copy(update={"resume": True})).folder) == final_bytes(
        whole
    )
    rows = json.loads((whole / "plan.json").read_text())
    (attacker,) = [row for row in rows if row["role"] == "attacker"]
    assert attacker["options"]["step_size"] == "its own"
    assert [
        (row["role"], row["provider"]) for row in rows if row["provider"] in ("mixing", "apgd")
    ] == [
        ("attacker", "apgd"),
        ("trainer", "mixing"),
    ]
