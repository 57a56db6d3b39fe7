"""A network that subtracts the mean logits of its batch, so that rows depend on each other."""

from __future__ import annotations

from torch import Tensor, nn

from abatis import Run, hookimpl

FAILS = "test_processes_and_micro_batches_make_the_update_of_one"
WORDS = "two micro-batches make"


class Centred(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.module(x)
        return logits - logits.mean(0) / 2


@hookimpl
def defense_network(run: Run, module: nn.Module) -> nn.Module:
    return Centred(module)
