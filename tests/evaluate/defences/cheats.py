"""Networks whose answer depends on what they were asked before, on the batch, or on the point.

``answer`` is what a copy says that was asked nothing before: the truth is measured on it, and every
image that breaks it is confirmed alone on a fresh copy.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from abatis.data.order import choose_stratified
from tests.evaluate.defences.gradients import Decoy
from tests.evaluate.defences.nets import EPS, KEPT, Forward, Toy, read_images, train_cnn

NEAR = EPS + 0.005
ROWS = 200  # images that a cache remembers


class Cheat(Toy):
    """A plain network that hides when it can."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def list_sources(self) -> list[Forward]:
        return [self.net]

    def answer(self, x: Tensor) -> Tensor:
        return self.net(x)

    def repeat(self, x: Tensor, images: Tensor, logits: Tensor) -> Tensor:
        """Return old logits near the old images, (M, 64) and (M, 10), and else the network's.

        They move a little with the image, so that the gradient there is right.
        """
        if not len(images):
            return self.net(x)
        apart, place = torch.cdist(x.flatten(1), images, p=torch.inf).min(1)
        there = images[place].view_as(x)
        moved = logits[place] + 0.05 * (self.net(x) - self.net(there))
        return torch.where((apart <= NEAR)[:, None], moved, self.net(x))

    @staticmethod
    def find_new(x: Tensor, images: Tensor) -> Tensor:
        """Return which images are near none of the old ones, (B,) bool."""
        if not len(images):
            return torch.ones(len(x), dtype=torch.bool)
        return torch.cdist(x.flatten(1), images, p=torch.inf).amin(1) > NEAR


class CacheInAttribute(Cheat):
    """Remembers what it said of an image, and says the same near it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.memory = (torch.empty(0, 64), torch.empty(0, 10))

    def recall(self) -> tuple[Tensor, Tensor]:
        """Return the images and their logits."""
        return self.memory

    def keep(self, images: Tensor, logits: Tensor) -> None:
        """Store all images and their logits."""
        self.memory = (images, logits)

    def forward(self, x: Tensor) -> Tensor:
        images, logits = self.recall()
        new = self.find_new(x.detach(), images)
        if new.any() and len(images) < ROWS:
            with torch.no_grad():
                fresh = x[new].detach()
                images = torch.cat([images, fresh.flatten(1)])
                logits = torch.cat([logits, self.net(fresh)])
            self.keep(images, logits)
        return self.repeat(x, images, logits)


MEMORY: dict[str, tuple[Tensor, Tensor]] = {}


class CacheInModule(CacheInAttribute):
    """Remembers in a global of this module, which no copy of the network has."""

    def recall(self) -> tuple[Tensor, Tensor]:
        return MEMORY.get("known", self.memory)

    def keep(self, images: Tensor, logits: Tensor) -> None:
        MEMORY["known"] = (images, logits)


class CacheInFile(CacheInAttribute):
    """Remembers in a file of the temporary folder."""

    def __init__(self, net: nn.Module, path: Path | None = None) -> None:
        super().__init__(net)
        self.path = path

    def locate(self) -> Path:
        """Return the file."""
        return self.path or Path(tempfile.gettempdir()) / "remembered.pt"

    def recall(self) -> tuple[Tensor, Tensor]:
        path = self.locate()
        return torch.load(path) if path.exists() else self.memory

    def keep(self, images: Tensor, logits: Tensor) -> None:
        torch.save((images, logits), self.locate())


class CacheInBuffers(CacheInAttribute):
    """Remembers in buffers that are written in place."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.register_buffer("images", torch.zeros(ROWS, 64))
        self.register_buffer("logits", torch.zeros(ROWS, 10))
        self.register_buffer("used", torch.zeros(1, dtype=torch.int64))

    def recall(self) -> tuple[Tensor, Tensor]:
        return self.images[: int(self.used)], self.logits[: int(self.used)]

    def keep(self, images: Tensor, logits: Tensor) -> None:
        size = min(len(images), ROWS)
        self.images[:size], self.logits[:size] = images[:size], logits[:size]
        self.used.fill_(size)


REMEMBERED = KEPT / "remembered.pt"
"""The file of the cache that does not use the temporary folder."""


def forget() -> None:
    """Let the caches outside of a network be empty, as in a new process of an empty folder."""
    MEMORY.clear()
    for path in (REMEMBERED, Path(tempfile.gettempdir()) / "remembered.pt"):
        path.unlink(missing_ok=True)


def get_cache_attribute(seed: int = 0) -> Toy:
    return CacheInAttribute(train_cnn(seed))


def get_cache_module(seed: int = 0) -> Toy:
    return CacheInModule(train_cnn(seed))


def get_cache_file(seed: int = 0) -> Toy:
    return CacheInFile(train_cnn(seed))


def get_cache_own_file(seed: int = 0) -> Toy:
    """The file lies beside the weights, wherever the temporary folder is."""
    return CacheInFile(train_cnn(seed), REMEMBERED)


def get_cache_buffers(seed: int = 0) -> Toy:
    return CacheInBuffers(train_cnn(seed))


class Hiding(Cheat):
    """A hard label over a decoy where it hides."""

    def __init__(self, net: nn.Module, seed: int) -> None:
        super().__init__(net)
        self.hidden = Decoy(net, seed)


class ByPosition(Hiding):
    """Honest to the first image of a batch."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.net(x[:1]), self.hidden(x[1:])])


def get_batch_position(seed: int = 0) -> Toy:
    return ByPosition(train_cnn(seed), seed)


class BySize(Cheat):
    """Honest to batches below eight; in larger ones a robust network answers."""

    def __init__(self, net: nn.Module, other: nn.Module) -> None:
        super().__init__(net)
        self.other = other

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) if len(x) < 8 else self.other(x)


def get_batch_size(seed: int = 0) -> Toy:
    return BySize(train_cnn(seed), train_cnn(seed, EPS))


class Counting(Hiding):
    """Honest to the first 256 images that it is asked about."""

    def __init__(self, net: nn.Module, seed: int) -> None:
        super().__init__(net, seed)
        self.asked = 0

    def forward(self, x: Tensor) -> Tensor:
        self.asked += len(x)
        return self.net(x) if self.asked <= 256 else self.hidden(x)


def get_counting(seed: int = 0) -> Toy:
    return Counting(train_cnn(seed), seed)


class Memorised(Cheat):
    """Near an image of the test set it gives that image's label."""

    def __init__(self, net: nn.Module, places: Tensor) -> None:
        super().__init__(net)
        _, _, test, labels = read_images()
        self.register_buffer("images", test[places].flatten(1))
        self.register_buffer("logits", 10 * F.one_hot(labels[places], 10).float())

    def forward(self, x: Tensor) -> Tensor:
        return self.repeat(x, self.images, self.logits)


def get_memorised(seed: int = 0) -> Toy:
    return Memorised(train_cnn(seed), torch.arange(360))


def find_unseen() -> Tensor:
    """Return the test images that are not in the fixed choice of 256, (104,) int64."""
    seen = choose_stratified(read_images()[3], 256)
    return torch.tensor(sorted(set(range(360)) - set(seen.tolist())))


def get_part_memorised(seed: int = 0) -> Toy:
    """Honest on the 256 test images that diagnostics could choose for all; the rest memorised."""
    return Memorised(train_cnn(seed), find_unseen())


class ByPoint(Hiding):
    """Honest near 256 test images; near the others it hides."""

    def __init__(self, net: nn.Module, seed: int) -> None:
        super().__init__(net, seed)
        self.register_buffer("images", read_images()[2][find_unseen()].flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        near = torch.cdist(x.flatten(1), self.images, p=torch.inf).amin(1) <= NEAR
        return torch.where(near[:, None], self.hidden(x), self.net(x))


def get_part_hidden(seed: int = 0) -> Toy:
    return ByPoint(train_cnn(seed), seed)
