"""Boosted cross-entropy and weighted KL (Wang et al., ICLR 2020), as in the released code.

    BCE_i = -log p'_iy - log(1.0001 - max_{k != y} p'_ik + 1e-12)
    KL_i  = sum_k p_ik (log p_ik - log(p'_ik + 1e-12)),  weighted by 1.0000001 - p_iy

p: clean, p': adversarial softmax. Nothing is detached: the gradient flows through the KL's target
and its weight too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from abatis import StepContext, Term, Terms

if TYPE_CHECKING:
    from abatis_mart import MartConfig

FLOOR = 1e-12


class MisclassificationAwareLoss:
    """The loss ``mart``: the terms ``bce`` and ``kl``."""

    def __init__(self, config: MartConfig) -> None:
        self.config = config

    def __call__(self, ctx: StepContext) -> Terms:
        y = ctx.batch.y
        bce = boosted_cross_entropy(ctx.logits_adv, y)  # (B,)
        kl = weighted_kl(ctx.logits_clean, ctx.logits_adv, y)  # (B,)
        return {"bce": Term(bce, reweight=True), "kl": Term(kl, weight=self.config.beta)}


def boosted_cross_entropy(logits_adv: Tensor, y: Tensor) -> Tensor:
    """Return the boosted cross-entropy of every sample: (B, K), (B,) -> (B,).

    It is the cross-entropy minus log(1 - p), where p is the probability of the most likely wrong
    class.
    """
    p_adv = logits_adv.softmax(dim=1)  # (B, K)
    # (B,) each; exact ties are resolved as in the released code
    second, first = p_adv.detach().argsort(dim=1)[:, -2:].unbind(1)
    rival = p_adv.gather(1, torch.where(first == y, second, first)[:, None]).squeeze(1)  # (B,)
    return F.cross_entropy(logits_adv, y, reduction="none") - torch.log(1.0001 - rival + FLOOR)


def weighted_kl(logits_clean: Tensor, logits_adv: Tensor, y: Tensor) -> Tensor:
    """Return KL(p || p') times (1 - p_y), of every sample: (B, K), (B, K), (B,) -> (B,)."""
    # (B, K); finite where a probability underflows, unlike the logarithm of the softmax
    log_p = logits_clean.log_softmax(dim=1)
    p = log_p.exp()
    kl = (p * (log_p - torch.log(logits_adv.softmax(dim=1) + FLOOR))).sum(1)  # (B,)
    return kl * (1.0000001 - p.gather(1, y[:, None]).squeeze(1))
