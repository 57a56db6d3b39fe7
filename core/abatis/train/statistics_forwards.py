"""The training forwards that move the running statistics, in the order a run fixes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from abatis.api.context import StepContext
from abatis.errors import UsageError
from abatis.nets.net import Net


def repeat_forwards(net: Net, words: Sequence[str], x: Tensor, x_adv: Tensor) -> None:
    """Make training forwards without gradient, for the running statistics alone.

    Args:
        net: The network.
        words: ``clean`` or ``adv`` each; nothing is done where there are none.
        x: Clean images, (B, C, H, W).
        x_adv: Adversarial images, (B, C, H, W).
    """
    if not words:
        return
    with net.whole(), torch.no_grad():
        for word in words:
            net(x if word == "clean" else x_adv)


def make_loss_forwards(ctx: StepContext) -> None:
    """Make the forwards of ``ctx.forwards`` in their order, before the losses.

    The first of a kind is the losses' own. Without an attack both kinds are the same.
    """
    made: set[str] = set()
    for word in ctx.forwards:
        kind = "clean" if ctx.x_adv is ctx.batch.x else word
        if kind not in made:
            _ = ctx.logits_clean if kind == "clean" else ctx.logits_adv
        else:
            with torch.no_grad():
                ctx.net(ctx.batch.x if kind == "clean" else ctx.x_adv)
        made.add(kind)


def check_loss_forwards(forwards: Sequence[str], used: Sequence[str]) -> None:
    """Raise UsageError where the losses use a forward that ``--statistics.loss`` leaves out."""
    missing = [word for word in used if word not in forwards]
    if forwards and missing:
        raise UsageError(
            f"--statistics.loss {','.join(forwards)}: the losses need the forward"
            f" '{missing[0]}' too",
            fix=f"add {missing[0]} where it belongs in that order, or leave the option out",
        )


def list_used_forwards(ctx: StepContext) -> list[str]:
    """The forwards that were made, ``clean`` and ``adv``; of a step without attack, all alike."""
    if ctx.x_adv is ctx.batch.x:
        return []
    return [word for word in ("clean", "adv") if f"logits_{word}" in ctx.__dict__]
