"""Cross-entropy, switched to one-vs-the-rest where the logit margin is small (Kanai et al., ICML
2023; arXiv 2207.10283).

    OVR_i = log(1 + exp(-z_iy)) + sum_{k != y} log(1 + exp(z_ik))
    LM_i  = max_{k != y} z'_ik - z'_iy
    total = (1 / N) (sum_{i not in L} CE_i + lambda sum_{i in L} OVR_i)

L: the floor(M N) samples of the batch with the largest LM; the choice carries no gradient. z = z',
the adversarial logits, where beta = 0; with beta > 0 z are the clean ones, and (beta / N) sum_i
KL(p_i || p'_i) is added.
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

ROUNDING = (
    1e-9  # a product such as 0.29 * 100 may fall a little short of the whole number that it is
)


class SwitchedLoss:
    """The loss ``sovr``: the terms ``ce`` and ``ovr``, each 0 where the other applies, and ``kl``
    where beta is above 0.
    """

    def __init__(self, config: SovrConfig) -> None:
        self.config = config

    def __call__(self, ctx: StepContext) -> Terms:
        switched, y = self.switched(ctx), ctx.batch.y  # (B,) each
        with_kl = self.config.beta > 0
        logits = ctx.logits_clean if with_kl else ctx.logits_adv  # (B, K)
        ce = F.cross_entropy(logits, y, reduction="none")  # (B,)
        ovr = one_versus_rest(logits, y)  # (B,)
        # wrappers weight what is taken at the adversarial images; with the KL term these two are
        # clean
        terms = {
            "ce": Term(torch.where(switched, 0, ce), reweight=not with_kl),
            "ovr": Term(
                torch.where(switched, ovr, 0), weight=self.config.weight, reweight=not with_kl
            ),
        }
        if with_kl:
            log_p, log_p_adv = (
                logits.log_softmax(dim=1),
                ctx.logits_adv.log_softmax(dim=1),
            )  # (B, K) each
            kl = F.kl_div(log_p_adv, log_p, reduction="none", log_target=True).sum(
                1
            )  # (B,), KL(p || p')
            terms["kl"] = Term(kl, weight=self.config.beta, reweight=True)
        return terms

    def switched(self, ctx: StepContext) -> Tensor:
        """Which samples are in L: (B,) bool. Ties go to the sample that comes first in the training
        set.
        """
        index = ctx.gather(
            ctx.batch.index
        )  # (N,); asked for before any forward, so that micro-batches get it for nothing
        logits = ctx.logits_clean if self.config.select_on == "nat" else ctx.logits_adv
        loss = margin_loss(logits.detach(), ctx.batch.y)  # (B,)
        everyone = ctx.gather(loss)  # (N,)
        count = math.floor(self.config.fraction * ctx.global_size + ROUNDING)
        if count == 0:
            return torch.zeros_like(loss, dtype=torch.bool)
        by_index = index.argsort()
        by_loss = by_index[everyone[by_index].argsort(descending=True, stable=True)]
        last = by_loss[
            count - 1 : count
        ]  # (1,); a single number as an index would be read by the host
        return (loss > everyone[last]) | (
            (loss == everyone[last]) & (ctx.batch.index <= index[last])
        )


def one_versus_rest(logits: Tensor, y: Tensor) -> Tensor:
    """K logistic losses, class y against 1 and the others against 0, summed: (B, K), (B,) ->
    (B,).
    """
    is_label = torch.zeros_like(logits, dtype=torch.bool).scatter(1, y[:, None], True)  # (B, K)
    return -F.logsigmoid(torch.where(is_label, logits, -logits)).sum(1)


def margin_loss(logits: Tensor, y: Tensor) -> Tensor:
    """The largest other logit minus that of the label, above 0 where the sample is misclassified:
    (B, K), (B,) -> (B,).
    """
    label = y[:, None]
    return logits.scatter(1, label, -math.inf).amax(1) - logits.gather(1, label).squeeze(1)


def start_last_bias(module: nn.Module, num_classes: int) -> None:
    """Set the bias of the last Linear layer to -log(K - 1): every sigmoid starts near 1 / K, not 1
    / 2.

    The hook calls this each time a run starts. A resumed run loads its checkpoint after the hooks,
    which overwrites the bias, so nothing is lost. Raises UsageError where the last Linear layer is
    no such head.
    """
    linear = [part for part in module.modules() if isinstance(part, nn.Linear)]
    bias = linear[-1].bias if linear and linear[-1].out_features == num_classes else None
    if bias is None:
        raise UsageError(
            f"bias_init finds no last Linear layer with a bias and {num_classes} outputs",
            where=f"a network of {len(linear)} Linear layers",
            fix="leave --sovr.bias-init out, or choose a backbone that ends in such a layer",
        )
    with torch.no_grad():
        bias.fill_(-math.log(num_classes - 1))
