"""Defences that leave the gradient and spoil the loss: by scale, saturation, votes, jumps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.evaluate.defences.nets import (
    EPS,
    Forward,
    Toy,
    make_cnn,
    make_mlp,
    obtain,
    read_images,
    train_cnn,
)


class Times(Toy):
    """Logits times a factor."""

    def __init__(self, net: nn.Module, factor: float) -> None:
        super().__init__()
        self.net, self.factor = net, factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.net(x)

    def list_sources(self) -> list[Forward]:
        return [self.net]


def get_times_1000(seed: int = 0) -> Toy:
    return Times(train_cnn(seed), 1000.0)


def get_times_1e_4(seed: int = 0) -> Toy:
    return Times(train_cnn(seed), 1e-4)


def get_distilled(seed: int = 0) -> Toy:
    """Papernot et al. (2016): trained at temperature 100 on soft labels, used at 1."""

    def make_loss(teacher: nn.Module | None = None):  # type: ignore[no-untyped-def]
        def loss(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            if teacher is None:
                return F.cross_entropy(net(x) / 100, y)
            with torch.no_grad():
                soft = (teacher(x) / 100).softmax(1)
            return F.cross_entropy(net(x) / 100, soft)

        return loss

    hot = {"epochs": 60, "lr": 2e-2}
    teacher = obtain("teacher", seed, make_cnn, loss=make_loss(), **hot)
    student = obtain("distilled", seed, make_cnn, loss=make_loss(teacher), **hot)
    return Times(student, 1.0)


class HalfProbabilities(Toy):
    """Log-probabilities of a softmax in half precision, where what is below 6e-8 is zero."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).softmax(1).half().float().clamp(min=2.0**-24).log()

    def list_sources(self) -> list[Forward]:
        return [self.net]


def get_half_probabilities(seed: int = 0) -> Toy:
    return HalfProbabilities(train_cnn(seed))


class Probabilities(Toy):
    """A softmax of large logits at the end: its outputs are 0 and 1."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return (20 * self.net(x)).softmax(1)

    def list_sources(self) -> list[Forward]:
        return [self.net]


def get_saturated(seed: int = 0) -> Toy:
    return Probabilities(train_cnn(seed))


class Generative(Toy):
    """After Li et al. (2019): a class's score is the likelihood by its own subspace."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        train, labels, _, _ = read_images()
        rows = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[:1300]
        train, labels = train[rows].flatten(1), labels[rows]
        parts = [train[labels == label] for label in range(10)]
        self.register_buffer("means", torch.stack([part.mean(0) for part in parts]))
        axes = [torch.linalg.svd(part - part.mean(0))[2][:12].T for part in parts]
        self.register_buffer("axes", torch.stack(axes))  # (10, 64, 12)

    def forward(self, x: Tensor) -> Tensor:
        middle = x.flatten(1) - self.means[:, None]  # (10, B, 64)
        off = middle - middle @ self.axes @ self.axes.transpose(1, 2)
        return -off.square().sum(2).T / (2 * 0.03**2)


def get_generative(seed: int = 0) -> Toy:
    return Generative(seed)


class Centres(Toy):
    """Pang et al. (2020): minus the squared distance to fixed centres."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("centres", 10 * torch.eye(10))

    def forward(self, x: Tensor) -> Tensor:
        return -torch.cdist(self.net(x), self.centres).square()


def get_centres(seed: int = 0) -> Toy:
    def pull(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return (net(x) - 10 * F.one_hot(y, 10)).square().sum(1).mean()

    return Centres(obtain("centres", seed, make_cnn, loss=pull))


def make_code() -> Tensor:
    """Return ten codewords of 16 signs: rows of a Hadamard matrix, (10, 16)."""
    code = torch.ones(1, 1)
    for _ in range(4):
        code = torch.cat([torch.cat([code, code], 1), torch.cat([code, -code], 1)])
    return code[1:11]


class Coded(Toy):
    """Verma and Swami (2019): 16 saturated bits, decoded by correlation, log of a clipped value."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("code", make_code())

    def forward(self, x: Tensor) -> Tensor:
        bits = (8 * self.net(x)).tanh()
        return (bits @ self.code.T / 16).clamp(min=1e-6).log()

    def list_sources(self) -> list[Forward]:
        return [lambda x: self.net(x) @ self.code.T, lambda x: self.net(x).tanh() @ self.code.T]


def get_codes(seed: int = 0) -> Toy:
    def loss(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return F.softplus(-net(x) * make_code()[y]).mean()

    return Coded(obtain("codes", seed, lambda: make_cnn(outputs=16), loss=loss))


class Members(Toy):
    """The log of the mean probability of several networks."""

    def __init__(self, nets: Sequence[nn.Module]) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([net(x).softmax(1) for net in self.nets]).mean(0).clamp(min=1e-9).log()

    def list_sources(self) -> list[Forward]:
        return [lambda x: torch.stack([net(x) for net in self.nets]).mean(0), self]


def compute_diversity_loss(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return Pang et al. (2019): members' cross-entropy, less entropy and diversity."""
    assert isinstance(net, Members)
    logits = torch.stack([one(x) for one in net.nets])  # (3, B, 10)
    own = torch.stack([F.cross_entropy(one, y) for one in logits]).sum()
    chances = logits.softmax(2)
    mean = chances.mean(0)
    entropy = -(mean * mean.clamp(min=1e-9).log()).sum(1).mean()
    others = chances.masked_fill(F.one_hot(y, 10).bool(), 0).transpose(0, 1)  # (B, 3, 10)
    others = F.normalize(others, dim=2)
    volume = torch.linalg.det(others @ others.transpose(1, 2) + 1e-4 * torch.eye(3))
    return own - 2.0 * entropy - 0.5 * volume.clamp(min=1e-9).log().mean()


def get_diverse(seed: int = 0) -> Toy:
    def make() -> nn.Module:
        return Members([make_cnn() for _ in range(3)])

    net = obtain("diverse", seed, make, loss=compute_diversity_loss)
    assert isinstance(net, Members)
    return net


class Coarse(nn.Module):
    """Activations of two or four bits; the gradient passes straight through where training."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.levels = 2**bits - 1

    def forward(self, x: Tensor) -> Tensor:
        bounded = x.clamp(0, 4) / 4
        coarse = (bounded * self.levels).round() / self.levels
        return 4 * (bounded + (coarse - bounded).detach() if self.training else coarse)


class Vote(Toy):
    """Sen et al. (2020), EMPIR: networks of different precision vote; a small term breaks ties."""

    def __init__(self, nets: Sequence[nn.Module]) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)

    def forward(self, x: Tensor) -> Tensor:
        answers = [net(x) for net in self.nets]
        votes = torch.stack([F.one_hot(one.argmax(1), 10).float() for one in answers]).sum(0)
        return votes + 0.1 * answers[0].softmax(1)

    def list_sources(self) -> list[Forward]:
        def through(x: Tensor) -> Tensor:
            for layer in self.modules():
                if isinstance(layer, Coarse):
                    layer.training = True
            answers = torch.stack([net(x).log_softmax(1) for net in self.nets]).sum(0)
            for layer in self.modules():
                if isinstance(layer, Coarse):
                    layer.training = False
            return answers

        return [through, self.nets[0]]


def get_precisions(seed: int = 0) -> Toy:
    def make_coarse(bits: int) -> nn.Module:
        net = make_cnn()
        net[1], net[3] = Coarse(bits), Coarse(bits)
        return net

    return Vote(
        [
            train_cnn(seed),
            obtain("coarse-2", seed, lambda: make_coarse(2)),
            obtain("coarse-4", seed, lambda: make_coarse(4)),
        ]
    )


class Winners(nn.Module):
    """Xiao et al. (2020): the largest tenth of the activations pass."""

    def forward(self, x: Tensor) -> Tensor:
        limit = x.topk(max(1, x.shape[1] // 10), 1).values[:, -1:]
        return x * (x >= limit)


class Jumpy(Toy):
    """Layers of winners; an attack averages gradients over noise."""

    noise = 0.05

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def get_winners(seed: int = 0) -> Toy:
    def make() -> nn.Module:
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(64, 256),
            Winners(),
            nn.Linear(256, 256),
            Winners(),
            nn.Linear(256, 10),
        )

    return Jumpy(obtain("winners", seed, make))


def compute_single_step_loss(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return the cross-entropy after one step of twice the radius from the clean image."""
    point = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(net(point), y), point)
    return F.cross_entropy(net((x + 2 * EPS * gradient.sign()).clamp(0, 1)), y)


def get_single_step(seed: int = 0) -> Toy:
    """Na et al. (2018), in part: trained on single steps, and overfitted to them."""

    def make() -> nn.Module:
        return make_mlp(256)

    return Times(obtain("single-step", seed, make, loss=compute_single_step_loss, epochs=40), 1.0)
