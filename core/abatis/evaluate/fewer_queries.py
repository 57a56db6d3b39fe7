"""What the authors' attacks need not ask the network: questions whose answer cannot matter, or is known.

The attacks are the package's own, draw by draw and step by step. They treat every row for itself. Where the network does so
too, and says the same of an image whenever it is asked, a row that is left out changes nothing for the others but rounding.
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
from abatis.nets.net import SAME, Net


def drop_fooled(apgd: Any, threat: Threat) -> None:
    """Let an APGD object of the package run the network only on rows that no image of its run has fooled yet."""
    forward, whole = apgd.model, apgd.attack_single_run

    def single_run(x: Tensor, y: Tensor, x_init: Tensor | None = None) -> Any:
        if apgd.eps != threat.eps:  # for L1 it looks for a start in larger balls
            return whole(x, y, x_init)
        apgd.model = Standing(forward, x, y, threat)
        try:
            return whole(x, y, x_init)
        finally:
            apgd.model = forward

    apgd.attack_single_run = single_run


class Standing:
    """The forward of one run. A row that an image inside ball and box has fooled, by more than rounding, is not run again.

    From then on it is answered as if it were right, so that the image stays the last one that the package has noted.
    """

    def __init__(self, forward: Forward, x: Tensor, y: Tensor, threat: Threat) -> None:
        self.forward, self.y, self.ball = forward, y, Ball(x, threat)
        self.rows = torch.arange(len(y), device=y.device)  # who is run
        self.answers = torch.empty(0)  # (B, K)

    def __call__(self, x: Tensor) -> Tensor:
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
            fooled = margin(logits, self.y) > SAME * logits.abs().amax()  # (B,)
            if fooled.any():
                self.rows = rows[~(fooled & self.ball.contains(x))[rows]]
        return logits


def ask_in_bf16(square: Any, net: Net) -> None:
    """Let a Square object ask in bfloat16, which is another path; what seems to fool is asked again, and that answer counts."""
    swift, exact = Net(net.module, "bf16"), square.predict

    def margins(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        found = -margin(swift(x), y)
        rows = (found <= 0).nonzero().flatten()
        if len(rows):
            found[rows] = -margin(exact(x[rows]), y[rows])
        return found, found.clone()

    square.margin_and_loss = margins


def skip_known(square: Any) -> None:
    """Let a Square object of the package ask only what it does not know, in Linf."""
    if square.norm == "Linf":
        tried = Tried(square.margin_and_loss, square.random_int, square.random_choice)
        square.margin_and_loss, square.random_int, square.random_choice = (
            tried.margins,
            tried.random_int,
            tried.random_choice,
        )


class Tried:
    """Stands between a Square object and its network. A query draws one square for all rows, each of which puts it on its
    best image; the answer is known where it did not help on that very image before, or changes nothing.

    best: (B, C, H, W); lowest: their margins, (B,); since: the query that found them, (B,); last: that of every draw.
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
        """A place, (1,) int64; how far it can be says how large the square is."""
        place: Tensor = self.integer(low, high)
        self.drawn += [high, *place.tolist()]
        return place

    def random_choice(self, shape: list[int]) -> Tensor:
        """Signs: of a square (C, 1, 1), or of the stripes at the start of a run (B, C, 1, W)."""
        signs = self.sign(shape)
        if len(shape) == 3:
            self.drawn += signs.flatten().tolist()
        else:
            self.query = 0
            self.last.clear()
        return signs

    def margins(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W), (B,) to the margin and the loss, (B,) each, which are the same here."""
        draw = tuple(self.drawn)
        self.drawn.clear()
        if not self.query:
            found = self.ask(x, y)[0]
            self.best, self.lowest, self.since = x.clone(), found.clone(), torch.zeros_like(y)
        else:
            found = self._answers(x, y, self.last.get(draw, 0))
            better = found < self.lowest
            self.best[better], self.since[better] = x[better], self.query
            self.lowest = torch.minimum(self.lowest, found)
        self.last[draw] = self.query
        self.query += 1
        standing = self.lowest > 0
        if not standing.all():  # the package asks no more about the others
            self.best, self.lowest, self.since = (
                self.best[standing],
                self.lowest[standing],
                self.since[standing],
            )
        return found, found.clone()

    def _answers(self, x: Tensor, y: Tensor, last: int) -> Tensor:
        known = (self.since < last) | (x == self.best).flatten(1).all(1)
        found, rows = self.lowest.clone(), (~known).nonzero().flatten()
        if len(rows):
            found[rows] = self.ask(x[rows], y[rows])[0]
        return found
