"""Square Attack in Linf (Andriushchenko et al., ECCV 2020), with fewer and cheaper queries.

The draws and the schedule are those of pyautoattack's object. So are the images it finds, bit for
bit, if the network's logits do not depend on the batch. Three things differ: nothing outside of
the drawn window is computed again; what is known is not asked; and several windows are asked at
once where that is faster. A query draws the same window for all rows, whatever they answered
before, so the next windows are known in advance. They are asked on the best image so far; where
one of them helps, those behind it are asked again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

Ask = Callable[[Tensor, Tensor], Tensor]
"""From images (B, C, H, W) and labels (B,) to margins (B,), negative where fooled."""

WINDOWS = 8
"""Most windows that are asked at once."""
BATCH = 64
"""Most images that are asked at once, where several windows are."""
WORTH = 0.2
"""Several windows are asked at once if the fixed cost of a query is this share of the rest."""


def replace_search(square: Any, ask: Ask, windows: int | None = None) -> None:
    """Make a Square object in Linf search with this module; in L2 and L1 nothing changes.

    Args:
        square: the package's object.
        ask: its queries.
        windows: that are asked at once; measured if not given.
    """
    if square.norm == "Linf":
        square.attack_single_run = partial(_search, square, ask, windows)


@dataclass(frozen=True)
class Window:
    """One query: a square of pixels, and what is added to each channel in it.

    Attributes:
        number: of the query, from 1.
        before: the last query with the same window, 0 if there is none.
        top, left, side: in pixels.
        shift: (C, 1, 1).
    """

    number: int
    before: int
    top: int
    left: int
    side: int
    shift: Tensor

    def crop(self, images: Tensor) -> Tensor:
        """The view of the pixels inside, (..., side, side)."""
        rows = slice(self.top, self.top + self.side)
        return images[..., rows, self.left : self.left + self.side]


class Draws:
    """The windows of a run, drawn in the package's order."""

    def __init__(self, square: Any, x: Tensor) -> None:
        self.square, self.shape = square, x.shape[1:]
        self.windows: list[Window] = []  # that some row still waits for
        self.drawn = 0
        self.last: dict[tuple[float, ...], int] = {}

    def list_windows(self, first: int, count: int) -> list[Window]:
        """The windows of the queries from ``first`` on; earlier ones are forgotten."""
        while self.drawn < min(first + count - 1, self.square.n_queries):
            self.windows.append(self._draw())
        self.windows = [window for window in self.windows if window.number >= first]
        return self.windows[:count]

    def _draw(self) -> Window:
        c, h, w = self.shape
        share = self.square.p_selection(self.drawn)
        side = min(max(round(math.sqrt(share * h * w)), 1), h, w)
        top = int(self.square.random_int(0, h - side))
        left = int(self.square.random_int(0, w - side))
        signs = self.square.random_choice([c, 1, 1])
        self.drawn += 1
        key = (side, top, left, *signs.flatten().tolist())
        before = self.last.get(key, 0)
        self.last[key] = self.drawn
        return Window(self.drawn, before, top, left, side, 2.0 * self.square.eps * signs)


class Search:
    """A run's best images.

    Attributes:
        best: (B, C, H, W).
        lowest: (B,), their margins; a row is searched while it is positive.
        since: (B,), the query that found each of them.
        following: (B,), the query that each row waits for.
    """

    def __init__(self, x: Tensor, y: Tensor, eps: float, start: Tensor, ask: Ask) -> None:
        self.y, self.best, self.ask = y, start, ask
        self.lower, self.upper = (x - eps).clamp_min(0), (x + eps).clamp_max(1)
        self.lowest = ask(start.clone(), y)
        self.since, self.following = torch.zeros_like(y), torch.ones_like(y)

    def try_windows(self, windows: list[Window], rows: Tensor) -> None:
        """Ask about the windows that each of some rows (R,) waits for."""
        found = self._ask(windows, rows)  # (R, windows)
        helped = found < self.lowest[rows].unsqueeze(1)
        place = torch.where(helped.any(1), helped.byte().argmax(1), len(windows))
        self.following[rows] = torch.maximum(
            self.following[rows], windows[0].number + (place + 1).clamp_max(len(windows))
        )
        for number, window in enumerate(windows):
            which = (place == number).nonzero().flatten()
            if len(which):
                self._accept(window, rows[which], found[which, number])

    def _ask(self, windows: list[Window], rows: Tensor) -> Tensor:
        """The margins behind each window, infinite where a row does not need to know."""
        found = self.lowest.new_full((len(rows), len(windows)), torch.inf)
        images, places = [], []
        for number, window in enumerate(windows):
            pixels = self._move(window, rows)
            changed = (pixels != window.crop(self.best)[rows]).flatten(1).any(1)
            # the same window did not help before on the very same image
            known = self.since[rows] < window.before
            waiting = self.following[rows] <= window.number
            which = (waiting & changed & ~known).nonzero().flatten()
            moved = self.best[rows[which]]
            window.crop(moved).copy_(pixels[which])
            images.append(moved)
            places.append(which * len(windows) + number)
        place = torch.cat(places)
        if len(place):
            labels = self.y[rows[place // len(windows)]]
            found.view(-1)[place] = self.ask(torch.cat(images), labels)
        return found

    def _move(self, window: Window, rows: Tensor) -> Tensor:
        """The pixels in a window after its shift, (R, C, side, side)."""
        best, lower, upper = (
            window.crop(part)[rows] for part in (self.best, self.lower, self.upper)
        )
        return torch.minimum((best + window.shift).maximum(lower), upper)

    def _accept(self, window: Window, rows: Tensor, margins: Tensor) -> None:
        window.crop(self.best)[rows] = self._move(window, rows)
        self.lowest[rows], self.since[rows] = margins, window.number


@torch.no_grad()
def _search(
    square: Any, ask: Ask, windows: int | None, x: Tensor, y: Tensor
) -> tuple[Tensor, Tensor]:
    """In the place of the package's method: the number of each row's last gain, and its image."""
    stripes = square.random_choice([len(x), x.shape[1], 1, x.shape[3]])
    start = (x + square.eps * stripes).clamp(0, 1)
    search, draws = Search(x, y, square.eps, start, ask), Draws(square, x)
    overhead = measure_overhead(ask, x, y) if windows is None else 0.0
    while True:
        waiting = (search.lowest > 0) & (search.following <= square.n_queries)
        rows = waiting.nonzero().flatten()
        if not len(rows):
            return search.since, search.best
        count = windows or count_windows(overhead, len(rows))
        first = int(search.following[rows].min())
        search.try_windows(draws.list_windows(first, count), rows)


def count_windows(overhead: float, rows: int) -> int:
    """How many windows to ask at once.

    Args:
        overhead: as of :func:`measure_overhead`.
        rows: that are searched.
    """
    return max(1, min(WINDOWS, BATCH // rows)) if overhead >= WORTH * rows else 1


def measure_overhead(ask: Ask, x: Tensor, y: Tensor) -> float:
    """The time of a query that its images do not cause, in images."""
    one, many = x[:1], x[:1].expand(BATCH, -1, -1, -1).clone()
    single = _measure_seconds(ask, one, y[:1])
    each = (_measure_seconds(ask, many, y[:1].expand(BATCH)) - single) / (BATCH - 1)
    return single / each - 1 if each > 0 else math.inf


def _measure_seconds(ask: Ask, x: Tensor, y: Tensor) -> float:
    """CPU time, the best of three: a busy machine would make large batches look slow."""
    seconds = []
    for _ in range(3):
        began = time.thread_time()
        ask(x, y).tolist()  # a device has then finished
        seconds.append(time.thread_time() - began)
    return min(seconds)
