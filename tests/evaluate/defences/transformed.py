"""Defences that change the image before the network sees it; most of them let no gradient pass."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.evaluate.defences.nets import (
    Behind,
    Forward,
    Toy,
    make_cnn,
    make_mlp,
    obtain,
    read_images,
)


def _put_behind(name: str, seed: int, change: Forward) -> Behind:
    """The plain network, trained on changed images and used behind the change."""
    return Behind(obtain(name, seed, make_cnn, augment=change), change)


class Thermometer(Toy):
    """Buckman et al. (2018): each pixel is compared with ten levels."""

    levels = (torch.arange(10).float() + 0.5) / 10

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def encode(self, x: Tensor) -> Tensor:
        """(B, 1, 8, 8) -> (B, 10, 8, 8)."""
        return (x > self.levels.view(1, -1, 1, 1)).float()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.encode(x))

    def list_sources(self) -> list[Forward]:
        levels = self.levels.view(1, -1, 1, 1)

        def at(slope: float) -> Forward:
            def forward(x: Tensor) -> Tensor:
                soft = ((x - levels) * slope).sigmoid()
                return self.net(soft + (self.encode(x) - soft).detach())

            return forward

        return [at(20.0), at(8.0)]


def get_thermometer(seed: int = 0) -> Toy:
    def encode(x: Tensor) -> Tensor:
        return (x > Thermometer.levels.view(1, -1, 1, 1)).float()

    return Thermometer(obtain("thermometer", seed, lambda: make_cnn(10), augment=encode))


def round_pixels(x: Tensor) -> Tensor:
    """Round to four levels."""
    return (3 * x).round() / 3


def get_bit_depth(seed: int = 0) -> Toy:
    """Guo et al. (2018), Xu et al. (2018)."""
    return _put_behind("bit-depth", seed, round_pixels)


def make_cosines() -> Tensor:
    """The orthonormal discrete cosine transform of 8 values, (8, 8)."""
    places, waves = torch.arange(8).float(), torch.arange(8).float()[:, None]
    matrix = (math.pi / 8 * (places + 0.5) * waves).cos() * math.sqrt(2 / 8)
    matrix[0] /= math.sqrt(2)
    return matrix


COSINES = make_cosines()


def compress(x: Tensor) -> Tensor:
    """Round the block's coefficients, high waves more coarsely."""
    sizes = 0.15 + 0.1 * (torch.arange(8)[:, None] + torch.arange(8))
    coefficients = COSINES @ x @ COSINES.T
    return COSINES.T @ ((coefficients / sizes).round() * sizes) @ COSINES


def get_jpeg(seed: int = 0) -> Toy:
    """Guo et al. (2018)."""
    return _put_behind("jpeg", seed, compress)


@torch.no_grad()
def smooth_variation(x: Tensor) -> Tensor:
    """Minimise |z - x|^2 / 2 + 0.15 TV(z) by Chambolle's projections (2004)."""
    dual = x.new_zeros(2, *x.shape)
    for _ in range(20):
        image = x + 0.15 * _diverge(dual)
        slope = torch.stack(
            [F.pad(image.diff(dim=2), (0, 0, 0, 1)), F.pad(image.diff(dim=3), (0, 1))]
        )
        dual = (dual + 1.5 * slope) / (1 + 1.5 * slope.norm(dim=0))
    return x + 0.15 * _diverge(dual)


def _diverge(dual: Tensor) -> Tensor:
    down, right = dual
    return (down - F.pad(down, (0, 0, 1, 0))[..., :-1, :]) + (
        right - F.pad(right, (1, 0))[..., :-1]
    )


def get_total_variation(seed: int = 0) -> Toy:
    """Guo et al. (2018)."""
    return _put_behind("total-variation", seed, smooth_variation)


@torch.no_grad()
def quilt(x: Tensor) -> Tensor:
    """Replace every patch of 2x2 pixels by the nearest of 400 patches of training images."""
    train, _, _, _ = read_images()
    patches = F.unfold(train[::58], 2, stride=2).transpose(1, 2).flatten(0, 1)  # (400, 4)
    asked = F.unfold(x, 2, stride=2).transpose(1, 2)  # (B, 16, 4)
    found = patches[torch.cdist(asked.contiguous(), patches).argmin(2)]
    return F.fold(found.transpose(1, 2), 8, 2, stride=2)


def get_quilting(seed: int = 0) -> Toy:
    """Guo et al. (2018)."""
    return _put_behind("quilting", seed, quilt)


def fit_next_pixel() -> Tensor:
    """Return ridge regressions of each pixel on those before it, and on 1: (64, 65)."""
    train = read_images()[0].flatten(1).double()
    known = torch.cat([train, torch.ones(len(train), 1).double()], 1)
    weights = torch.zeros(64, 65).double()
    for pixel in range(64):
        use = [*range(pixel), 64]
        part = known[:, use]
        gram = part.T @ part + 5 * torch.eye(len(use)).double()
        weights[pixel, use] = torch.linalg.solve(gram, part.T @ train[:, pixel])
    return weights.float()


class PixelDefend(Behind):
    """Song et al. (2018): each pixel moves to where those before it make it likely."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net, self.purify)
        self.register_buffer("weights", fit_next_pixel())

    @torch.no_grad()
    def purify(self, x: Tensor) -> Tensor:
        """Move by at most 0.15, pixel after pixel, to one of 17 levels."""
        flat = F.pad(x.flatten(1), (0, 1), value=1.0)
        for pixel in range(64):
            own = flat[:, pixel]
            likely = (flat @ self.weights[pixel]).clamp(own - 0.15, own + 0.15)
            flat[:, pixel] = (16 * likely).round().clamp(0, 16) / 16
        return flat[:, :64].view_as(x)


def get_pixel_defend(seed: int = 0) -> Toy:
    """Behind a network that was trained on clean images."""
    return PixelDefend(obtain("cnn-plain", seed, make_cnn))


class Generator(nn.Module):
    """An autoencoder with eight numbers in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = make_mlp(outputs=8)
        self.decoder = nn.Sequential(nn.Linear(8, 128), nn.ReLU(), nn.Linear(128, 64), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x)).view_as(x)


class DefenseGan(Behind):
    """Samangouei et al. (2018): the nearest image that a generator makes, sought by descent."""

    def __init__(self, net: nn.Module, generator: Generator) -> None:
        super().__init__(net, self.project)
        self.generator = generator

    def project(self, x: Tensor) -> Tensor:
        """Take 15 steps in the middle, from where the encoder starts."""
        with torch.enable_grad():
            middle = self.generator.encoder(x).detach()
            for _ in range(15):
                middle.requires_grad_()
                apart = (self.generator.decoder(middle) - x.detach().flatten(1)).square().sum()
                (slope,) = torch.autograd.grad(apart, middle)
                middle = (middle - 0.2 * slope).detach()
        return self.generator.decoder(middle).view_as(x).detach()

    def list_sources(self) -> list[Forward]:
        return [*super().list_sources(), lambda x: self.net(self.generator(x))]


def get_defense_gan(seed: int = 0) -> Toy:
    def copy(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(net(x), x)

    generator = obtain("generator", seed, Generator, loss=copy, epochs=80)
    assert isinstance(generator, Generator)
    return DefenseGan(obtain("cnn-plain", seed, make_cnn), generator)


@torch.no_grad()
def keep_largest(x: Tensor) -> Tensor:
    """Keep the 16 largest of 64 coefficients of the cosine transform."""
    coefficients = (COSINES @ x @ COSINES.T).flatten(1)
    largest = coefficients.abs().topk(16, 1).indices
    kept = torch.zeros_like(coefficients).scatter(1, largest, coefficients.gather(1, largest))
    return COSINES.T @ kept.view_as(x) @ COSINES


def get_fourier(seed: int = 0) -> Toy:
    """Bafna et al. (2018)."""
    return _put_behind("fourier", seed, keep_largest)


def get_detached(seed: int = 0) -> Toy:
    """A forward that cuts the graph, as by mistake."""
    return Behind(obtain("cnn-plain", seed, make_cnn), torch.Tensor.detach)
