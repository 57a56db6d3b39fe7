"""Adversarial margin maximisation (Yan, Guo & Zhang, TPAMI 2019), with the constants of the
released code.

    (1/N) sum_{i in S+} R+(m_i) + (1/N) sum_{i in S-} R-(m_i),   m_i = ||Delta_i||

S+: samples that the network in eval mode classifies correctly, Delta the DeepFool perturbation that
leaves the class; S-: the wrong ones, Delta the one that reaches the true class. With lambda =
weight and V = clip:

    exp:     R+ = min(lambda exp(-c m), V)
             R- = min(lambda exp(d min(m, ln(V / lambda + 1) / d)), V)
    invprop: R+ = min(lambda / (1 + c m), V)     R- = lambda / (1 - d min(m, (1 - lambda / V) / d))
    lin:     R+ = -lambda c m                    R- = lambda d m
    margin:  R+ = lambda max(c - m, 0)           R- = lambda (c + m)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from abatis import StepContext, Term, Terms
from abatis_amm.deepfool import DeepFool, size

if TYPE_CHECKING:
    from abatis_amm import AmmConfig


class AdversarialMarginPenalty:
    """The regularizer ``amm``: the terms ``positive`` and ``negative``, 0 where a sample does not
    count.
    """

    def __init__(self, config: AmmConfig, num_classes: int) -> None:
        self.config, self.num_classes = config, num_classes

    def __call__(self, ctx: StepContext) -> Terms:
        with torch.no_grad():
            logits = ctx.net.frozen(ctx.batch.x)  # (B, K)
        correct = logits.argmax(1) == ctx.batch.y  # (B,)
        groups = (
            {"positive": correct}
            if self.config.positive_only
            else {"positive": correct, "negative": ~correct}
        )
        if self.config.aggregation == "min":
            groups = self._worst(ctx, logits, groups)
        terms = {}
        for name, members in groups.items():
            rows, margins = self._margins(ctx, logits, name, members, graph=True)
            penalties = (
                push(margins, self.config) if name == "positive" else pull(margins, self.config)
            )  # (R,)
            value = torch.zeros_like(logits[:, 0]).index_add(0, rows, penalties)  # (B,)
            terms[name] = Term(value, weight=self.config.weight)
        return terms

    def _margins(
        self, ctx: StepContext, logits: Tensor, name: str, members: Tensor, graph: bool
    ) -> tuple[Tensor, Tensor]:
        """Rows (R,) of the members (B,) whose perturbation arrived, and their margins (R,)."""
        rows = members.nonzero().squeeze(1)
        x, toward = ctx.batch.x[rows], None if name == "positive" else ctx.batch.y[rows]
        r, arrived = DeepFool(ctx.net, self.config)(x, logits[rows], toward, graph)
        if not self.config.use_failed:
            rows, x, r = rows[arrived], x[arrived], r[arrived]
        margins = size(r, self.config.norm)  # (R,)
        return rows, margins / size(x, self.config.norm).clamp(
            min=1e-12
        ) if self.config.relative else margins

    def _worst(
        self, ctx: StepContext, logits: Tensor, groups: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Of the members (B,) those that stand for their class in the global batch: found without a
        graph.
        """
        keys = []
        for name, members in groups.items():
            rows, margins = self._margins(ctx, logits, name, members, graph=False)
            key = torch.full_like(logits[:, 0], float("inf"))
            keys.append(
                key.index_copy(0, rows, margins if name == "positive" else -margins)
            )  # (B,), the least is the worst
        # one gather: the values of samples are taken up by index, since a second pass may differ in
        # the last bit
        index = ctx.batch.index.to(logits.dtype)
        *everyone, labels, indices = ctx.gather(
            torch.stack([*keys, ctx.batch.y.to(logits.dtype), index], 1)
        ).unbind(1)
        top = max(1, int(self.config.top_fraction * ctx.global_size))
        chosen = (worst(key, labels.long(), self.num_classes, top) for key in everyone)
        return {
            name: torch.isin(index, indices[mask]) & groups[name]
            for name, mask in zip(groups, chosen, strict=True)
        }


def worst(key: Tensor, labels: Tensor, num_classes: int, top: int) -> Tensor:
    """Which samples have the least key of their label and one of the ``top`` least of all: (N,),
    (N,) -> (N,) bool.

    A key of infinity stands for no candidate. All of several equal ones are taken, whatever their
    order.
    """
    least = key.new_full((num_classes,), float("inf")).scatter_reduce(
        0, labels, key, "amin"
    )  # (K,)
    return (
        key.isfinite() & (key <= least[labels]) & (key <= key.sort().values[min(top, len(key)) - 1])
    )


def push(m: Tensor, config: AmmConfig) -> Tensor:
    """R+ / lambda, falling with the margin: (R,) -> (R,)."""
    largest = config.clip / config.weight
    match config.shrinkage:
        case "exp":
            return (-config.c * m).exp().clamp(max=largest)
        case "invprop":
            return (1 / (1 + config.c * m)).clamp(max=largest)
        case "lin":
            return -config.c * m
        case "margin":
            return (config.c - m).clamp(min=0)


def pull(m: Tensor, config: AmmConfig) -> Tensor:
    """R- / lambda, growing with the distance to the true class: (R,) -> (R,)."""
    largest = config.clip / config.weight
    match config.shrinkage:
        case "exp":  # clamped before the exponential too: an infinite one has no gradient but NaN
            return (
                (config.d * m.clamp(max=math.log(largest + 1) / config.d)).exp().clamp(max=largest)
            )
        case "invprop":
            return 1 / (1 - config.d * m.clamp(max=(1 - 1 / largest) / config.d))
        case "lin":
            return config.d * m
        case "margin":
            return config.c + m
