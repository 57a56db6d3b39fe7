"""Weights (1 - p'_iy)^gamma; p' is the softmax of the adversarial image, without gradient."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from abatis import Loss, StepContext, Terms

if TYPE_CHECKING:
    from abatis_my_wrapper import MyWrapperConfig


class MyWrapper:
    """A loss that multiplies the terms marked ``reweight`` by a weight per sample."""

    def __init__(self, inner: Loss, config: MyWrapperConfig) -> None:
        self.inner, self.config = inner, config

    def __call__(self, ctx: StepContext) -> Terms:
        terms, weights = self.inner(ctx), self.compute_weights(ctx)
        return {
            name: replace(term, value=term.value * weights) if term.reweight else term
            for name, term in terms.items()
        }

    def compute_weights(self, ctx: StepContext) -> Tensor:
        """One weight per sample, (B,), detached."""
        probabilities = ctx.logits_adv.detach().softmax(1)  # (B, K)
        of_label = probabilities.gather(1, ctx.batch.y[:, None]).squeeze(1)  # (B,)
        return (1 - of_label) ** self.config.gamma
