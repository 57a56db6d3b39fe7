"""Weights from the attack steps a sample survives (Zhang et al., ICLR 2021; arXiv 2010.01736).

    tanh:      omega_i = (1 + tanh(a_i)) / 2,   a_i = Lambda + 5 (h - kappa_i) / h,
               h = floor(K / 2)
    sigmoid:   omega_i = sigmoid(a_i)
    discrete:  omega_i = (K + 1 - kappa_i) / (K + 1)
    w_i = N omega_i / sum_j omega_j

kappa: how many of the K iterates before a step, the start included, were classified correctly. The
weights are constants of the gradient; terms that allow it are multiplied by them.
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
    """A loss whose terms marked ``reweight`` are multiplied, sample by sample, by weights from the
    steps survived.
    """

    def __init__(self, inner: Loss, config: GairatConfig, steps: int) -> None:
        if config.omega != "discrete" and steps < 2:
            raise UsageError(
                f"'gairat' divides by half the attack steps, and there are {steps}",
                fix="--attack.steps 2 or more, or --gairat.omega discrete",
            )
        self.inner, self.config, self.steps = inner, config, steps

    def __call__(self, ctx: StepContext) -> Terms:
        weights, terms = self.weights(ctx), self.inner(ctx)
        if not any(term.reweight for term in terms.values()):
            raise PluginConflict(
                f"'gairat' has nothing to weight: no term of the loss ({', '.join(terms)}) allows "
                "it",
                fix="leave --plugin gairat out, or choose another loss",
            )
        return {
            name: replace(term, value=term.value * weights) if term.reweight else term
            for name, term in terms.items()
        }

    def weights(self, ctx: StepContext) -> Tensor:
        """(B,), of mean 1 over the global batch; raises UsageError where the attacker reports no
        steps.
        """
        if INFO not in ctx.info:  # said in the first step, not when the burn-in ends
            raise UsageError(
                "'gairat' weights by the attack steps a sample survives, and this run's attacker "
                "does not report them",
                where=f"info['{INFO}'], one count a sample",
                fix="--use attacker=pgd, or another attacker of several steps",
            )
        kappa = ctx.info[INFO].to(ctx.x_adv.dtype)  # (B,)
        raw = (
            torch.ones_like(kappa) if ctx.epoch < self.config.burn_in else self.omega(kappa)
        )  # (B,)
        return (
            raw / ctx.gather(raw).mean()
        )  # in the burn-in too: every step makes the same calls of gather

    def omega(self, kappa: Tensor) -> Tensor:
        """Weights before they are normalised: (B,) -> (B,)."""
        if self.config.omega == "discrete":
            return (self.steps + 1 - kappa) / (self.steps + 1)
        half = self.steps // 2
        argument = self.config.shift + STEEPNESS * (half - kappa) / half
        # (1 + tanh(a)) / 2 = sigmoid(2a), which loses no digits where the tanh is near -1
        return torch.sigmoid(2 * argument if self.config.omega == "tanh" else argument)
