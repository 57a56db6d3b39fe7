"""Honest networks of many kinds: nothing hides their gradients, and no test may fail them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tests.evaluate.defences.nets import (
    EPS,
    Toy,
    fit,
    make_cnn,
    make_mlp,
    obtain,
    read_images,
    train_cnn,
)


class Plain(Toy):
    """A network as it is, its logits times a factor."""

    def __init__(self, net: nn.Module, factor: float = 1.0) -> None:
        super().__init__()
        self.net, self.factor = net, factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.net(x)


class Transformer(nn.Module):
    """A vision transformer on 16 patches of 2x2 pixels."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, stride=2)
        self.places = nn.Parameter(0.02 * torch.randn(16, width))
        self.blocks = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(
                    width, 4, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True
                )
                for _ in range(2)
            )
        )
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.places
        return self.head(self.blocks(tokens).mean(1))


class Half(Toy):
    """Computes in bfloat16, and returns logits in float32."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.net(x).float()


class Implicit(Toy):
    """Its features minimise an energy, by differentiable gradient steps inside the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.inward, self.head = nn.Linear(64, 48), nn.Linear(48, 10)
        self.mix = nn.Parameter(0.1 * torch.randn(48, 48))

    def forward(self, x: Tensor) -> Tensor:
        target, wanted = self.inward(x.flatten(1)), torch.is_grad_enabled()
        with torch.enable_grad():
            state = torch.zeros_like(target).requires_grad_()
            for _ in range(4):
                energy = 0.5 * (state - target).square().sum() - (state @ self.mix).tanh().sum()
                (slope,) = torch.autograd.grad(energy, state, create_graph=wanted)
                state = state - 0.5 * slope
                state = state if wanted else state.detach().requires_grad_()
        return self.head(state) if wanted else self.head(state.detach())


class Mean(Toy):
    """The mean of the logits of several networks."""

    def __init__(self, nets: list[nn.Module]) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([net(x) for net in self.nets]).mean(0)


def make_accurate() -> nn.Module:
    """Return a batch-norm network."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 10),
    )


def shift(x: Tensor) -> Tensor:
    """Move each image by up to one pixel, and change its brightness."""
    by = torch.randint(-1, 2, (len(x), 2)).tolist()
    moved = torch.stack([one.roll((a, b), (1, 2)) for one, (a, b) in zip(x, by, strict=True)])
    return (moved * (0.8 + 0.4 * torch.rand(len(x), 1, 1, 1))).clamp(0, 1)


def make_weak() -> nn.Module:
    """Return a linear network that sees a quarter of the image."""
    return nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 10))


def get_cnn(seed: int = 0) -> Toy:
    """The plain network."""
    return Plain(train_cnn(seed))


def get_mlp(seed: int = 0) -> Toy:
    return Plain(obtain("mlp", seed, make_mlp))


def get_softplus(seed: int = 0) -> Toy:
    return Plain(obtain("softplus", seed, lambda: make_mlp(act=nn.Softplus)))


def get_gelu(seed: int = 0) -> Toy:
    return Plain(obtain("gelu", seed, lambda: make_cnn(act=nn.GELU)))


def get_vit(seed: int = 0) -> Toy:
    return Plain(obtain("vit", seed, Transformer))


def get_warm(seed: int = 0) -> Toy:
    """Logits at a tenth."""
    return Plain(train_cnn(seed), 0.1)


def get_cold(seed: int = 0) -> Toy:
    """Logits at three times."""
    return Plain(train_cnn(seed), 3.0)


def get_weak(seed: int = 0) -> Toy:
    return Plain(obtain("weak", seed, make_weak, epochs=10))


def get_accurate(seed: int = 0) -> Toy:
    """Batch norm, trained on shifted images."""
    return Plain(obtain("accurate", seed, make_accurate, augment=shift, epochs=40))


def get_robust_cnn(seed: int = 0) -> Toy:
    return Plain(train_cnn(seed, EPS))


def get_robust_mlp(seed: int = 0) -> Toy:
    return Plain(obtain("robust-mlp", seed, make_mlp, eps=EPS, epochs=40))


def get_robust_vit(seed: int = 0) -> Toy:
    return Plain(obtain("robust-vit", seed, Transformer, eps=EPS, epochs=20, steps=3, lr=5e-3))


def get_robust_half(seed: int = 0) -> Toy:
    """Trained against half the radius."""
    return Plain(train_cnn(seed, EPS / 2))


def get_bfloat16(seed: int = 0) -> Toy:
    return Half(train_cnn(seed))


def get_implicit(seed: int = 0) -> Toy:
    return obtain("implicit", seed, Implicit)  # type: ignore[return-value]


def get_ensemble(seed: int = 0) -> Toy:
    return Mean([train_cnn(3 * seed + k) for k in range(3)])


def get_overtrained(seed: int = 0) -> Toy:
    """Trained for long without a penalty on the weights: very large logits."""
    return Plain(obtain("overtrained", seed, make_mlp, epochs=200, lr=1e-2))


def get_dropout(seed: int = 0) -> Toy:
    """Trained with dropout, which is off in eval mode."""

    def make() -> nn.Module:
        net = make_mlp()
        net.insert(3, nn.Dropout(0.3))
        return net

    return Plain(obtain("dropout", seed, make))


def get_two_class(seed: int = 0) -> Toy:
    """Even digits against odd ones."""

    def learn(net: nn.Module) -> None:
        fit(net, loss=lambda net, x, y: cross_entropy(net(x), y % 2))

    return Plain(obtain("two-class", seed, lambda: make_cnn(outputs=2), teach=learn))


def get_many_outputs(seed: int = 0) -> Toy:
    """A thousand outputs, of which the data use ten."""
    return Plain(obtain("many-outputs", seed, lambda: make_mlp(outputs=1000)))


def get_many_classes(seed: int = 0) -> Toy:
    """Ninety classes: each digit, by which ninth of the training images of it is nearest."""

    def learn(net: nn.Module) -> None:
        fit(net, epochs=40, loss=lambda net, x, y: cross_entropy(net(x), split_classes(x, y)))

    return Plain(obtain("many-classes", seed, lambda: make_mlp(outputs=90), teach=learn))


def split_classes(x: Tensor, y: Tensor) -> Tensor:
    """Return labels 0 to 89, a function of the image: the digit, and the nearest of nine of it."""
    train, labels, _, _ = read_images()
    kinds = torch.empty_like(y)
    for digit in range(10):
        rows = y == digit
        nine = train[labels == digit][::16][:9].flatten(1)
        kinds[rows] = torch.cdist(x[rows].flatten(1), nine).argmin(1)
    return 9 * y + kinds
