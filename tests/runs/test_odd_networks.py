"""Networks people really have: they are trained, or refused before the run with the reason."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from torch import nn

import abatis
from abatis.errors import UsageError
from abatis.nets.weights_file import read_weights

X, Y = torch.rand(48, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(48) % 4
DATA = ((X[:32], Y[:32]), (X[32:], Y[32:]))


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))

    def forward(self, x):
        return self.net(x)


class ExtraState(Base):
    forwards = 0

    def forward(self, x):
        self.forwards += self.training
        return self.net(x)

    def get_extra_state(self):
        return {"forwards": self.forwards}

    def set_extra_state(self, state):
        self.forwards = state["forwards"]


class Lock(Base):
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


class Auxiliary(Base):
    def forward(self, x):
        return (self.net(x), self.net(x)) if self.training else self.net(x)


class InPlace(Base):
    def forward(self, x):
        x.sub_(0.5).div_(0.25)
        return self.net(x)


class Detached(Base):
    def forward(self, x):
        return self.net(x.detach())


class NoGrad(Base):
    @torch.no_grad()
    def forward(self, x):
        return self.net(x)


class Numpy(Base):
    def forward(self, x):
        return torch.from_numpy(self.net(x).numpy())


class OnlyEval(Base):
    def forward(self, x):
        if self.training:
            raise ValueError("no training today")
        return self.net(x)


class OddState(Base):
    def get_extra_state(self):
        return object()

    def set_extra_state(self, state):
        pass


def norms(kind, **options):
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), kind(**options), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4)
    )


def spectral():
    first = nn.utils.spectral_norm(nn.Conv2d(3, 4, 3))
    second = nn.utils.parametrizations.spectral_norm(nn.Linear(144, 4))
    return nn.Sequential(first, nn.Flatten(), second)


def exported():
    return torch.export.export(Base(), (X[:2],)).module()


def train(folder, model, **options):
    base = {
        "epochs": 1,
        "eval": "none",
        "out": folder,
        "name": "x",
        "threat": "Linf:0.1",
        "batch_size": 16,
        "attack": {"steps": 1},
        "quiet": True,
        "device": "cpu",
    }
    return abatis.run(abatis.RunConfig(**{**base, **options}), model=model, data=DATA).folder


@pytest.mark.parametrize(
    "make",
    [
        ExtraState,
        Lock,
        Auxiliary,
        InPlace,
        lambda: Base().double(),
        lambda: Base().half(),
        lambda: norms(nn.GroupNorm, num_groups=2, num_channels=4),
        spectral,
        lambda: nn.DataParallel(Base()),
    ],
    ids=lambda make: make.__name__,
)
def test_they_are_trained_averaged_and_loaded_again(tmp_path, make):
    folder = train(tmp_path, make(), ema=0.5)
    network = abatis.load(folder, model=make())
    assert not network.training
    train(tmp_path, make(), ema=0.5, epochs=2, resume=True)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: torch.jit.script(Base()), "it can be judged, not trained"),
        (exported, "it can be judged, not trained"),
        (Detached, "Detached cannot be trained: its logits are cut off from the images"),
        (NoGrad, "NoGrad cannot be trained: its logits are cut off from the weights"),
        (Numpy, "Numpy, in train mode, fails"),
        (OnlyEval, "OnlyEval, in train mode, fails .* no training today"),
        (OddState, "extra state '_extra_state'"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_the_run(tmp_path, make, words):
    with pytest.raises(UsageError, match=words) as caught:
        train(tmp_path / "out", make(), ema=0.5)
    assert len(str(caught.value).splitlines()) <= 4
    assert not (tmp_path / "out").exists()


class Numbers(Base):
    """With a parameter of whole numbers, which nothing trains."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.arange(3), requires_grad=False)


class NaN(Base):
    def forward(self, x):
        return self.net(x) * torch.nan


class NaNInTraining(Base):
    def forward(self, x):
        return self.net(x) * (torch.nan if self.training else 1)


class Unprintable(Base):
    def __repr__(self):
        raise RuntimeError("no repr")


class Unsaved(Base):
    def state_dict(self, *args, **kwargs):
        raise RuntimeError("no state")


class Frozen(Base):
    def train(self, mode=True):
        if mode:
            raise RuntimeError("frozen")
        return super().train(mode)


def test_a_parameter_of_whole_numbers_is_not_averaged(tmp_path):
    folder = train(tmp_path, Numbers(), ema=0.9)
    assert abatis.load(folder, model=Numbers()).table.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (NaN, "NaN returns NaN for the first images"),
        (NaNInTraining, "in train mode, returns NaN"),
        (Unprintable, "Unprintable cannot be trained: RuntimeError: no repr"),
        (Unsaved, "Unsaved cannot be trained: RuntimeError: no state"),
        (Frozen, "Frozen cannot be trained: RuntimeError: frozen"),
        (lambda: Base().to("meta"), "tensors on the meta device"),
    ],
)
def test_a_network_with_bad_habits_is_named_before_the_run(tmp_path, make, words):
    with pytest.raises(UsageError, match=words):
        train(tmp_path / "out", make())
    assert not (tmp_path / "out").exists()


def test_extra_state_goes_with_the_weights_and_through_a_restart(tmp_path):
    def count(folder, name):
        return read_weights(folder / name)[1]["extra_state"]["_extra_state"]["forwards"]

    net = ExtraState()
    whole = train(tmp_path / "a", copy.deepcopy(net), epochs=2)
    train(tmp_path / "b", copy.deepcopy(net))
    folder = train(tmp_path / "b", ExtraState(), epochs=2, resume=True)
    assert count(whole, "weights-last.safetensors") > count(folder, "weights.safetensors") > 0
    for name in ("weights.safetensors", "weights-last.safetensors"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
    assert abatis.load(whole, model=ExtraState()).forwards == count(whole, "weights.safetensors")


@pytest.mark.parametrize("asked", [False, True])
def test_frozen_norms_keep_their_statistics_and_train_their_weights(tmp_path, asked, capsys):
    net = norms(nn.BatchNorm2d, num_features=4)
    net[1].running_mean.fill_(0.25)
    if not asked:
        net[1].eval()
    train(tmp_path, net, freeze_norms=asked, quiet=False)
    assert torch.equal(net[1].running_mean, torch.full((4,), 0.25))
    assert not torch.equal(net[1].weight, torch.ones(4))
    how = "as asked for" if asked else "as you set them"
    assert f"1 batch norms keep their running statistics, {how}" in " ".join(
        capsys.readouterr().out.split()
    )


def test_a_network_given_in_eval_mode_is_trained_as_a_whole(tmp_path):
    net = norms(nn.BatchNorm2d, num_features=4).eval()
    train(tmp_path, net)
    assert not torch.equal(net[1].running_mean, torch.zeros(4))


def test_the_start_check_leaves_buffers_and_generators_as_they_were(tmp_path):
    net = norms(nn.BatchNorm2d, num_features=4)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    config = abatis.RunConfig(dry_run=True, quiet=True, device="cpu", out=tmp_path)
    abatis.run(config, model=net, data=DATA)
    assert torch.equal(torch.get_rng_state(), before)
    assert int(net[1].num_batches_tracked) == 0
    assert torch.equal(net[1].running_mean, torch.zeros(4))
