"""The digits, small networks that are trained in seconds, and the folder that keeps their weights.

A toy is a module on images (B, 1, 8, 8) in [0, 1]. Its weights are a function of its name, its
seed and the sources that train it; the first process that needs them trains them.
"""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from abatis.data.sources.digits import read_digits

ROOT = Path(__file__).resolve().parents[3]
KEPT = ROOT / "build" / "defences"
EPS = 0.15
"""The radius in Linf that every toy is judged at."""

Forward = Callable[[Tensor], Tensor]
Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""From a network, images (B, C, H, W) and labels (B,) to a scalar."""


@cache
def read_images() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return training images (1437, 1, 8, 8) in [0, 1], labels, test images (360, ...), labels."""
    arrays = read_digits()
    train, test = (part.float() / 255 for part in (arrays.x_train, arrays.x_test))
    return train, arrays.y_train, test, arrays.y_test


class Toy(nn.Module):
    """A network, and what an attacker who has read its source makes of it."""

    net: nn.Module
    random = False  # do two forwards differ?
    noise = 0.0  # standard deviation of the noise over which an attack averages gradients

    def list_sources(self) -> list[Forward]:
        """Return the smooth stand-ins whose gradients break it, best first."""
        return [self]

    def answer(self, x: Tensor) -> Tensor:
        """Return the logits, (B, K), of a copy that was never asked anything else."""
        return self(x)


class Behind(Toy):
    """A network behind a change of its images, whose derivative is taken for the identity's."""

    def __init__(self, net: nn.Module, change: Forward) -> None:
        super().__init__()
        self.net, self.change = net, change

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.change(x))

    def list_sources(self) -> list[Forward]:
        return [lambda x: self.net(x + (self.change(x) - x).detach()), self.net]


def make_cnn(inputs: int = 1, outputs: int = 10, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Return two convolutions and a linear layer."""
    return nn.Sequential(
        nn.Conv2d(inputs, 16, 3, padding=1),
        act(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        act(),
        nn.Flatten(),
        nn.LazyLinear(outputs),
    )


def make_mlp(width: int = 96, outputs: int = 10, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Return one hidden layer."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), act(), nn.Linear(width, outputs))


def compute_loss(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return the cross-entropy's mean."""
    return F.cross_entropy(net(x), y)


def climb(
    net: nn.Module, x: Tensor, y: Tensor, eps: float, steps: int, loss: Loss = compute_loss
) -> Tensor:
    """Return images of high loss in the Linf ball, by PGD from a random start, as in training."""
    start = x + eps * (2 * torch.rand_like(x) - 1)
    step = eps if steps == 1 else 2.5 * eps / steps
    point = start.clamp(0, 1)
    for _ in range(steps):
        point = point.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(net, point, y), point)
        point = (point.detach() + step * gradient.sign()).clamp(x - eps, x + eps).clamp(0, 1)
    return point


def fit(
    net: nn.Module,
    *,
    epochs: int = 30,
    lr: float = 3e-3,
    eps: float = 0.0,
    steps: int = 4,
    loss: Loss = compute_loss,
    augment: Forward | None = None,
) -> None:
    """Train on the digits, in place.

    Args:
        net: the network.
        epochs: passes over the training images.
        lr: the highest learning rate of Adam, which falls to zero.
        eps: radius of the attack in training; 0 for none.
        steps: of that attack.
        loss: what is minimised.
        augment: changes a batch of images.
    """
    x, y, _, _ = read_images()
    net.train()
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    steps_in_all = epochs * -(-len(x) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps_in_all)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            images = x[rows] if augment is None else augment(x[rows])
            if eps:
                images = climb(net, images, y[rows], eps, steps, loss)
            optimizer.zero_grad()
            loss(net, images, y[rows]).backward()
            optimizer.step()
            schedule.step()


def obtain(name: str, seed: int, make: Callable[[], nn.Module], **how: object) -> nn.Module:
    """Return a network in eval mode with kept weights, or train it now and keep them.

    Args:
        name: of the weights.
        seed: of the first weights and of the training.
        make: returns the network untrained.
        how: for :func:`fit`; ``teach``, a function of the network, takes its place.
    """
    path = KEPT / _digest_training(make, how) / f"{name}-{seed}.safetensors"
    teach, augment = how.pop("teach", None), how.get("augment")
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        net = make()
        images = read_images()[0][:2]
        net(augment(images) if callable(augment) else images)  # lazy layers take their shapes
        if not path.exists():
            teach(net) if callable(teach) else fit(net, **how)  # type: ignore[arg-type]
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_suffix(f".{os.getpid()}")
            save_file(net.state_dict(), unfinished)
            unfinished.replace(path)
    net.load_state_dict(load_file(path))
    return net.eval().requires_grad_(False)


def _digest_training(make: object, how: Mapping[str, object]) -> str:
    """Everything that decides the weights: plain settings, and the files of the functions."""
    functions = [one for one in (make, *how.values()) if inspect.isfunction(one)]
    files = {Path(inspect.getfile(one)) for one in functions} | {Path(__file__)}
    plain = {key: value for key, value in how.items() if not callable(value)}
    parts = [repr(plain).encode(), *(path.read_bytes() for path in sorted(files))]
    return hashlib.sha256(b"".join(parts)).hexdigest()[:12]


def train_cnn(seed: int = 0, eps: float = 0.0) -> nn.Module:
    """Return the plain network, trained without attacks or against PGD-4 of a radius."""
    return obtain(f"cnn-{eps}", seed, make_cnn, eps=eps, epochs=40 if eps else 30)
