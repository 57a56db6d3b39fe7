"""Weights from probabilistic margins (Wang et al., NeurIPS 2021, arXiv 2106.07904).

    PM_adv = p'_y - max_{k != y} p'_k,   PM_nat = p_y - max_{k != y} p_k,   PM_dif = p_y - p'_y
    w_i    = 3 sigmoid(-slope (PM_i - bias))                      constant, the released code
           = N sigmoid(-slope (PM_i - bias)) / sum_j (the same)   mean, the paper

p: clean, p': adversarial softmax. No gradient flows through the weights; they multiply the terms
that allow it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from abatis import Loss, PluginConflict, StepContext, Terms

if TYPE_CHECKING:
    from abatis_mail import MailConfig

RELEASED_FACTOR = 3.0


class MarginWeighted:
    """A loss whose terms marked ``reweight`` are weighted, per sample, by probabilistic margins."""

    def __init__(self, inner: Loss, config: MailConfig) -> None:
        self.inner, self.config = inner, config

    def __call__(self, ctx: StepContext) -> Terms:
        weights, terms = self.weights(ctx), self.inner(ctx)
        if not any(term.reweight for term in terms.values()):
            raise PluginConflict(
                f"'mail' has nothing to weight: no term of the loss ({', '.join(terms)}) allows "
                "re-weighting",
                fix="omit --plugin mail, or choose another loss",
            )
        return {
            name: replace(term, value=term.value * weights) if term.reweight else term
            for name, term in terms.items()
        }

    def weights(self, ctx: StepContext) -> Tensor:
        """Return the weights, (B,), detached."""
        burning_in = not self.config.count_past("burn_in", ctx.epoch, ctx.progress)
        if burning_in:
            log = torch.zeros_like(ctx.batch.y, dtype=ctx.x_adv.dtype)  # (B,)
        else:
            log = self.log_sigmoids(ctx)  # (B,)
        if self.config.normalization == "mean":
            # (N,); also in the burn-in: every step must make the same calls of gather
            everyone = ctx.gather(log)
            highest = everyone.max()  # all weights may underflow, but their ratios do not
            return (log - highest).exp() / (everyone - highest).exp().mean()
        return log.exp() if burning_in else RELEASED_FACTOR * log.exp()

    def log_sigmoids(self, ctx: StepContext) -> Tensor:
        """Return log sigmoid(-slope (PM - bias)), (B,), detached."""
        return F.logsigmoid(-self.config.slope * (self.margins(ctx) - self.config.bias))

    def margins(self, ctx: StepContext) -> Tensor:
        """Return the probabilistic margins in [-1, 1], (B,), detached."""
        y = ctx.batch.y
        if self.config.margin == "nat":
            return probabilistic_margin(ctx.logits_clean.detach(), y)
        if self.config.margin == "adv":
            return probabilistic_margin(ctx.logits_adv.detach(), y)
        clean = ctx.logits_clean.detach().softmax(dim=1)  # (B, K)
        adversarial = ctx.logits_adv.detach().softmax(dim=1)  # (B, K)
        return (clean - adversarial).gather(1, y[:, None]).squeeze(1)


def probabilistic_margin(logits: Tensor, y: Tensor) -> Tensor:
    """Return the label's probability minus the largest other one: (B, K), (B,) -> (B,)."""
    p, label = logits.softmax(dim=1), y[:, None]  # (B, K), (B, 1)
    return p.gather(1, label).squeeze(1) - p.scatter(1, label, 0).amax(1)
