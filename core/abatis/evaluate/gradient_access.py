"""Does autograd reach the images? Where it does not, attacks see a gradient of zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from abatis.api.batch import Batch
from abatis.evaluate.judge import Judge
from abatis.evaluate.pgd import differentiate, draw_start, margin
from abatis.system.torch_messages import is_out_of_memory

ALONE = 8  # points that are also tried one by one


@dataclass(frozen=True)
class GradientAccess:
    """How far autograd reaches the images.

    Args:
        lost: forwards after which there was no gradient.
        of: forwards that were tried.
        reason: the first error, in words; empty where there was none.
    """

    lost: int
    of: int
    reason: str = ""

    @property
    def kind(self) -> Literal["all", "some", "none"]:
        """Which of the forwards have a gradient."""
        if not self.lost:
            return "all"
        return "none" if self.lost == self.of else "some"


def find_gradient_access(judge: Judge, seed: int) -> GradientAccess:
    """Try all points, at the images and at random places of their balls, and a few one by one.

    Raises:
        OutOfMemoryError: the device has no memory for a single image.
    """
    lost, of, reason = 0, 0, ""
    size = judge.batch_size
    batches = list(judge.points.eval_batches(size))
    batches += list(
        judge.points.subset(torch.arange(min(ALONE, len(judge.points)))).eval_batches(1)
    )
    for batch in batches:
        for place in (batch.x, draw_start(batch, judge.threat, seed)):
            error = _find_error(judge, batch, place)
            reason = reason or error
            lost, of = lost + bool(error), of + 1
    return GradientAccess(lost, of, reason)


def _find_error(judge: Judge, batch: Batch, place: Tensor) -> str:
    try:
        differentiate(judge.net, place, batch.y, margin)
    except Exception as error:  # a backward of the network's own may raise anything
        if is_out_of_memory(error):  # the attacks halve their batches
            return ""
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return ""


class WithGradient(nn.Module):
    """A network whose backward never fails: where autograd gives nothing, the gradient is zero.

    Attributes:
        lost: how many backward passes had no gradient so far.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.lost = 0

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K)."""
        if torch.is_grad_enabled() and x.requires_grad:
            logits: Tensor = _Forgiving.apply(x, self)  # type: ignore[no-untyped-call]
        else:
            logits = self.module(x)
        return logits


class _Forgiving(torch.autograd.Function):
    """The forward of a network, with a backward that answers zero instead of raising."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, owner: WithGradient) -> Tensor:
        with torch.enable_grad():
            image = x.detach().requires_grad_()
            logits = owner.module(image)
        ctx.graph = image, logits, owner
        return logits.detach().clone()  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        image, logits, owner = ctx.graph
        found = None
        if logits.requires_grad:
            try:
                (found,) = torch.autograd.grad(
                    logits, image, gradient, retain_graph=True, allow_unused=True
                )
            except Exception as error:  # whatever the network's own backward raises
                if is_out_of_memory(error):
                    raise
                found = None
        if found is None:
            owner.lost += 1
            found = torch.zeros_like(image)
        return found, None
