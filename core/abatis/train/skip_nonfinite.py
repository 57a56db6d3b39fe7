"""Going on after a step whose loss or gradient is not finite, so many times in a row: ``--skip-nonfinite``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from abatis.errors import NotFiniteError


class SkipNonFinite:
    """Around every step. A skipped one leaves weights, buffers and optimizer as they were, and is told to ``heard``."""

    def __init__(self, most: int, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.most, self.module, self.optimizer = most, module, optimizer
        self.in_a_row = 0

    @contextmanager
    def allowed(self, heard: Callable[[NotFiniteError], None]) -> Iterator[None]:
        """Raises the NotFiniteError of a step where as many before it were skipped as may be."""
        if not self.most:
            yield
            return
        state = [*self.module.parameters(), *self.module.buffers()]
        kept = [tensor.detach().clone() for tensor in state]
        try:
            yield
            self.in_a_row = 0
        except NotFiniteError as error:
            if self.in_a_row >= self.most:
                raise
            self.in_a_row += 1
            with torch.no_grad():
                torch._foreach_copy_(state, kept)
            self.optimizer.zero_grad(set_to_none=True)
            heard(error)
