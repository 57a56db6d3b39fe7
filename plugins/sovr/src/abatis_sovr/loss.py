"""Switching one-vs-the-rest loss (Kanai et al., ICML 2023, arXiv 2207.10283).

    OVR_i = log(1 + exp(-z_iy)) + sum_{k != y} log(1 + exp(z_ik))
    LM_i  = max_{k != y} z'_ik - z'_iy
    total = (1 / N) (sum_{i not in L} CE_i + lambda sum_{i in L} OVR_i)

L: the floor(M N) samples of the batch with the largest LM, that is the smallest logit margin; the
selection has no gradient. With beta = 0, z = z', the adversarial logits; with beta > 0, z are the
clean logits, and (beta / N) sum_i KL(p_i || p'_i) is added.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from abatis import StepContext, Term, Terms, UsageError

if TYPE_CHECKING:
    from abatis_sovr import SovrConfig

ROUNDING = 1e-9  # in floating point, a product such as 0.29 * 100 may be slightly below 29


class SwitchedLoss:
    """The loss ``sovr``: the terms ``ce`` and ``ovr``, each 0 where the other applies.

    With beta above 0 there is a third term, ``kl``.
    """

    def __init__(self, config: SovrConfig) -> None:
        self.config = config

    def __call__(self, ctx: StepContext) -> Terms:
        switched, y = self.switched(ctx), ctx.batch.y  # (B,) each
        with_kl = self.config.beta > 0
        logits = ctx.logits_clean if with_kl else ctx.logits_adv  # (B, K)
        ce = F.cross_entropy(logits, y, reduction="none")  # (B,)
        ovr = one_versus_rest(logits, y)  # (B,)
        # wrappers weight terms of the adversarial images; with the KL these two are clean
        terms = {
            "ce": Term(torch.where(switched, 0, ce), reweight=not with_kl),
            "ovr": Term(
                torch.where(switched, ovr, 0), weight=self.config.weight, reweight=not with_kl
            ),
        }
        if with_kl:
            log_p = logits.log_softmax(dim=1)  # (B, K)
            log_p_adv = ctx.logits_adv.log_softmax(dim=1)  # (B, K)
            # KL(p || p'), (B,)
            kl = F.kl_div(log_p_adv, log_p, reduction="none", log_target=True).sum(1)
            terms["kl"] = Term(kl, weight=self.config.beta, reweight=True)
        return terms

    def switched(self, ctx: StepContext) -> Tensor:
        """Return which samples are in L, (B,) bool.

        Of several samples with the same margin, the first in the training set is selected.
        """
        # (N,); gathered before any forward pass, where micro-batches cost no extra one
        index = ctx.gather(ctx.batch.index)
        logits = ctx.logits_clean if self.config.select_on == "nat" else ctx.logits_adv
        loss = margin_loss(logits.detach(), ctx.batch.y)  # (B,)
        everyone = ctx.gather(loss)  # (N,)
        count = math.floor(self.config.fraction * ctx.global_size + ROUNDING)
        if count == 0:
            return torch.zeros_like(loss, dtype=torch.bool)
        by_index = index.argsort()
        by_loss = by_index[everyone[by_index].argsort(descending=True, stable=True)]
        last = by_loss[count - 1 : count]  # (1,); indexing with a number would make the host wait
        return (loss > everyone[last]) | (
            (loss == everyone[last]) & (ctx.batch.index <= index[last])
        )


def one_versus_rest(logits: Tensor, y: Tensor) -> Tensor:
    """Return the sum of K logistic losses, target 1 for y and 0 otherwise: (B, K), (B,) -> (B,)."""
    is_label = torch.zeros_like(logits, dtype=torch.bool).scatter(1, y[:, None], True)  # (B, K)
    return -F.logsigmoid(torch.where(is_label, logits, -logits)).sum(1)


def margin_loss(logits: Tensor, y: Tensor) -> Tensor:
    """Return the largest other logit minus that of the label: (B, K), (B,) -> (B,).

    It is above 0 for misclassified samples.
    """
    label = y[:, None]
    return logits.scatter(1, label, -math.inf).amax(1) - logits.gather(1, label).squeeze(1)


def start_last_bias(module: nn.Module, num_classes: int) -> None:
    """Set the bias of the last Linear layer to -log(K - 1), so that sigmoids start near 1 / K.

    The hook calls this each time a run starts. A resumed run loads its checkpoint afterwards, which
    restores the learned bias.

    Raises:
        UsageError: the last Linear layer has no bias or not K outputs.
    """
    linear = [part for part in module.modules() if isinstance(part, nn.Linear)]
    bias = linear[-1].bias if linear and linear[-1].out_features == num_classes else None
    if bias is None:
        raise UsageError(
            f"--sovr.bias-init needs a last Linear layer with a bias and {num_classes} outputs",
            where=f"a network with {len(linear)} Linear layers",
            fix="omit --sovr.bias-init, or choose a backbone that ends in such a layer",
        )
    with torch.no_grad():
        bias.fill_(-math.log(num_classes - 1))
