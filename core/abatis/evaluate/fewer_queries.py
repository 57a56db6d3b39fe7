"""Shortcuts for the authors' attacks: they do not ask the network what cannot matter or is known.

The attacks are those of pyautoattack, with the same random draws and the same steps. They treat
every row by itself. If the network does so too, and always gives the same logits for an image,
then leaving out a row changes nothing for the others but rounding. The functions here replace
attributes of the package's objects, so they are only used with the version that
:mod:`~abatis.evaluate.pyautoattack_messages` knows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from abatis.api.ball import Ball
from abatis.api.context import Forward
from abatis.api.threat import Threat
from abatis.evaluate.pgd import margin
from abatis.nets.layout import LOGITS_TOLERANCE
from abatis.nets.net import Net


def drop_fooled(apgd: Any, threat: Threat) -> None:
    """Make an APGD object run the network only on rows that its run has not fooled yet."""
    forward, whole = apgd.model, apgd.attack_single_run

    def single_run(x: Tensor, y: Tensor, x_init: Tensor | None = None) -> Any:
        if apgd.eps != threat.eps:  # in L1 it looks for a start in larger balls
            return whole(x, y, x_init)
        apgd.model = Standing(forward, x, y, threat)
        try:
            return whole(x, y, x_init)
        finally:
            apgd.model = forward

    apgd.attack_single_run = single_run


class Standing:
    """The forward pass of one APGD run.

    A row is no longer run once an image inside ball and box has fooled it by more than rounding.
    From then on its logits say that it is right, so that the package keeps that image.
    """

    def __init__(self, forward: Forward, x: Tensor, y: Tensor, threat: Threat) -> None:
        self.forward, self.y, self.ball = forward, y, Ball(x, threat)
        self.rows = torch.arange(len(y), device=y.device)  # which rows are still run
        self.answers = torch.empty(0)  # (B, K)

    def __call__(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K)."""
        rows = self.rows
        if len(rows) == len(x):
            logits = self.forward(x)
            self.answers = F.one_hot(self.y, logits.shape[1]).to(logits)
        elif len(rows):
            some = self.forward(x[rows])
            logits = self.answers.index_copy(0, rows, some)
        else:
            return self.answers + 0 * x.flatten(1)[:, :1]  # the package asks for a gradient
        with torch.no_grad():
            fooled = margin(logits, self.y) > LOGITS_TOLERANCE * logits.abs().amax()  # (B,)
            if fooled.any():
                self.rows = rows[~(fooled & self.ball.contains(x))[rows]]
        return logits


def ask_in_bf16(square: Any, net: Net) -> None:
    """Make a Square object query the network in bfloat16.

    That is another random walk. What seems to fool is asked again in float32, which decides.
    """
    swift, exact = Net(net.module, "bf16"), square.predict

    def margins(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        found = -margin(swift(x), y)
        rows = (found <= 0).nonzero().flatten()
        if len(rows):
            found[rows] = -margin(exact(x[rows]), y[rows])
        return found, found.clone()

    square.margin_and_loss = margins


def skip_known(square: Any) -> None:
    """Make a Square object in Linf query only what it does not know already."""
    if square.norm == "Linf":
        tried = Tried(square.margin_and_loss, square.random_int, square.random_choice)
        square.margin_and_loss, square.random_int, square.random_choice = (
            tried.margins,
            tried.random_int,
            tried.random_choice,
        )


class Tried:
    """Stands between a Square object and its network, and remembers answers.

    A query draws one square for all rows; each row puts it on its best image. The answer is known
    if the same square did not help on that very image before, or if it changes nothing.

    Attributes:
        best: (B, C, H, W), the best images.
        lowest: (B,), their margins.
        since: (B,), the query that found each of them.
        last: the last query of every draw.
    """

    def __init__(
        self,
        ask: Callable[..., tuple[Tensor, Tensor]],
        integer: Callable[..., Tensor],
        sign: Callable[..., Tensor],
    ) -> None:
        self.ask, self.integer, self.sign = ask, integer, sign
        self.drawn: list[float] = []
        self.last: dict[tuple[float, ...], int] = {}
        self.query = 0

    def random_int(self, low: int, high: int) -> Tensor:
        """Draw a place, (1,) int64; the largest possible one tells the size of the square."""
        place: Tensor = self.integer(low, high)
        self.drawn += [high, *place.tolist()]
        return place

    def random_choice(self, shape: list[int]) -> Tensor:
        """Draw signs: of a square (C, 1, 1), or of the stripes that begin a run (B, C, 1, W)."""
        signs = self.sign(shape)
        if len(shape) == 3:
            self.drawn += signs.flatten().tolist()
        else:
            self.query = 0
            self.last.clear()
        return signs

    def margins(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W), (B,) -> margin and loss, (B,) each, which are the same here."""
        draw = tuple(self.drawn)
        self.drawn.clear()
        if not self.query:
            found = self.ask(x, y)[0]
            self.best, self.lowest, self.since = x.clone(), found.clone(), torch.zeros_like(y)
        else:
            found = self._answer(x, y, self.last.get(draw, 0))
            better = found < self.lowest
            self.best[better], self.since[better] = x[better], self.query
            self.lowest = torch.minimum(self.lowest, found)
        self.last[draw] = self.query
        self.query += 1
        standing = self.lowest > 0
        if not standing.all():  # the package does not ask about the others again
            self.best = self.best[standing]
            self.lowest = self.lowest[standing]
            self.since = self.since[standing]
        return found, found.clone()

    def _answer(self, x: Tensor, y: Tensor, last: int) -> Tensor:
        known = (self.since < last) | (x == self.best).flatten(1).all(1)
        found, rows = self.lowest.clone(), (~known).nonzero().flatten()
        if len(rows):
            found[rows] = self.ask(x[rows], y[rows])[0]
        return found
