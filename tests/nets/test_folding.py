"""Batch norms folded into convolutions: the same logits and input gradients, and nothing folded
that must not be.
"""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from abatis.errors import PluginError
from abatis.nets.backbones import build
from abatis.nets.folding import find_folding
from abatis.nets.net import Net
from abatis.system.timm_import import timm


def randomised(module):
    """Norms as after a training: other statistics and factors in every channel."""
    torch.manual_seed(1)
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.running_mean.normal_(0, 0.3)
            part.running_var.uniform_(0.3, 2)
            if part.affine:
                nn.init.uniform_(part.weight, 0.5, 2)
                nn.init.normal_(part.bias)
    return module.double()


def images(size=8, channels=3, count=4):
    return torch.rand(
        count, channels, size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )


def folding_of(module, x):
    module.eval()
    return find_folding(module, lambda: module(x))


def test_a_pair_by_hand():
    """1x1 convolution by 2, mean 1, variance 3 with eps 1, factor 4, shift 5: 4 (2 x - 1) / 2 + 5 =
    4 x + 3.
    """
    conv, norm = nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1, eps=1.0)
    nn.init.constant_(conv.weight, 2)
    nn.init.constant_(norm.weight, 4)
    nn.init.constant_(norm.bias, 5)
    norm.running_mean.fill_(1)
    norm.running_var.fill_(3)
    module = nn.Sequential(conv, norm).eval()
    folding = folding_of(module, torch.zeros(1, 1, 1, 1))
    with folding.active():
        assert not isinstance(module[1], nn.BatchNorm2d)
        assert module[0].weight.item() == pytest.approx(4)
        assert module[0].bias.item() == pytest.approx(3)
    assert module[1] is norm
    assert module[0].weight.item() == 2
    assert module[0].bias is None


@pytest.mark.parametrize(("name", "pairs"), [("cnn", 4), ("resnet8", 9), ("preactresnet18", 8)])
def test_logits_and_input_gradients_of_our_nets_are_kept(name, pairs):
    module = randomised(
        build(name, num_classes=10, channels=3, image_size=32, mean=[0.5] * 3, std=[0.25] * 3)
    )
    x = images(32)
    folding = folding_of(module, x)
    assert len(folding.pairs) >= pairs

    def seen():
        point = x.clone().requires_grad_()
        logits = module(point)
        (gradient,) = torch.autograd.grad(
            F.cross_entropy(logits, torch.arange(4), reduction="sum"), point
        )
        return logits.detach(), gradient

    plain = seen()
    before = copy.deepcopy(module.state_dict())
    with folding.active():
        folded = seen()
    for one, other in zip(plain, folded, strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-10 * one.abs().max().item())
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


@pytest.mark.parametrize(
    ("name", "folded", "norms"),
    [
        ("resnet18", 20, 20),
        ("mobilenetv3_small_100", 34, 34),
        ("regnety_002", 44, 44),
        ("densenet121", 59, 121),
        ("levit_128s", 4, 52),
    ],
)
def test_timm_nets_fold_what_their_pairs_allow(name, folded, norms):
    size = 224 if name.startswith("levit") else 64
    module = randomised(timm.create_model(name, num_classes=5))
    x = images(size, count=1)
    folding = folding_of(module, x)
    assert (
        sum(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules()) == norms
    )
    assert len(folding.pairs) == folded
    with torch.no_grad():
        plain = module(x)
        with folding.active():
            assert torch.allclose(module(x), plain, rtol=1e-9, atol=1e-9)


def test_folded_weights_follow_the_training():
    module = randomised(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    folding = folding_of(module, images())
    for change in (0.0, 0.5):
        with torch.no_grad():
            module[0].weight.add_(change)
            module[1].running_mean.add_(change)
            plain = module(images())
            with folding.active():
                assert torch.allclose(module(images()), plain, rtol=1e-12, atol=1e-12)


class Forked(nn.Module):
    """The convolution's output has a second reader."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, x):
        made = self.conv(x)
        return self.norm(made) + made


class Between(Forked):
    """Something is done to it in place before the norm sees it."""

    def forward(self, x):
        made = self.conv(x)
        made.mul_(2)
        return self.norm(made)


class Twice(Forked):
    """The pair is gone through twice."""

    def forward(self, x):
        return self.norm(self.conv(self.norm(self.conv(x))))


class Reused(Forked):
    """The same convolution is used without its norm too."""

    def forward(self, x):
        return self.norm(self.conv(x)) + self.conv(x.flip(1))


class Asking(Forked):
    """Asking for a shape reads no values: this one folds."""

    def forward(self, x):
        made = self.conv(x)
        return self.norm(made).view(made.shape[0], -1)


@pytest.mark.parametrize(
    ("kind", "pairs"), [(Forked, 0), (Between, 0), (Twice, 0), (Reused, 0), (Asking, 1)]
)
def test_only_what_is_read_once_is_folded(kind, pairs):
    assert len(folding_of(randomised(kind()), images()).pairs) == pairs


def test_a_norm_of_unknown_kind_is_left_alone():
    class Louder(nn.BatchNorm2d):
        def forward(self, x):
            return 2 * super().forward(x)

    assert not folding_of(randomised(nn.Sequential(nn.Conv2d(3, 4, 3), Louder(4))), images()).pairs


def test_a_convolution_that_ignores_its_bias_is_noticed():
    class Stubborn(nn.Conv2d):
        def forward(self, x):
            return F.conv2d(x, self.weight)

    module = randomised(
        nn.Sequential(
            Stubborn(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 5)
        )
    )
    net = Net(module)
    assert net.tune(images())["norms folded"] == "0 of 1"
    with torch.no_grad(), net.attack_mode():
        assert torch.allclose(
            net(images()), copy.deepcopy(module).eval()(images()), rtol=1e-12, atol=1e-12
        )


def test_a_strided_kernel_of_one_pixel_from_few_channels_keeps_its_layout():
    """On the CPU torch's gradient of such a kernel writes beyond its memory in channels_last."""
    for channels, layout in ((6, "contiguous"), (8, "channels_last")):
        first, shortcut = nn.Conv2d(3, channels, 3), nn.Conv2d(channels, 8, 1, 2)
        module = nn.Sequential(first, shortcut, nn.Flatten(), nn.LazyLinear(4))
        module(images(32).float())
        assert Net(module.eval()).tune(images(32).float())["layout"] == layout


def test_a_net_that_refuses_channels_last_keeps_its_layout():
    class Viewing(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(144, 5)

        def forward(self, x):
            made = self.conv(x)
            return self.head(made.view(len(made), -1))

    net = Net(Viewing().double())
    assert net.tune(images())["layout"] == "contiguous"
    assert net(images()).shape == (4, 5)


def test_the_layout_stays_inside_the_network():
    net = Net(
        randomised(
            build(
                "resnet8", num_classes=10, channels=3, image_size=32, mean=[0.5] * 3, std=[0.25] * 3
            )
        )
    )
    assert net.tune(images(32)) == {"layout": "channels_last", "norms folded": "9 of 9"}
    assert all(parameter.is_contiguous() for parameter in net.module.parameters())


def test_the_frozen_forward_keeps_its_second_derivatives():
    """The gradients of a penalty on input gradients, with norms folded and without, in every
    parameter.
    """
    module = randomised(
        build("resnet8", num_classes=10, channels=3, image_size=32, mean=[0.5] * 3, std=[0.25] * 3)
    )
    found = []
    for tuned in (False, True):
        net = Net(module)
        if tuned:
            net.tune(images(32))
        x = images(32).requires_grad_()
        (gradient,) = torch.autograd.grad(net.frozen(x).square().sum(), x, create_graph=True)
        found.append(
            torch.autograd.grad(
                gradient.square().sum(), list(module.parameters()), allow_unused=True
            )
        )
    for one, other in zip(*found, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.allclose(
            one, other, rtol=1e-9, atol=1e-9 * one.abs().max().item()
        )


def test_what_is_folded_is_not_folded_again():
    """A penalty's forward inside an attack."""
    module = randomised(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 5))
    )
    net = Net(module)
    net.tune(images())
    plain = net.frozen(images())
    with net.attack_mode():
        assert torch.allclose(net.frozen(images()), plain, rtol=1e-12)
        assert torch.allclose(net(images()), plain, rtol=1e-12)
    assert torch.allclose(net.frozen(images()), plain, rtol=1e-12)


def count_calls(fires, part):
    return part.register_forward_hook(lambda *_: fires.append(part))


@pytest.mark.parametrize("place", [0, 1])
def test_hooks_on_a_convolution_or_a_norm_fire_in_every_forward(place):
    """The pair then runs as it is; without its hooks it is folded again."""
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(5))
    x = torch.rand(2, 3, 8, 8)
    module(x)
    net, fires, seen = Net(module), [], []
    assert net.tune(x)["norms folded"] == "1 of 1"
    with torch.no_grad(), net.frozen_mode():
        plain = module(x)
        expected = module[: place + 1](x)
    handle = count_calls(fires, module[place])
    module[place].register_forward_hook(lambda *given: seen.append(given[2].detach()))
    with net.attack_mode():
        for _ in range(3):
            assert torch.allclose(net(x), plain, atol=1e-6)
    net.frozen(x)
    assert len(fires) == 4
    assert all(torch.allclose(one, expected, atol=1e-6) for one in seen)
    handle.remove()
    module[place]._forward_hooks.clear()
    with net.attack_mode():
        assert torch.allclose(net(x), plain, atol=1e-6)
        assert not isinstance(module[1], nn.BatchNorm2d)


@pytest.mark.parametrize("place", [0, 1])
def test_a_hook_that_comes_while_norms_are_folded_is_refused(place):
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(5))
    x = torch.rand(2, 3, 8, 8)
    module(x)
    net, part = Net(module), module[place]
    net.tune(x)
    with net.attack_mode():
        handle = part.register_full_backward_hook(lambda *_: None)
        with pytest.raises(PluginError, match="a hook was put on a convolution or norm"):
            net(x)
        handle.remove()
        net(x)


class TwoNorms(nn.Module):
    """A convolution with two norms, of which a switch chooses one, as in AdvProp."""

    def __init__(self):
        super().__init__()
        self.conv, self.first, self.second = (
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.BatchNorm2d(4),
        )
        self.takes_second = False

    def forward(self, x):
        norm = self.second if self.takes_second else self.first
        return norm(self.conv(x)).flatten(1)


def test_a_network_that_may_choose_another_norm_is_not_folded():
    """Else the second norm would get what the first was folded into."""
    module, x = randomised(TwoNorms()), images()
    net = Net(module)
    assert net.tune(x)["norms folded"] == "0 of 2"
    module.takes_second = True
    plain = module.eval()(x)
    with net.attack_mode():
        assert torch.allclose(net(x), plain, atol=1e-12)
