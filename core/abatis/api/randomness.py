"""Every random draw is a pure function of (run seed, purpose, step).

Draws are made for the *global* batch, of which each process or micro-batch takes its rows, so neither the rank nor
the world size enters, a resumed run repeats its draws, and no generator state is ever saved.
Foreign code that reads the global generators runs inside :func:`seeded`, which leaves them as found.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Kind = Literal["uniform", "normal"]


def seed_for(run_seed: int, purpose: str, step: int = 0) -> int:
    """The 63-bit seed of one draw."""
    digest = hashlib.sha256(f"{run_seed}/{purpose}/{step}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(
    run_seed: int, purpose: str, step: int = 0, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A fresh generator, positioned at the start of one draw."""
    return torch.Generator(device=device).manual_seed(seed_for(run_seed, purpose, step))


class Randomness:
    """The random numbers of one training step, for whoever draws per sample (attack starts, augmentation).

    ``step`` is the global step; ``rows`` are the rows of the global batch that this call is about. The engine moves both.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.step = 0
        self.rows: slice | Tensor = slice(0, None)
        self.global_size: int | None = None

    def at(
        self, step: int, rows: slice | Tensor = slice(0, None), global_size: int | None = None
    ) -> None:
        """Move to a step, and to the rows of its global batch."""
        self.step, self.rows, self.global_size = step, rows, global_size

    def uniform(self, purpose: str, like: Tensor) -> Tensor:
        """Numbers in [0, 1) with the shape (B, ...), type and device of ``like``."""
        return self._draw(torch.rand, purpose, like)

    def normal(self, purpose: str, like: Tensor) -> Tensor:
        """Standard normal numbers with the shape (B, ...), type and device of ``like``."""
        return self._draw(torch.randn, purpose, like)

    def _draw(self, sampler: object, purpose: str, like: Tensor) -> Tensor:
        size = len(like) if self.global_size is None else self.global_size
        source = generator(self.seed, purpose, self.step, like.device)
        whole: Tensor = sampler(  # type: ignore[operator]  # torch.rand or torch.randn
            (size, *like.shape[1:]), generator=source, dtype=like.dtype, device=like.device
        )
        return whole[self.rows]


def per_sample(kind: Kind, run_seed: int, purpose: str, index: Tensor, like: Tensor) -> Tensor:
    """One draw a sample, keyed by the sample's own index: the result of a point never depends on its batch.

    index: (B,) positions in the data set; returns a tensor with the shape (B, ...), type and device of ``like``.
    """
    sampler = torch.rand if kind == "uniform" else torch.randn
    draws = [
        sampler(like.shape[1:], generator=generator(run_seed, purpose, int(i)), dtype=like.dtype)
        for i in index.tolist()
    ]
    return torch.stack(draws).to(like.device) if draws else torch.empty_like(like)


@contextmanager
def untouched() -> Iterator[None]:
    """Leave the global generators of torch, numpy and Python as they were found."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def reseed(run_seed: int, purpose: str, step: int = 0) -> None:
    """Seed the global generators; only for use inside :func:`untouched`."""
    seed = seed_for(run_seed, purpose, step)
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@contextmanager
def seeded(run_seed: int, purpose: str, step: int = 0) -> Iterator[None]:
    """Run foreign code on generators seeded from the run, and leave the global states as found."""
    with untouched():
        reseed(run_seed, purpose, step)
        yield
