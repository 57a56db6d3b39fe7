"""Defences that look for attacks, and correct their answer or abstain."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.evaluate.defences.nets import (
    EPS,
    Forward,
    Toy,
    climb,
    fit,
    make_cnn,
    obtain,
    read_images,
    train_cnn,
)


class Dimensionality(Toy):
    """Ma et al. (2018): where the neighbours in the features are at odd distances, they answer."""

    NEAREST = 10

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        train, labels, _, _ = read_images()
        with torch.no_grad():
            self.register_buffer("known", self.extract(train))
            self.register_buffer("labels", labels)
            distances = torch.cdist(self.known, self.known).topk(11, largest=False).values[:, 1:]
            self.limit = float(self.estimate(distances).quantile(0.95))

    def extract(self, x: Tensor) -> Tensor:
        """Return the features, (B, 512)."""
        return self.net[:5](x)  # type: ignore[index]

    def estimate(self, distances: Tensor) -> Tensor:
        """The local intrinsic dimension: (B, k) ascending -> (B,)."""
        ratio = distances.clamp(min=1e-9) / distances[:, -1:].clamp(min=1e-9)
        return -1 / ratio.log().mean(1).clamp(max=-1e-6)

    def vote(self, x: Tensor, sharp: float) -> Tensor:
        """Return the neighbours' votes, (B, 10), weighed by their distance."""
        apart = torch.cdist(self.extract(x), self.known)
        weights = (-sharp * apart).softmax(1)
        return 10 * weights @ F.one_hot(self.labels, 10).float()

    def forward(self, x: Tensor) -> Tensor:
        apart = torch.cdist(self.extract(x), self.known)
        near = apart.topk(self.NEAREST, largest=False)
        votes = F.one_hot(self.labels[near.indices], 10).sum(1).float()
        odd = self.estimate(near.values) > self.limit
        return torch.where(odd[:, None], votes, self.net(x))

    def list_sources(self) -> list[Forward]:
        both: Forward = lambda x: self.net(x) + self.vote(x, 3.0)  # noqa: E731
        return [both, self.net, lambda x: self.vote(x, 3.0), self]


def get_dimensionality(seed: int = 0) -> Toy:
    return Dimensionality(train_cnn(seed))


class Odds(Toy):
    """Roth et al. (2019): where noise moves the logits in an odd way, another class answers."""

    def __init__(self, net: nn.Module, seed: int) -> None:
        super().__init__()
        self.net = net
        source = torch.Generator().manual_seed(seed)
        self.register_buffer("draws", 0.1 * torch.randn(16, 1, 1, 8, 8, generator=source))
        train, _, _, _ = read_images()
        with torch.no_grad():
            moves = self.compare(train[::3])  # (n, 10)
            top = self.net(train[::3]).argmax(1)
        self.register_buffer("mean", torch.zeros(10, 10))
        self.register_buffer("spread", torch.ones(10, 10))
        for label in range(10):
            self.mean[label] = moves[top == label].mean(0)
            self.spread[label] = moves[top == label].std(0).clamp(min=1e-3)

    def average(self, x: Tensor) -> Tensor:
        """Return the mean logits under the noise, (B, 10)."""
        return torch.stack([self.net(x + draw) for draw in self.draws]).mean(0)

    def compare(self, x: Tensor) -> Tensor:
        """Return how noise moves each class's logit against the answer's, (B, 10)."""
        moved = self.average(x) - self.net(x)
        return moved - moved.gather(1, self.net(x).argmax(1, keepdim=True))

    def forward(self, x: Tensor) -> Tensor:
        logits = self.net(x)
        top = logits.argmax(1)
        odd = (self.compare(x) - self.mean[top]) / self.spread[top]
        odd = odd.scatter(1, top[:, None], -torch.inf)
        flagged = odd.amax(1) > 3
        other = F.one_hot(odd.argmax(1), 10) * (logits.amax(1, keepdim=True).abs() + 5)
        return torch.where(flagged[:, None], logits + other, logits)

    def list_sources(self) -> list[Forward]:
        return [lambda x: self.net(x) + self.average(x), self.average, self.net]


def get_odds(seed: int = 0) -> Toy:
    return Odds(train_cnn(seed), seed)


class Rejecting(Toy):
    """Yin et al. (2020): a detector a class; the eleventh output is "none of them"."""

    abstains = True

    def __init__(self, net: nn.Module, limit: float) -> None:
        super().__init__()
        self.net, self.limit = net, limit

    def forward(self, x: Tensor) -> Tensor:
        scores = self.net(x)
        return torch.cat([scores, torch.full_like(scores[:, :1], self.limit)], 1)

    def list_sources(self) -> list[Forward]:
        return [self.net, self]


def compute_detector_loss(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return the binary cross-entropy of ten detectors."""
    return F.binary_cross_entropy_with_logits(net(x), F.one_hot(y, 10).float())


def get_asymmetric(seed: int = 0) -> Toy:
    """Each detector is trained against attacks on other classes' images."""

    def learn(net: nn.Module) -> None:
        def attacked(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            moved = climb(net, x, y, 0.05, 3, compute_detector_loss)
            wanted = F.one_hot(y, 10).float()
            own = F.binary_cross_entropy_with_logits(net(x), wanted, reduction="none")
            others = F.binary_cross_entropy_with_logits(net(moved), wanted, reduction="none")
            return torch.where(wanted.bool(), own, others).mean()

        fit(net, loss=attacked, epochs=20)

    return Rejecting(obtain("asymmetric", seed, make_cnn, teach=learn), -1.0)


class Abstaining(Toy):
    """Answers with flat logits where it suspects an attack; argmax then picks class 0."""

    abstains = True

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def suspect(self, x: Tensor) -> Tensor:
        """(B, 1, 8, 8) -> (B,) bool."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(self.suspect(x)[:, None], 0.0, self.net(x))


class Weakness(Abstaining):
    """Hu et al. (2019): noise moves an attacked image, and a few steps do not lead back."""

    def __init__(self, net: nn.Module, seed: int) -> None:
        super().__init__(net)
        source = torch.Generator().manual_seed(seed)
        self.register_buffer("draws", 0.1 * torch.randn(8, 1, 1, 8, 8, generator=source))

    def suspect(self, x: Tensor) -> Tensor:
        x = x.detach()
        top = self.net(x).argmax(1)
        moved = torch.stack([self.net(x + draw).argmax(1) != top for draw in self.draws])
        with torch.enable_grad():
            point = x.clone().requires_grad_()
            logits = self.net(point)
            (slope,) = torch.autograd.grad(F.cross_entropy(logits, top, reduction="sum"), point)
        near = self.net(x + 0.02 * slope.sign()).argmax(1) != top  # already beside another class
        return (moved.float().mean(0) > 0.2) | near

    def list_sources(self) -> list[Forward]:
        noisy: Forward = lambda x: torch.stack(  # noqa: E731
            [self.net(x + draw) for draw in self.draws]
        ).mean(0)
        return [noisy, self.net]


def get_weakness(seed: int = 0) -> Toy:
    return Weakness(train_cnn(seed), seed)


class Cropped(Abstaining):
    """After Yang et al. (2019): two networks, one of which sees a crop, must agree."""

    def __init__(self, net: nn.Module, part: nn.Module) -> None:
        super().__init__(net)
        self.part = part

    def suspect(self, x: Tensor) -> Tensor:
        return self.net(x).argmax(1) != self.part(crop(x)).argmax(1)

    def list_sources(self) -> list[Forward]:
        return [lambda x: self.net(x).log_softmax(1) + self.part(crop(x)).log_softmax(1), self.net]


def crop(x: Tensor) -> Tensor:
    """The image without its lowest rows and outer columns."""
    return x[:, :, :6, 1:7]


def get_crop(seed: int = 0) -> Toy:
    part = obtain("crop", seed, make_cnn_of_crop, augment=crop)
    return Cropped(train_cnn(seed), part)


def make_cnn_of_crop() -> nn.Module:
    """Return a plain network that takes whole images, or crops of 6x6 pixels."""
    net = make_cnn()
    net.insert(4, nn.AdaptiveAvgPool2d(3))
    return net


class Reconstructed(Abstaining):
    """After MagNet (Meng and Chen, 2017): abstains far from a linear autoencoder's images."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        train = read_images()[0].flatten(1)
        self.register_buffer("mean", train.mean(0))
        self.register_buffer("axes", torch.pca_lowrank(train, 20, niter=4)[2])
        self.limit = float(self.measure(train.view(-1, 1, 8, 8)).quantile(0.98))

    def measure(self, x: Tensor) -> Tensor:
        """Return the distances to the autoencoder's images, (B,)."""
        middle = x.flatten(1) - self.mean
        return (middle - middle @ self.axes @ self.axes.T).norm(dim=1)

    def suspect(self, x: Tensor) -> Tensor:
        return self.measure(x) > self.limit

    def list_sources(self) -> list[Forward]:
        def project(x: Tensor) -> Tensor:
            middle = x.flatten(1) - self.mean
            return (self.mean + middle @ self.axes @ self.axes.T).view_as(x)

        return [lambda x: self.net(project(x)), self.net]


def get_autoencoder(seed: int = 0) -> Toy:
    """Behind a network that was trained against half the radius."""
    return Reconstructed(train_cnn(seed, EPS / 2))
