"""Shortcuts for the authors' attacks: they do not ask the network what cannot matter or is known.

The attacks are those of pyautoattack, with the same random draws and the same steps. They treat
every row by itself. If the network does so too, and always gives the same logits for an image,
then leaving out a row changes nothing for the others but rounding. The functions here replace
attributes of the package's objects, so they are only used with the version that
:mod:`~abatis.evaluate.pyautoattack_messages` knows.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from abatis.api.ball import Ball
from abatis.api.context import Forward
from abatis.api.threat import Threat
from abatis.evaluate.pgd import margin
from abatis.evaluate.square import Ask
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


def make_queries(forward: Forward) -> Ask:
    """Return Square's queries to a network."""
    return lambda x, y: -margin(forward(x), y)


def ask_in_bf16(square: Any, net: Net) -> Ask:
    """Make a Square object query the network in bfloat16; returns its queries.

    That is another random walk. What seems to fool is asked again in float32, which decides.
    """
    swift, exact = make_queries(Net(net.module, "bf16")), make_queries(square.predict)

    def ask(x: Tensor, y: Tensor) -> Tensor:
        found = swift(x, y)
        rows = (found <= 0).nonzero().flatten()
        if len(rows):
            found[rows] = exact(x[rows], y[rows])
        return found

    def margins(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        found = ask(x, y)
        return found, found.clone()

    square.margin_and_loss = margins
    return ask
