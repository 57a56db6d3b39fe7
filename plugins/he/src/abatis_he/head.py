"""The head of hypersphere embedding (Pang et al., NeurIPS 2020, arXiv 2002.08619).

    logit_k = s cos_k,   cos_k = h . w_k / (|h| |w_k|)

The gradient reaches w as if its length were no function of it; the rows have length 1 after every
update, as in the released code, which overwrites them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from abatis import Run, StepContext, TrainerHooks, UsageError

LEAST = 1e-12  # length that is divided by


class CosineHead(nn.Linear):
    """Features (B, D) to s times the cosines of the classes, (B, K); it has no bias."""

    def __init__(self, weight: Tensor, s: float) -> None:
        super().__init__(weight.shape[1], weight.shape[0], bias=False)
        self.s = s
        self.weight = nn.Parameter(unit_rows(weight.detach()))

    def forward(self, features: Tensor) -> Tensor:
        lengths = self.weight.detach().norm(dim=1, keepdim=True).clamp(min=LEAST)
        return self.s * F.linear(F.normalize(features, dim=1), self.weight / lengths)


def unit_rows(weight: Tensor) -> Tensor:
    """Return rows of length 1, (K, D)."""
    rows: Tensor = weight / weight.norm(dim=1, keepdim=True).clamp(min=LEAST)
    return rows


def replace_head(module: nn.Module, num_classes: int, s: float) -> nn.Module:
    """Replace the last linear layer with ``num_classes`` outputs, in place.

    Raises:
        UsageError: there is none.
    """
    heads = [
        name
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear) and part.out_features == num_classes
    ]
    if not heads:
        raise UsageError(
            f"he: {type(module).__name__} has no linear layer with {num_classes} outputs",
            fix="choose a backbone that ends with a linear layer",
        )
    head = module.get_submodule(heads[-1])
    assert isinstance(head, nn.Linear)
    if isinstance(head, CosineHead):
        return module
    new = CosineHead(head.weight, s).to(head.weight)
    if not heads[-1]:  # the network is the layer itself
        return new
    parent, _, name = heads[-1].rpartition(".")
    setattr(module.get_submodule(parent), name, new)
    return module


class UnitRows(TrainerHooks):
    """Gives the rows of the head length 1 again after every update."""

    def __init__(self, run: Run) -> None:
        self.heads = [part for part in run.net.module.modules() if isinstance(part, CosineHead)]

    @torch.no_grad()
    def after_update(self, ctx: StepContext) -> None:
        for head in self.heads:
            head.weight.copy_(unit_rows(head.weight))
