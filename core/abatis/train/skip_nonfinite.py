"""``--skip-nonfinite N``: training continues after a step whose loss or gradient is not finite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from abatis.errors import NotFiniteError
from abatis.nets.net import Net


class SkipNonFinite:
    """Undoes a step that was not finite: weights, buffers and optimizer are as they were before.

    Args:
        most: How many steps in a row may be skipped; 0 skips none.
        net: The network that is trained.
        optimizer: Its optimizer.
    """

    def __init__(self, most: int, net: Net, optimizer: torch.optim.Optimizer) -> None:
        self.most = most
        self.net = net
        self.optimizer = optimizer
        self.in_a_row = 0

    @contextmanager
    def tolerate(self, report: Callable[[NotFiniteError], None]) -> Iterator[None]:
        """Around a step.

        Args:
            report: Receives the error of a step that was skipped.

        Raises:
            NotFiniteError: That of the step, where too many steps in a row were not finite.
        """
        if not self.most:
            yield
            return
        nets = self.net.list_trained()
        weights = [weight for net in nets for weight in net.module.parameters()]
        state: list[Tensor] = [*weights, *self.net.list_buffers()]
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
            report(error)
