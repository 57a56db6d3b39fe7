"""The recipe with generated images, part by part and as one step, against the released code."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from abatis import Batch, Net, UsageError, run
from abatis.config.command_line import parse_run
from abatis.config.option_groups import OptimConfig
from abatis.data import epoch_batches
from abatis.data.extra import find_added
from abatis.nets.backbones import build
from abatis.nets.backbones.cifar_preact import EDM, Design, PreActBlock, preact_trunk
from abatis.nets.backbones.pooled import PooledNet
from abatis.nets.normalising import Normalized
from abatis.testing import replay
from abatis.train.batches import cut_epoch
from abatis.train.builtin.averaging import WeightAveraging
from abatis.train.optimizer import make_optimizer, schedule_momentum, schedule_rate
from tests.frontier import Tiny, frontier, is_close, load, tensor_of
from tests.helpers import tiny

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
PREACT = {
    "batchnorm_0": "activate1.0",
    "conv_2d_1": "conv1",
    "batchnorm_1": "activate2.0",
    "conv_2d_2": "conv2",
    "shortcut": "shortcut",
}


class Labelled:
    """Training images, of which only the number and the labels are asked for."""

    def __init__(self, count):
        self.labels = torch.zeros(count, dtype=torch.int64)

    def __len__(self):
        return len(self.labels)


def count(name, classes):
    with torch.device("meta"):
        net = build(
            name, num_classes=classes, channels=3, image_size=32, mean=(0.0,) * 3, std=(1.0,) * 3
        )
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize(
    "shape", ["16_8", "28_10", "34_10", "34_20", "70_16", "82_8", "94_16", "preact_18"]
)
def test_the_networks_have_as_many_parameters_as_the_released_ones(shape, classes):
    arrays = frontier("edm")
    kind = "" if "preact" in shape else "wrn_"
    name = "preactresnet18-silu" if "preact" in shape else f"wrn{shape.replace('_', '-')}-silu"
    assert count(name, classes) == int(arrays[f"params_{kind}{shape}_K{classes}"])


@pytest.mark.parametrize(("stride", "width"), [(1, 6), (2, 8)])
def test_the_block_of_preactresnet_is_the_released_one(stride, width):
    arrays, prefix = frontier("edm"), f"preactblock_s{stride}_"
    block = PreActBlock(6, width, stride, Design(**EDM, shortcut="raw-3x3")).double()
    own = block.state_dict()
    for key in (key for key in arrays if key.startswith(prefix)):
        part, _, tensor = key[len(prefix) :].rpartition(".")
        if part not in PREACT:  # images and outputs
            continue
        (place,) = [
            name
            for name in own
            if name.startswith(PREACT[part]) and name.rpartition(".")[2] == tensor
        ]
        own[place] = tensor_of(arrays, key)
    block.load_state_dict(own)
    assert is_close(block.eval()(tensor_of(arrays, f"{prefix}x")).detach(), arrays[f"{prefix}out"])


@pytest.mark.parametrize("number", range(6))
def test_rate_and_momentum_are_the_released_ones(number):
    arrays, prefix = frontier("edm"), f"onecycle{number}_"
    epochs, peak = int(arrays[f"{prefix}epochs"]), float(arrays[f"{prefix}max_lr"])
    config = OptimConfig(
        lr=peak,
        schedule="one-cycle-cosine",
        rise=float(arrays[f"{prefix}pct_start"]),
        final=4e-6,
        momentum_range=(0.85, 0.95),
        rate_every="epoch",
    )
    per_epoch = 7
    at = [(epoch * per_epoch + 3, epochs * per_epoch, per_epoch) for epoch in range(epochs)]
    rates = torch.tensor([peak * schedule_rate(config, *step) for step in at], dtype=torch.float64)
    momenta = [schedule_momentum(config, *step) for step in at]
    assert is_close(rates, tensor_of(arrays, f"{prefix}lr"))
    assert is_close(torch.tensor(momenta, dtype=torch.float64), arrays[f"{prefix}momentum"])


def test_a_warm_up_without_an_average_is_refused(tmp_path):
    with pytest.raises(UsageError, match="has no effect without --ema"):
        tiny(tmp_path, ema_warmup=0.1)


def test_a_momentum_that_cycles_needs_the_schedule():
    with pytest.raises(UsageError, match="the momentum of SGD along one-cycle-cosine"):
        OptimConfig(momentum_range=(0.85, 0.95))


@pytest.mark.parametrize("number", range(4))
def test_the_decay_of_the_average_is_the_released_one(number):
    arrays, prefix = frontier("edm"), f"ema{number}_"
    averaging = WeightAveraging(
        nn.Linear(1, 1), float(arrays[f"{prefix}tau"]), None, float(arrays[f"{prefix}warmup_steps"])
    )
    found = [averaging.find_decay(int(step)) for step in arrays[f"{prefix}steps"]]
    assert is_close(torch.tensor(found, dtype=torch.float64), arrays[f"{prefix}decay"])


@pytest.mark.parametrize("number", range(3))
def test_an_epoch_has_the_batches_of_the_released_sampler(number):
    """Number 1 has two passes and more: their last batches are filled up."""
    arrays, prefix = frontier("edm"), f"sampler{number}_"
    n, size = int(arrays[f"{prefix}n_own"]), int(arrays[f"{prefix}batch"])
    config = SimpleNamespace(
        batch_size=size,
        seed=0,
        order="shuffled",
        epoch_updates=int(arrays[f"{prefix}batches"]),
        extra=SimpleNamespace(file="generated.npz", fraction=float(arrays[f"{prefix}fraction"])),
    )
    batches = cut_epoch(config, Labelled(n), 0)
    assert [len(batch) for batch in batches] == arrays[f"{prefix}sizes"].tolist()
    own = [batch[~find_added(batch, config.extra.fraction)] for batch in batches]
    assert [len(batch) for batch in own] == arrays[f"{prefix}own_per_batch"].tolist()
    first = torch.cat(own)[:n]  # every image once, before one comes again
    assert len(first.unique()) == len(first)


def test_an_epoch_of_more_updates_goes_on_with_another_pass():
    batches = epoch_batches(10, 4, 3, 0, updates=5)
    assert [batch.tolist() for batch in batches[:2]] == [
        batch.tolist() for batch in epoch_batches(10, 4, 3, 0)
    ]
    assert len(batches) == 5
    assert batches[2].tolist() != batches[0].tolist()
    assert len(epoch_batches(10, 4, 3, 0, updates=1)) == 1


@pytest.mark.parametrize("steps", [1, 10])
def test_the_whole_step_is_the_released_one(steps):
    arrays, prefix = frontier("edm"), f"trades_s{steps}_"
    module = load(Tiny(), arrays, f"{prefix}init_")
    before = {name: weight.detach().clone() for name, weight in module.named_parameters()}
    y = tensor_of(arrays, f"{prefix}y")
    (step,) = replay(
        "trades",
        module,
        [Batch(tensor_of(arrays, f"{prefix}x"), y, torch.arange(len(y)))],
        options={"beta": 5, "smoothing": 0.1},
        attack={"steps": steps, "step_size": "2/255", "start": "uniform", "bn": "train"},
        optim={"lr": 1.0, "momentum": 0, "weight_decay": 0},
        start=[tensor_of(arrays, f"{prefix}start")],
    )
    same = (step.x_adv - tensor_of(arrays, f"{prefix}x_adv")).abs() <= 1e-9
    assert same.double().mean() >= 0.999
    assert is_close(step.total, arrays[f"{prefix}loss"])
    for name, weight in step.parameters.items():
        assert is_close(before[name] - weight, arrays[f"{prefix}grad_{name}"]), name
    for name, buffer in step.buffers.items():
        assert is_close(buffer, arrays[f"{prefix}after_{name}"]), name


def wrn10_1():
    """The released WRN-10-1, and the names of its tensors in the reference file."""
    net = PooledNet(lambda channels: preact_trunk(16, [16, 32, 64], 1, channels, Design(**EDM)), 64)
    module = Normalized(net, MEAN, STD).double()
    for buffer, values in ((module.normalize.mean, MEAN), (module.normalize.std, STD)):
        buffer.copy_(torch.tensor(values, dtype=torch.float64).view_as(buffer))
    parts = {"init_conv": "features.stem", "batchnorm": "features.norm", "logits": "fc"}
    for stage in range(3):
        inner = {
            "batchnorm_0": "activate1.0",
            "conv_0": "conv1.1" if stage else "conv1",
            "batchnorm_1": "activate2.0",
            "conv_1": "conv2",
            "shortcut": "shortcut",
        }
        parts |= {
            f"layer.{stage}.block.0.{theirs}": f"features.stage{stage + 1}_0.{ours}"
            for theirs, ours in inner.items()
        }
    own = {f"backbone.{ours}": theirs for theirs, ours in parts.items()}
    names = {
        name: f"{own[part]}.{tensor}"
        for name in module.state_dict()
        for part, _, tensor in [name.rpartition(".")]
        if part in own
    }
    return module, names


def test_wrn10_1_is_the_released_one():
    """Logits and input gradient in eval mode; statistics with momentum 0.01 and 1."""
    arrays, (module, names) = frontier("edm"), wrn10_1()
    state = {name: tensor_of(arrays, f"wrn10_1_{theirs}") for name, theirs in names.items()}
    assert module.load_state_dict(state, strict=False).missing_keys == [
        name for name in module.state_dict() if name not in names
    ]
    x = tensor_of(arrays, "wrn10_1_eval_x").requires_grad_()
    logits = module.eval()(x)
    assert is_close(logits.detach(), arrays["wrn10_1_eval_logits"])
    y = tensor_of(arrays, "wrn10_1_eval_y")
    loss = nn.functional.cross_entropy(logits, y, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, x)
    assert is_close(gradient, arrays["wrn10_1_eval_input_grad"])
    net = Net(module.train())
    for case, mode in (("firststep", net.replace_statistics()), ("train", nullcontext())):
        module.load_state_dict(state, strict=False)
        with mode, torch.no_grad():
            found = net(x)
        if case == "train":
            assert is_close(found, arrays["wrn10_1_train_logits"])
        for name, buffer in module.named_buffers():
            if name in names:
                assert is_close(buffer, arrays[f"wrn10_1_{case}_after_{names[name]}"]), name


def test_the_first_update_replaces_the_running_statistics():
    """Of two forwards of the loss, what stays is the last one's, the adversarial; then averages."""
    module, noise = Tiny().train(), torch.rand(8, 3, 12, 12).double() / 100
    x = torch.rand(8, 3, 12, 12).double() * 0.9
    first, second = replay(
        "trades",
        module,
        [Batch(x, torch.arange(8), torch.arange(8))] * 2,
        attack={"steps": 1},
        optim={"lr": 1e-9},
        statistics={"loss": ["clean", "adv"], "first": "replace"},
        start=[noise, noise],
    )
    means = [
        nn.functional.conv2d(
            images, first.parameters["conv1.weight"], first.parameters["conv1.bias"], padding=1
        ).mean((0, 2, 3))
        for images in (first.x_adv, x, second.x_adv)
    ]
    assert torch.allclose(first.buffers["bn1.running_mean"], means[0], atol=1e-7)
    averaged = 0.9 * (0.9 * means[0] + 0.1 * means[1]) + 0.1 * means[2]
    assert torch.allclose(second.buffers["bn1.running_mean"], averaged, atol=1e-7)
    assert module.bn1.momentum == 0.1


def test_norms_alone_do_not_decay():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    decayed, still = make_optimizer(OptimConfig(decay_norms=False), module).param_groups
    assert still["weight_decay"] == 0
    assert {id(weight) for weight in still["params"]} == {id(one) for one in module[1].parameters()}
    assert len(decayed["params"]) == 4  # both weights and both biases


def test_a_run_counts_its_epochs_in_updates(tmp_path):
    """Two epochs of 7 updates, where a pass has 4; the rate changes between them."""
    config = tiny(
        tmp_path,
        name="run",
        epochs=2,
        epoch_updates=7,
        ema=0.9,
        ema_warmup=0.5,
        statistics={"first": "replace"},
        optim={
            "lr": 0.05,
            "schedule": "one-cycle-cosine",
            "rate_every": "epoch",
            "momentum_range": [0.85, 0.95],
            "nesterov": True,
            "decay_norms": False,
        },
    )
    folder = run(config).folder
    rows = (folder / "metrics.jsonl").read_text().splitlines()
    assert len(rows) == 2
    assert '"step": 14' in rows[1]


def test_the_recipe_is_readable():
    config = parse_run(["--recipe", "trades/cifar10-edm-wrn28-silu"])
    assert config.epochs * config.epoch_updates == 39_200
    assert config.options["trades"].smoothing == 0.1
