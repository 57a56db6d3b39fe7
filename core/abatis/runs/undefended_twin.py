"""An undefended twin: the same architecture, trained on clean images alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from abatis.api.randomness import seeded
from abatis.config.option_groups import OptimConfig
from abatis.data import epoch_batches
from abatis.data.info import Split
from abatis.nets.copying import copy_module
from abatis.train.optimizer import make_optimizer, schedule_rate, set_rate


def train_undefended_twin(
    module: nn.Module, train: Split, *, seed: int, epochs: int, batch_size: int, lr: float
) -> nn.Module:
    """Train a copy of the network on clean images with cross-entropy, from new random weights.

    Parameters that no ``reset_parameters`` of a submodule resets start with the values they have
    in ``module``. The module and the global random generators are left as they were.

    Returns:
        The copy, in eval mode.
    """
    with seeded(seed, "twin"), torch.enable_grad():
        twin = copy_module(module).train().requires_grad_(True)
        for part in twin.modules():
            if callable(reset := getattr(part, "reset_parameters", None)):
                reset()
        options = OptimConfig(lr=lr, momentum=0.9, schedule="one-cycle")
        optimizer = make_optimizer(options, twin)
        batches = [
            one
            for epoch in range(epochs)
            for one in epoch_batches(len(train), batch_size, seed, epoch)
        ]
        for step, batch in enumerate(train.train_batches(enumerate(batches), seed)):
            set_rate(optimizer, lr * schedule_rate(options, step, len(batches)))
            optimizer.zero_grad()
            F.cross_entropy(twin(batch.x), batch.y).backward()
            optimizer.step()
    return twin.eval()
