"""The network as plugins see it: a training forward, and a frozen one for penalties on input gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

BATCH_STATISTICS = (nn.modules.batchnorm._BatchNorm,)


class Net:
    """``net(x)`` is the training forward, ``net.frozen(x)`` the one with eval statistics.

    x: (B, C, H, W) in [0, 1]; both return logits (B, K), in float32 or wider.
    """

    def __init__(self, module: nn.Module, precision: str = "float32") -> None:
        self.module = module
        self.precision = precision
        self._modules = tuple(module.modules())
        self._parameters = tuple(module.parameters())

    def __call__(self, x: Tensor) -> Tensor:
        # Autocast is entered for each forward: it caches cast weights, and a weight perturbed in between would be ignored.
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"):
            logits: Tensor = self.module(x)
        return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits

    def frozen(self, x: Tensor) -> Tensor:
        """Logits with eval statistics, in the parameters' own precision, twice differentiable in x and the parameters."""
        with self.frozen_mode(), torch.autocast(x.device.type, enabled=False), sdpa_kernel(SDPBackend.MATH):
            logits: Tensor = self.module(x)
        return logits

    @contextmanager
    def frozen_mode(self) -> Iterator[None]:
        """Eval statistics inside; every module's own flag is restored."""
        was_training = [module for module in self._modules if module.training]
        for module in was_training:
            module.training = False
        try:
            yield
        finally:
            for module in was_training:
                module.training = True

    @contextmanager
    def attack_mode(self, batch_statistics: bool = False) -> Iterator[None]:
        """For an attack, entered once around all its steps: eval mode, and the gradient goes to the input only.

        With ``batch_statistics`` the batch-norm layers use the batch's own statistics, and their running ones are restored.
        """
        trainable = [parameter for parameter in self._parameters if parameter.requires_grad]
        for parameter in trainable:
            parameter.requires_grad_(False)
        try:
            with self.frozen_mode():
                if batch_statistics:
                    with self.buffers_restored(), self._batch_norms_training():
                        yield
                else:
                    yield
        finally:
            for parameter in trainable:
                parameter.requires_grad_(True)

    @contextmanager
    def buffers_restored(self) -> Iterator[None]:
        """Inside, the network writes on copies of its buffers (running statistics); then it has its own again.

        Nothing is written in place, so a graph that was made inside can still be differentiated outside.
        """
        own = [
            (module._buffers, name, buffer)
            for module in self._modules
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]
        for table, name, buffer in own:
            table[name] = buffer.clone()
        try:
            yield
        finally:
            for table, name, buffer in own:
                table[name] = buffer

    @contextmanager
    def _batch_norms_training(self) -> Iterator[None]:
        norms = [module for module in self._modules if isinstance(module, BATCH_STATISTICS)]
        for norm in norms:
            norm.training = True
        try:
            yield
        finally:
            for norm in norms:
                norm.training = False
