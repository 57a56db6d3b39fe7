"""Released weights of networks that are ours under other names: equal logits, or a refusal."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from abatis.errors import UsageError
from abatis.nets.backbones.cifar_preact import EDM, Design, preact_trunk
from abatis.nets.backbones.cifar_resnet import resnet_trunk
from abatis.nets.backbones.pooled import PooledNet
from abatis.nets.weights import Contents, load_into, start_from
from tests.nets.zoo import released
from tests.nets.zoo.released import WIDTHS, make_state, norm, norm_shapes

IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
SILU_PREACT = {**EDM, "shortcut": "raw-3x3"}
PAIRS = [
    (released.TRADES, {}),
    (released.NARROWER, {}),
    (released.GOWAL, EDM),
    (released.GOWAL_PREACT, SILU_PREACT),
    (released.PREACT, {}),
    (released.PREACT_V1, {"shortcut": "raw", "last_norm": False}),
]
NAMES = ["trades", "narrower", "gowal", "gowal-preact", "preact", "preact-v1"]


def ours(design, classes=5):
    trunk = partial(preact_trunk, 4, WIDTHS, 1, design=Design(**design))
    return PooledNet(trunk, WIDTHS[-1], classes).eval()


def put(state, prefix=""):
    return Contents(Path("w.pth"), {"file": {prefix + name: v for name, v in state.items()}})


@pytest.mark.parametrize(("family", "design"), PAIRS, ids=NAMES)
@pytest.mark.parametrize("prefix", ["", "module.", "model.0."])
def test_logits_are_those_of_the_released_network(family, design, prefix):
    state = family.make_state()
    loaded = load_into(ours(design), put(state, prefix), "ours")
    expected = family.run(state, IMAGES)
    torch.testing.assert_close(loaded.module(IMAGES), expected, rtol=1e-5, atol=1e-5)
    assert any("the names of" in note for note in loaded.notes)


@pytest.mark.parametrize(
    ("family", "design"),
    [
        (released.GOWAL, {}),  # symmetric padding: same tensors, another function
        (released.GOWAL, {"activation": "silu"}),
        (released.TRADES, EDM),
        (released.GOWAL_PREACT, {}),
        (released.GOWAL_PREACT, {"shortcut": "raw-3x3"}),
        (released.PREACT_V1, {}),  # it has a last norm, and the file has none
        (released.PREACT, {"shortcut": "raw", "last_norm": False}),
    ],
)
def test_weights_of_another_function_are_refused(family, design):
    with pytest.raises(UsageError) as caught:
        load_into(ours(design), put(family.make_state()), "ours")
    assert len(str(caught.value).splitlines()) <= 4


@pytest.mark.parametrize("design", [{}, {"activation": "silu"}])
def test_no_training_starts_from_weights_for_another_padding(design):
    with pytest.raises(UsageError, match="are missing"):
        start_from(ours(design), put(released.GOWAL.make_state()), "ours")


def test_the_paddings_are_different_functions():
    state = released.GOWAL.make_state()
    wrong = ours({"activation": "silu"})
    right = load_into(ours(EDM), put(state), "ours").module
    pairs = zip(wrong.state_dict().values(), right.state_dict().values(), strict=True)
    with torch.no_grad():
        for ours_, theirs in pairs:
            ours_.copy_(theirs)
    assert (wrong(IMAGES) - right(IMAGES)).abs().max() > 0.05 * right(IMAGES).abs().max()


def test_a_training_starts_from_released_weights_with_a_new_head():
    state = released.TRADES.make_state(classes=7)
    net = ours({}, classes=3)
    done = start_from(net, put(state, "module."), "ours")
    assert "new head" in done
    assert torch.equal(net.features.stem.weight, state["conv1.weight"])


def test_dead_tensors_are_dropped_and_missing_ones_refused():
    state = released.TRADES.make_state()
    dead = {"sub_" + name: value for name, value in state.items() if name.startswith("block1")}
    loaded = load_into(ours({}), put({**state, **dead}, "module."), "ours")
    assert any("layers that are never run" in note for note in loaded.notes)
    torch.testing.assert_close(loaded.module(IMAGES), released.TRADES.run(state, IMAGES))
    del state["block2.layer.0.bn2.running_var"]
    with pytest.raises(UsageError, match=r"1 of .* tensors are missing"):
        load_into(ours({}), put(state), "ours")


@pytest.mark.parametrize("bottleneck", [False, True])
def test_resnets_for_small_images(bottleneck):
    wide = 4 if bottleneck else 1
    shapes = {"conv1.weight": (6, 3, 3, 3), **norm_shapes("bn1", 6)}
    before = 6
    for stage, width in enumerate(WIDTHS, start=1):
        at = f"layer{stage}.0"
        widths = (width, width, wide * width) if bottleneck else (width, width)
        kernels = (1, 3, 1) if bottleneck else (3, 3)
        channels = before
        for place, (size, kernel) in enumerate(zip(widths, kernels, strict=True), start=1):
            shapes |= {f"{at}.conv{place}.weight": (size, channels, kernel, kernel)}
            shapes |= norm_shapes(f"{at}.bn{place}", size)
            channels = size
        if stage > 1 or before != wide * width:
            shapes |= {f"{at}.shortcut.0.weight": (wide * width, before, 1, 1)}
            shapes |= norm_shapes(f"{at}.shortcut.1", wide * width)
        before = wide * width
    state = make_state(shapes | {"linear.weight": (5, before), "linear.bias": (5,)})
    x = F.relu(norm(state, "bn1", F.conv2d(IMAGES, state["conv1.weight"], padding=1)))
    for stage in (1, 2, 3):
        at, stride = f"layer{stage}.0", 1 if stage == 1 else 2
        out = x
        for place in (1, 2, 3) if bottleneck else (1, 2):
            weight = state[f"{at}.conv{place}.weight"]
            strides = stride if place == (2 if bottleneck else 1) else 1
            out = F.conv2d(out, weight, stride=strides, padding=weight.shape[2] // 2)
            out = norm(state, f"{at}.bn{place}", out)
            out = out if place == (3 if bottleneck else 2) else F.relu(out)
        if f"{at}.shortcut.0.weight" in state:
            x = F.conv2d(x, state[f"{at}.shortcut.0.weight"], stride=stride)
            x = norm(state, f"{at}.shortcut.1", x)
        x = F.relu(out + x)
    expected = F.linear(x.mean((2, 3)), state["linear.weight"], state["linear.bias"])
    trunk = partial(resnet_trunk, WIDTHS, (1, 1, 1), bottleneck=bottleneck)
    net = PooledNet(trunk, before, 5).eval()
    loaded = load_into(net, put(state), "ours")
    torch.testing.assert_close(loaded.module(IMAGES), expected, rtol=1e-5, atol=1e-5)
