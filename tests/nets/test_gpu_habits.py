"""What costs time on a GPU without a word: each is counted here, on the CPU."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from abatis import Batch, Randomness
from abatis.api.ball import Ball
from abatis.config.option_groups import AttackConfig, OptimConfig, StatisticsConfig
from abatis.nets import net as nets
from abatis.nets.backbones import build
from abatis.nets.folding import Folding
from abatis.nets.net import Net
from abatis.testing import THREAT, add_averaging, plan_of, step_of
from abatis.train.builtin.pgd import maximise
from abatis.train.optimizer import load_moments, make_optimizer

PIXELS = 16
CONVOLUTIONS = ("convolution", "mkldnn_convolution")


def network(name="resnet8"):
    torch.manual_seed(0)
    given = {"mean": [0.5] * 3, "std": [0.25] * 3}
    return build(name, num_classes=10, channels=3, image_size=PIXELS, **given)


def images(count=2):
    return torch.rand(count, 3, PIXELS, PIXELS, generator=torch.Generator().manual_seed(1))


def batch(count=4):
    return Batch(images(count), torch.arange(count), torch.arange(count))


def step(module, *plugins, attack=None, **setup):
    net, random = Net(module.train()), Randomness(0)
    net.tune(images())
    attack = AttackConfig(steps=2, **(attack or {}))
    plan = plan_of(*plugins, net=net, num_classes=10, attack=attack, random=random)
    if setup.pop("averaged", False):
        plan, _ = add_averaging(plan, module, 0.9, None)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
    return step_of(net, plan, optimizer, THREAT, random, **setup)


class Count(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self):
        super().__init__()
        self.calls = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.calls[name] = self.calls.get(name, 0) + 1
        return func(*args, **(kwargs or {}))


class RoundsToTF32(TorchDispatchMode):
    """Convolutions as on a GPU: where torch's switch says so, inputs keep 10 bits of mantissa."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        rounding = torch.backends.cudnn.conv.fp32_precision != "ieee"
        if func.overloadpacket.__name__ in CONVOLUTIONS and rounding:
            args = (round_to_tf32(args[0]), round_to_tf32(args[1]), *args[2:])
        return func(*args, **(kwargs or {}))


def round_to_tf32(tensor):
    bits = tensor.contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32).view_as(tensor)


def test_tf32_is_ten_bits():
    exact = torch.tensor([1.0, 1 + 2**-10, -3.5])
    assert torch.equal(round_to_tf32(exact), exact)
    assert round_to_tf32(torch.tensor([1 + 2**-12])).item() == 1


@pytest.mark.skipif(
    not hasattr(torch.backends.cudnn.conv, "fp32_precision"), reason="needs torch's newer switches"
)
@pytest.mark.parametrize("full", [True, False])
def test_folding_is_decided_in_full_float32(full, monkeypatch):
    """Under TF32, which torch starts with, rounding would look like another function."""
    if not full:
        monkeypatch.setattr(nets, "use_full_float32", nullcontext)
    module = network()
    for norm in module.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.weight.data.uniform_(0.5, 1.5)
            norm.running_var.uniform_(0.5, 1.5)
            norm.running_mean.normal_(0, 0.2)
    with RoundsToTF32():
        found = Net(module).tune(images())
    assert found["norms folded"] == ("9 of 9" if full else "0 of 9")


@pytest.mark.parametrize("statistics", [(), ("adv",)])
def test_norms_are_folded_once_a_step(statistics, monkeypatch):
    made, own = [], Folding._fold_all
    monkeypatch.setattr(Folding, "_fold_all", lambda self: made.append(1) or own(self))
    stepper = step(network(), accumulate=4, statistics=StatisticsConfig(attack=statistics))
    for number in range(2):
        made.clear()
        stepper(batch(8), number, 0, 0.0)
        assert len(made) == (4 if statistics else 1)  # the statistics move between the attacks


def test_accumulated_steps_with_and_without_holding_are_the_same(monkeypatch):
    weights = []
    for held in (True, False):
        if not held:
            monkeypatch.setattr(Net, "hold_folded", lambda self: nullcontext())
        stepper = step(network(), accumulate=2)
        for number in range(2):
            stepper(batch(), number, 0, 0.0)
        weights.append([weight.detach().clone() for weight in stepper.net.module.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*weights, strict=True))


def test_folded_weights_are_cast_once_an_attack():
    module = network().eval()
    net = Net(module, attack_precision="bf16")
    net.tune(images())
    assert net._folded_type is torch.bfloat16
    found = {}
    for folded_type in (torch.bfloat16, None):
        net._folded_type = folded_type
        for steps in (1, 3):
            with net.attack_mode(), Count() as count:
                x, y = images(), torch.tensor([0, 1])
                loss = lambda logits: logits.logsumexp(1)  # noqa: E731
                attacked = maximise(net, Ball(x, THREAT), x, y, loss, steps, 0.01)
            found[folded_type, steps] = count.calls["_to_copy"], attacked.x
    casts = {key: value[0] for key, value in found.items()}
    own = (casts[torch.bfloat16, 3] - casts[torch.bfloat16, 1]) // 2  # of a pass
    autocasts = (casts[None, 3] - casts[None, 1]) // 2
    assert autocasts - own == 2 * 9  # weight and bias of nine convolutions
    assert torch.equal(found[torch.bfloat16, 3][1], found[None, 3][1])


def test_a_network_that_switches_autocast_off_keeps_its_folded_weights():
    class Careful(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network().eval()

        def forward(self, x):
            with torch.autocast("cpu", enabled=False):
                return self.inner(x)

    net = Net(Careful(), attack_precision="bf16")
    assert net.tune(images())["norms folded"] == "9 of 9"
    assert net._folded_type is None
    with net.attack_mode():
        assert net(images()).dtype == torch.float32


def test_a_compiled_attack_keeps_the_buffers_in_place(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda module, **_: lambda x: module(x))
    module = network().train()
    net = Net(module)
    net.compile(attack=True, step=False)
    places = [buffer.data_ptr() for buffer in module.buffers()]
    values = [buffer.clone() for buffer in module.buffers()]
    with net.attack_mode(batch_statistics=True):
        net(images())
        assert [buffer.data_ptr() for buffer in module.buffers()] == places
        moved = [not torch.equal(*pair) for pair in zip(module.buffers(), values, strict=True)]
        assert any(moved)
    assert [buffer.data_ptr() for buffer in module.buffers()] == places
    assert all(torch.equal(*pair) for pair in zip(module.buffers(), values, strict=True))


def test_averaging_and_awp_update_all_tensors_at_once():
    stepper = step(network(), "awp", averaged=True)
    with Count() as count:
        stepper(batch(), 0, 0, 0.0)
    assert count.calls["_foreach_lerp_"] == 1
    assert count.calls["_foreach_copy_"] <= 2 + 2  # buffers of two types; folded weights
    assert count.calls["_foreach_add_"] == count.calls["_foreach_sub_"] == 1
    assert "lerp_" not in count.calls


def test_parameters_keep_the_layout_and_their_identity():
    module = network().eval()
    net, before = Net(module), list(module.parameters())
    x = images()
    net.tune(x)
    plain = module(x)
    net.keep_layout()
    assert all(one is other for one, other in zip(before, module.parameters(), strict=True))
    kernels = [weight for weight in before if weight.dim() == 4]
    assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)
    torch.testing.assert_close(module(x), plain)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_moments_fit_the_optimizer_that_takes_them_over(name):
    """A checkpoint of a CPU run says fused=False, and its moments lie as the CPU's weights do."""
    states = []
    for fused in (False, True):
        module = network()
        if fused:
            for weight in module.parameters():
                if weight.dim() == 4:
                    weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        optimizer = make_optimizer(OptimConfig(name=name), module, fused=fused)
        if fused:
            load_moments(optimizer, states[0])
        module(images()).sum().backward()
        optimizer.step()
        states.append(optimizer.state_dict())
    assert optimizer.param_groups[0]["fused"]
    for weight, state in optimizer.state.items():
        for moment in state.values():
            if moment is not None and moment.shape == weight.shape:
                assert moment.stride() == weight.stride()
