"""The gradient norm on natural images (Rodriguez-Munoz et al., ECCV 2024, arXiv 2409.20139).

    CE_i   = CE(z(x_i), target_i),                                         weighted by 0.8
    norm_i = (eps / 0.225) sum_c w_c std_c || d CE_i / d x_ic ||_1,        weighted by 1.2 alpha(t)

alpha(t) grows by ``ramp`` in an epoch, up to ``ramp_end``. std_c d/dx_c is the derivative by the
normalised channel c. The gradient is that of the net in eval mode, and no attack is made.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from abatis import Run, StepContext, Term, Terms, UsageError
from abatis_grad_norm import GradNormConfig

STD = 0.225  # of the released code, by which eps is divided whatever the channel


class GradNormLoss:
    """The loss ``grad-norm``: the terms ``ce`` and ``grad_l1``."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.config = run.config(GradNormConfig)
        self._checked = self.config.forward == "train"

    def __call__(self, ctx: StepContext) -> Terms:
        if not self._checked:
            check_statistics(ctx.net.module)
            self._checked = True
        x = ctx.batch.x.detach().requires_grad_(True)
        frozen = F.cross_entropy(ctx.net.frozen(x), ctx.batch.target, reduction="none")  # (B,)
        (gradient,) = torch.autograd.grad(frozen.sum(), x, create_graph=True)
        ce = frozen
        if self.config.forward == "train":
            ce = F.cross_entropy(ctx.logits_clean, ctx.batch.target, reduction="none")
        lengths = gradient.abs().flatten(2).sum(2).unbind(1)  # one (B,) a channel
        factors = self._weigh_channels(len(lengths))
        weighted = [factor * length for factor, length in zip(factors, lengths, strict=True)]
        norm = torch.stack(weighted).sum(0)  # (B,)
        return {
            "ce": Term(ce, weight=self.config.ce_weight),
            "grad_l1": Term(
                norm, weight=self.config.grad_weight * self.find_share(), reweight=True
            ),
        }

    def find_share(self) -> float:
        """Return alpha, the share of its weight that the norm has now."""
        config, now = self.config, self.run.now
        if config.full_at is not None:
            growth = (config.ramp_end - config.ramp_start) * now.progress / config.full_at
        else:
            growth = config.ramp * now.step / self.run.steps_per_epoch
        return min(config.ramp_end, config.ramp_start + growth)

    def _weigh_channels(self, count: int) -> list[float]:
        """Return the factor of every channel; numbers, since tensors of them would wait."""
        std = spread(self.config.std, count, "std")
        weights = spread(self.config.channels, count, "channels")
        factor = self.run.threat.eps / STD
        return [one * weight * factor for one, weight in zip(std, weights, strict=True)]


def spread(values: Sequence[float], count: int, name: str) -> Sequence[float]:
    """Return one value for each of ``count`` channels."""
    if len(values) not in (1, count):
        raise UsageError(
            f"--grad-norm.{name} has {len(values)} values, and images have {count} channels",
            fix=f"give {count} values, or one for all channels",
        )
    return values if len(values) == count else [values[0]] * count


def check_statistics(module: nn.Module) -> None:
    """Raise UsageError where the running statistics are those of a new network, 0 and 1."""
    for part in module.modules():
        mean, var = getattr(part, "running_mean", None), getattr(part, "running_var", None)
        if mean is None or var is None or bool((mean != 0).any() | (var != 1).any()):
            continue
        raise UsageError(
            "grad-norm trains in eval mode, and the running statistics of this new network would"
            " stay at 0 and 1",
            fix="start from weights: --pretrained or --init; or give --grad-norm.forward train",
        )
