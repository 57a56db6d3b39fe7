"""Adversarial margin maximisation (Yan, Guo & Zhang, TPAMI 2019), as in the released code.

    (1/N) sum_{i in S+} R+(m_i) + (1/N) sum_{i in S-} R-(m_i),   m_i = ||Delta_i||

S+: samples that the network classifies correctly in eval mode; Delta is the DeepFool perturbation
that leaves the class. S-: misclassified samples; Delta is the one that reaches the true class. With
lambda = weight and V = clip:

    exp:     R+ = min(lambda exp(-c m), V)
             R- = min(lambda exp(d min(m, ln(V / lambda + 1) / d)), V)
    invprop: R+ = min(lambda / (1 + c m), V)     R- = lambda / (1 - d min(m, (1 - lambda / V) / d))
    lin:     R+ = -lambda c m                    R- = lambda d m
    margin:  R+ = lambda max(c - m, 0)           R- = lambda (c + m)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from abatis import StepContext, Term, Terms
from abatis_amm.deepfool import DeepFool, size
from abatis_amm.shrinkage import pull, push

if TYPE_CHECKING:
    from abatis_amm import AmmConfig


NOBODY = -1  # the index of no sample


class AdversarialMarginPenalty:
    """The regularizer ``amm``: the terms ``positive`` and ``negative``.

    Each is 0 for samples that do not count in it.
    """

    def __init__(self, config: AmmConfig, num_classes: int) -> None:
        self.config, self.num_classes = config, num_classes

    def __call__(self, ctx: StepContext) -> Terms:
        everyone = self._gather_everyone(ctx)
        with torch.no_grad():
            logits = ctx.net.frozen(ctx.batch.x)  # (B, K)
        correct = logits.argmax(1) == ctx.batch.y  # (B,)
        groups = (
            {"positive": correct}
            if self.config.positive_only
            else {"positive": correct, "negative": ~correct}
        )
        if everyone is not None:
            groups = self._worst(ctx, logits, groups, everyone)
        terms = {}
        for name, members in groups.items():
            rows, margins = self._margins(ctx, logits, name, members, graph=True)
            penalties = (
                push(margins, self.config) if name == "positive" else pull(margins, self.config)
            )  # (R,)
            value = torch.zeros_like(logits[:, 0]).index_add(0, rows, penalties)  # (B,)
            terms[name] = Term(value, weight=self.config.weight)
        return terms

    def _gather_everyone(self, ctx: StepContext) -> Tensor | None:
        """Return labels and indices of the global batch, (N, 2), where they are needed.

        Integers, because float32 has 24 bits. This comes before any forward pass, because
        micro-batches repeat what comes before a gather.
        """
        if self.config.aggregation != "min":
            return None
        return ctx.gather(torch.stack([ctx.batch.y, ctx.batch.index], 1))

    def _margins(
        self, ctx: StepContext, logits: Tensor, name: str, members: Tensor, graph: bool
    ) -> tuple[Tensor, Tensor]:
        """Return the rows of the members that arrived, and their margins: (B,) -> (R,), (R,)."""
        rows = members.nonzero().squeeze(1)
        x, toward = ctx.batch.x[rows], None if name == "positive" else ctx.batch.y[rows]
        r, arrived = DeepFool(ctx.net, self.config)(x, logits[rows], toward, graph)
        if not self.config.use_failed:
            kept = arrived.nonzero().squeeze(1)  # (R,)
            rows, x, r = rows[kept], x[kept], r[kept]
        margins = size(r, self.config.norm)  # (R,)
        if self.config.relative:
            margins = margins / size(x, self.config.norm).clamp(min=1e-12)
        return rows, margins

    def _worst(
        self, ctx: StepContext, logits: Tensor, groups: Mapping[str, Tensor], everyone: Tensor
    ) -> dict[str, Tensor]:
        """Return the members (B,) that are the worst of their class in the global batch.

        They are found without a graph.

        Args:
            ctx: the step.
            logits: of the images, (B, K).
            groups: the members of each term, (B,) bool.
            everyone: labels and indices of the global batch, (N, 2).
        """
        keys = []
        for name, members in groups.items():
            rows, margins = self._margins(ctx, logits, name, members, graph=False)
            key = torch.full_like(logits[:, 0], float("inf"))
            # (B,), the smallest is the worst
            keys.append(key.index_copy(0, rows, margins if name == "positive" else -margins))
        top = max(1, int(self.config.top_fraction * ctx.global_size))
        labels, indices = everyone.unbind(1)  # (N,) each
        gathered = ctx.gather(torch.stack(keys, 1)).unbind(1)  # (N,) each
        chosen = (worst(key, labels, self.num_classes, top) for key in gathered)
        # samples are matched by index, as a second pass may differ in the last bit
        return {
            name: torch.isin(ctx.batch.index, torch.where(mask, indices, NOBODY)) & groups[name]
            for name, mask in zip(groups, chosen, strict=True)
        }


def worst(key: Tensor, labels: Tensor, num_classes: int, top: int) -> Tensor:
    """Return which samples have the smallest key of their label and one of the ``top`` smallest.

    Ties are all selected, so the order of the samples does not matter.

    Args:
        key: a number per sample, (N,); infinity for samples that cannot be selected.
        labels: the labels, (N,).
        num_classes: K.
        top: how many samples of the batch can be selected, ties aside.

    Returns:
        (N,) bool.
    """
    least = key.new_full((num_classes,), float("inf"))
    least = least.scatter_reduce(0, labels, key, "amin")  # (K,)
    last = key.sort().values[min(top, len(key)) - 1]
    return key.isfinite() & (key <= least[labels]) & (key <= last)
