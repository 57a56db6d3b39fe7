"""The layout is timed where it matters, and what was chosen is kept."""

from __future__ import annotations

import copy

import pytest
import torch

from abatis.nets import layout_timing
from abatis.nets.backbones import build
from abatis.nets.layout import CHANNELS_LAST, CONTIGUOUS
from abatis.nets.layout_timing import choose_layout
from abatis.nets.net import Net

pytestmark = pytest.mark.layout_timing


@pytest.fixture
def net():
    module = build(
        "resnet8", num_classes=10, channels=3, image_size=32, mean=[0.5] * 3, std=[1] * 3
    )
    found = Net(module)
    found.tune(torch.rand(2, 3, 32, 32))
    return found


def pretend(patch, times):
    """An attack step takes 1 s in channels_last, ``times`` less in contiguous memory."""

    def seconds(net, x):
        return 1.0 if net.layout == CHANNELS_LAST else 1 / times

    patch.setattr(layout_timing, "_time_attack", seconds)
    patch.setattr(layout_timing, "_time_update", seconds)


@pytest.mark.parametrize(("times", "layout"), [(1.1, CHANNELS_LAST), (1.7, CONTIGUOUS)])
def test_contiguous_is_chosen_where_it_is_clearly_faster(net, monkeypatch, times, layout):
    pretend(monkeypatch, times)
    said = choose_layout(net, torch.rand(2, 3, 32, 32), 10)
    assert net.layout == layout
    assert said == f"channels_last takes {times:.2f} times as long as contiguous"


def test_large_batches_and_short_passes_are_not_timed(net, monkeypatch):
    pretend(monkeypatch, 2)
    assert choose_layout(net, torch.rand(17, 3, 32, 32), 10) == ""
    monkeypatch.setattr(layout_timing, "_time_attack", lambda net, x: 0.004)
    assert choose_layout(net, torch.rand(2, 3, 32, 32), 10) == ""
    assert net.layout == CHANNELS_LAST


def test_timing_leaves_no_trace(net, monkeypatch):
    """Neither in the weights and statistics, nor in the random numbers."""
    monkeypatch.setattr(layout_timing, "LONG", 0)
    before, state = copy.deepcopy(net.module.state_dict()), torch.get_rng_state()
    assert choose_layout(net, torch.rand(2, 3, 32, 32, generator=torch.Generator()), 1)
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in net.module.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(parameter.grad is None for parameter in net.module.parameters())


def test_both_layouts_compute_the_same(net):
    x = torch.rand(4, 3, 32, 32)
    logits = []
    for layout in (CHANNELS_LAST, CONTIGUOUS):
        net.use_layout(layout)
        with torch.no_grad(), net.attack_mode():
            logits.append(net(x))
            kernels = [part.weight for part in net.module.modules() if hasattr(part, "stride")]
            assert all(kernel.is_contiguous() for kernel in kernels) == (layout == CONTIGUOUS)
    torch.testing.assert_close(*logits, rtol=1e-5, atol=1e-6)
