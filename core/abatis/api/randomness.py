"""Random numbers: every draw is a pure function of (run seed, purpose, step, row, place in row).

The row is the sample's in the *global* batch of a step, or its index in the data set. So draws
depend neither on the rank nor on the number of processes nor on the kind of device, a process makes
those of its own rows only, a resumed run repeats them, and no generator state is ever saved. Code
of others that uses the global generators runs inside :func:`seeded`, which restores their states.
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

from abatis.api.philox import draw_integers, draw_normal, draw_uniform

Kind = Literal["uniform", "normal"]


def seed_for(run_seed: int, purpose: str, step: int = 0) -> int:
    """Return the 63-bit seed of one draw."""
    digest = hashlib.sha256(f"{run_seed}/{purpose}/{step}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(run_seed: int, purpose: str, step: int = 0) -> torch.Generator:
    """Make a generator of the CPU, for permutations of a whole set: ``torch.randperm`` needs one.

    Everything that belongs to single samples is drawn by their rows or their index.
    """
    return torch.Generator().manual_seed(seed_for(run_seed, purpose, step))


class Randomness:
    """Random numbers of a training step, one draw per sample: for attack starts or augmentation.

    The same purpose in the same step gives the same numbers, so name every draw of a plugin
    differently, like "mine/start". The engine moves the object from step to step.

    Args:
        seed: the run's seed.

    Attributes:
        step: the training step, from 0.
        rows: the rows of the global batch that the current call is about.
        global_size: N, the size of the global batch; None if it is the batch of the call.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.step = 0
        self.rows: slice | Tensor = slice(0, None)
        self.global_size: int | None = None

    def at(
        self, step: int, rows: slice | Tensor = slice(0, None), global_size: int | None = None
    ) -> None:
        """Move to a step, and to some rows of its global batch of ``global_size`` samples."""
        self.step, self.rows, self.global_size = step, rows, global_size

    def uniform(self, purpose: str, like: Tensor) -> Tensor:
        """Draw numbers in [0, 1).

        Args:
            purpose: the name of the draw, like "mine/start".
            like: (B, ...), a tensor with the shape, type and device of the result.
        """
        return draw_uniform(self._find_key(purpose), self._find_rows(like), like)

    def normal(self, purpose: str, like: Tensor) -> Tensor:
        """Draw standard normal numbers.

        Args:
            purpose: the name of the draw, like "mine/noise".
            like: (B, ...), a tensor with the shape, type and device of the result.
        """
        return draw_normal(self._find_key(purpose), self._find_rows(like), like)

    def of_step(self, purpose: str) -> float:
        """Draw one number in [0, 1) for the whole global batch; the host has it without waiting.

        Args:
            purpose: the name of the draw, like "mine/which".
        """
        like = torch.empty(1, dtype=torch.float64)
        return float(draw_uniform(self._find_key(purpose), torch.zeros(1, dtype=torch.int64), like))

    def _find_key(self, purpose: str) -> int:
        return seed_for(self.seed, purpose, self.step)

    def _find_rows(self, like: Tensor) -> Tensor:
        """The rows of the current call in the global batch, (B,) int64 on the device."""
        if isinstance(self.rows, Tensor):
            return self.rows.to(like.device)
        size = len(like) if self.global_size is None else self.global_size
        return torch.arange(*self.rows.indices(size), device=like.device)


def per_sample(kind: Kind, run_seed: int, purpose: str, index: Tensor, like: Tensor) -> Tensor:
    """Draw for each sample by its own index, so that its numbers never depend on its batch.

    Args:
        kind: "uniform" in [0, 1), or "normal".
        run_seed: the run's seed.
        purpose: the name of the draw.
        index: positions in the data set, (B,).
        like: (B, ...), a tensor with the shape, type and device of the result.
    """
    draw = draw_uniform if kind == "uniform" else draw_normal
    return draw(seed_for(run_seed, purpose), index.to(like.device), like)


def draw_integers_of(
    samples: Tensor, run_seed: int, purpose: str, shape: tuple[int, ...], below: int, step: int = 0
) -> Tensor:
    """Draw integers of 0 .. below - 1 for each sample by its row or index.

    Args:
        samples: rows of a global batch, or positions in the data set, (B,) int64.
        run_seed: the run's seed.
        purpose: the name of the draw.
        shape: of the numbers of a sample.
        below: at most 2**31.
        step: the training step, or the number of the draw.

    Returns:
        (B, *shape) int64 on the device of the samples.
    """
    return draw_integers(seed_for(run_seed, purpose, step), samples, shape, below)


@contextmanager
def untouched() -> Iterator[None]:
    """Restore the global generators of torch, numpy and Python at the end of the block."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    started = torch.cuda.is_initialized()
    devices = range(torch.cuda.device_count()) if started else []
    seed = torch.initial_seed()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        if not started and _has_gpu_build() and not torch.cuda._is_in_bad_fork():
            # GPUs that start inside, or later, begin as they would have: torch.manual_seed seeds
            # them as it does the CPU, and without it both begin with the same number
            torch.cuda.manual_seed_all(seed)


def _has_gpu_build() -> bool:
    return torch.version.cuda is not None or torch.version.hip is not None


def reseed(run_seed: int, purpose: str, step: int = 0) -> None:
    """Seed the global generators. Use it only inside :func:`untouched`."""
    seed = seed_for(run_seed, purpose, step)
    if _has_gpu_build() or torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:  # torch would write down the caller's stack for every kind of device that is not there
        torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@contextmanager
def seeded(run_seed: int, purpose: str, step: int = 0) -> Iterator[None]:
    """Seed the global generators from the run, and restore their states at the end of the block."""
    with untouched():
        reseed(run_seed, purpose, step)
        yield
