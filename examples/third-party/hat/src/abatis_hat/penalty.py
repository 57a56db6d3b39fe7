"""Cross-entropy of helper images beyond the attack, to the label a standard network gives the
attacked ones.

    help_i = CE(z(x_i + h (x'_i - x_i)), argmax_k s_k(x'_i)),  weighted by gamma

z: the logits of the network in training, s: those of a network trained without attack, which stays
as it is.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from abatis import Run, StepContext, Term, Terms, UsageError, load

if TYPE_CHECKING:
    from abatis_hat import HatConfig


class HelperPenalty:
    """The regularizer ``hat``: the term ``helper``."""

    def __init__(self, config: HatConfig, standard: nn.Module) -> None:
        self.config, self.standard = config, standard
        self.dtype = next(standard.parameters()).dtype

    def __call__(self, ctx: StepContext) -> Terms:
        perturbation = ctx.x_adv - ctx.batch.x
        # (B, C, H, W); may leave [0, 1], as in the released code
        helper = ctx.batch.x + self.config.scale * perturbation
        value = F.cross_entropy(ctx.net(helper), self.labels(ctx), reduction="none")  # (B,)
        return {"helper": Term(value, weight=self.config.weight)}

    @torch.no_grad()
    def labels(self, ctx: StepContext) -> Tensor:
        """Return the standard network's predictions for the adversarial images: (B,) int64."""
        logits: Tensor = self.standard(ctx.x_adv.to(self.dtype))  # (B, K)
        if logits.shape[1] != ctx.logits_adv.shape[1]:
            raise UsageError(
                f"the network of --hat.standard has {logits.shape[1]} classes, this run has "
                f"{ctx.logits_adv.shape[1]}",
                fix="train the standard network on the same data",
            )
        return logits.argmax(1)


def standard_network(run: Run, path: Path | None) -> nn.Module:
    """Load the standard network, frozen.

    Args:
        run: the run; a weights file is loaded into a copy of its network.
        path: a run folder or a weights file.

    Raises:
        UsageError: there is no such network, or its weights do not fit.
    """
    if path is None:
        raise UsageError(
            "'hat' needs a network trained without an attack",
            fix="run defense-run --use attacker=none --name standard, then add --hat.standard "
            "runs/standard",
        )
    if path.suffix == ".safetensors":
        network = copy.deepcopy(run.net.module)
        try:
            network.load_state_dict(load_file(path))
        except (OSError, RuntimeError) as error:
            raise UsageError(
                f"--hat.standard {path}: {error}".splitlines()[0],
                fix="use weights of the run's own backbone",
            ) from error
    else:
        network = load(path)
    return network.to(run.device).eval().requires_grad_(False)
