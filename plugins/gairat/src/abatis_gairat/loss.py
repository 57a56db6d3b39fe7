"""Weights from the attack steps a sample survives (Zhang et al., ICLR 2021, arXiv 2010.01736).

    tanh:      omega_i = (1 + tanh(a_i)) / 2,   a_i = Lambda + 5 (h - kappa_i) / h,
               h = floor(K / 2)
    sigmoid:   omega_i = sigmoid(a_i)
    discrete:  omega_i = (K + 1 - kappa_i) / (K + 1)
    w_i = N omega_i / sum_j omega_j

kappa: how many of the first K iterates of the attack, starting point included, are classified
correctly. No gradient flows through the weights; they multiply the terms that allow it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from abatis import Loss, PluginConflict, StepContext, Terms, UsageError

if TYPE_CHECKING:
    from abatis_gairat import GairatConfig

STEEPNESS = 5
INFO = "steps_correct"


class GeometryWeighted:
    """A loss whose terms marked ``reweight`` are weighted, per sample, by the steps survived."""

    def __init__(self, inner: Loss, config: GairatConfig, steps: int) -> None:
        if config.omega != "discrete" and steps < 2:
            raise UsageError(
                f"'gairat' divides by half the number of attack steps, which is {steps}",
                fix="use --attack.steps 2 or more, or --gairat.omega discrete",
            )
        self.inner, self.config, self.steps = inner, config, steps

    def __call__(self, ctx: StepContext) -> Terms:
        weights, terms = self.weights(ctx), self.inner(ctx)
        if not any(term.reweight for term in terms.values()):
            raise PluginConflict(
                f"'gairat' has nothing to weight: no term of the loss ({', '.join(terms)}) allows "
                "re-weighting",
                fix="omit --plugin gairat, or choose another loss",
            )
        return {
            name: replace(term, value=term.value * weights) if term.reweight else term
            for name, term in terms.items()
        }

    def weights(self, ctx: StepContext) -> Tensor:
        """Return the weights, (B,), with mean 1 over the global batch.

        Raises:
            UsageError: the attacker does not report the steps.
        """
        if INFO not in ctx.info:  # an error of the first step, not only after the burn-in
            raise UsageError(
                "'gairat' needs the number of attack steps each sample survives, and the attacker "
                "of this run does not report it",
                where=f"info['{INFO}'], one count per sample",
                fix="use --use attacker=pgd, or another attacker with several steps",
            )
        kappa = ctx.info[INFO].to(ctx.x_adv.dtype)  # (B,)
        burning_in = not self.config.count_past("burn_in", ctx.epoch, ctx.progress)
        raw = torch.ones_like(kappa) if burning_in else self.omega(kappa)  # (B,)
        # also in the burn-in: every step must make the same calls of gather
        return raw / ctx.gather(raw).mean()

    def omega(self, kappa: Tensor) -> Tensor:
        """Return the weights before normalisation: (B,) -> (B,)."""
        if self.config.omega == "discrete":
            return (self.steps + 1 - kappa) / (self.steps + 1)
        half = self.steps // 2
        argument = self.config.shift + STEEPNESS * (half - kappa) / half
        # (1 + tanh(a)) / 2 = sigmoid(2a), which stays precise where tanh is near -1
        return torch.sigmoid(2 * argument if self.config.omega == "tanh" else argument)
