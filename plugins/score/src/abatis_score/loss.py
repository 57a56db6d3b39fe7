"""SCORE (Pang et al., ICML 2022, arXiv 2202.10103): distances between distributions as the loss.

    to_label_i = d(p_i, t_i),                        t_i = (1 - K e / (K - 1)) onehot + e / (K - 1)
    to_clean_i = max(0, d(p'_i, p_i) - clip),        weighted by beta

p: clean, p': adversarial softmax; d: the squared error sum_k (p_k - q_k)^2. Nothing is detached.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from abatis import StepContext, Term, Terms

if TYPE_CHECKING:
    from abatis_score import ScoreConfig

LEAST = 1e-30  # of a probability under a logarithm, and of a value under a root


class ScoreLoss:
    """The loss ``score``: the terms ``to_label`` and ``to_clean``."""

    def __init__(self, config: ScoreConfig) -> None:
        self.config = config
        self.distance = DISTANCES[config.distance]

    def __call__(self, ctx: StepContext) -> Terms:
        clean, adversarial = ctx.logits_clean.softmax(1), ctx.logits_adv.softmax(1)  # (B, K)
        target = smooth(ctx.batch.target, clean, self.config.smoothing)
        to_clean = (self.distance(adversarial, clean) - self.config.clip).relu()  # (B,)
        return {
            "to_label": Term(self.distance(clean, target)),
            "to_clean": Term(to_clean, weight=self.config.beta, reweight=True),
        }


def smooth(labels: Tensor, like: Tensor, smoothing: float) -> Tensor:
    """Return distributions for labels, (B,) or (B, K), of the shape and type of ``like``."""
    classes = like.shape[1]
    target = labels  # (B, K)
    if labels.dim() == 1:  # one_hot would make a GPU wait
        target = torch.zeros_like(like).scatter_(1, labels[:, None], 1)
    rest = smoothing / (classes - 1)
    return target.to(like) * (1 - classes * rest) + rest


def take_root(value: Tensor) -> Tensor:
    """Return the square root with a finite gradient at 0."""
    return value.clamp(min=LEAST).sqrt()


def kl_divergence(p: Tensor, q: Tensor) -> Tensor:
    """Return KL(p || q) of every sample: (B, K), (B, K) -> (B,)."""
    return (p * (p.clamp(min=LEAST).log() - q.clamp(min=LEAST).log())).sum(1)


def js_divergence(p: Tensor, q: Tensor) -> Tensor:
    """Return the Jensen-Shannon divergence of every sample: (B, K), (B, K) -> (B,)."""
    middle = (p + q) / 2
    return (kl_divergence(p, middle) + kl_divergence(q, middle)) / 2


def squared_error(p: Tensor, q: Tensor) -> Tensor:
    """Return the sum of squared differences of every sample: (B, K), (B, K) -> (B,)."""
    return (p - q).square().sum(1)


DISTANCES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "lse": squared_error,
    "js": js_divergence,
    "js-sqrt": lambda p, q: take_root(js_divergence(p, q)),
    "l1-squared": lambda p, q: (p - q).abs().sum(1).square(),
    "kl": lambda p, q: kl_divergence(q, p),
    "kl-sqrt": lambda p, q: take_root(kl_divergence(q, p)),
    "l1": lambda p, q: (p - q).abs().sum(1),
    "l2": lambda p, q: take_root(squared_error(p, q)),
}
"""From a prediction and a target, (B, K) each, to their distance, (B,)."""
