"""Running statistics of batch norms, measured afresh over training images.

After weights were averaged, the running statistics belong to no network: a pass over the images
gives those of the average (Izmailov et al., UAI 2018).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from abatis.api.run import Clock
from abatis.config.run_config import RunConfig
from abatis.data import Split
from abatis.errors import UsageError
from abatis.nets.net import BATCH_STATISTICS, RUNNING
from abatis.system import distributed
from abatis.train.batches import cut_epoch


@torch.no_grad()
def renew_statistics(
    module: nn.Module, batches: Iterable[Tensor], frozen: Collection[str] = ()
) -> None:
    """Set running statistics to the means over batches, weighted by their sizes.

    Args:
        module: The network; every module's own mode is restored.
        batches: This process's share of the batches, (B, C, H, W) each.
        frozen: Names of modules that stay in eval mode, whose statistics stay too.

    Raises:
        UsageError: The norms exchange the statistics of every batch between the processes, which
            have different batches here.
    """
    if distributed.several() and any(
        isinstance(part, nn.SyncBatchNorm) for part in module.modules()
    ):
        raise UsageError(
            "run.restatistics is not supported with --sync-bn in several processes",
            fix="leave out --sync-bn",
        )
    norms = [
        part
        for name, part in module.named_modules()
        if isinstance(part, BATCH_STATISTICS)
        and part.running_mean is not None
        and name not in frozen
    ]
    seen, count = 0, 0
    with _train_mode(module, frozen), _keep_momentum(norms):
        for norm in norms:
            for tensor, value in ((norm.running_mean, 0), (norm.running_var, 1)):
                assert tensor is not None
                tensor.fill_(value)
        for x in batches:
            seen, count = seen + len(x), count + 1
            for norm in norms:
                norm.momentum = len(x) / seen
            module(x)
    if distributed.several():
        _average(norms, seen, count)


def renew_over_epoch(
    images: Split, config: RunConfig, clock: Clock, frozen: Collection[str], module: nn.Module
) -> None:
    """Renew the statistics of a module over the batches of the current epoch.

    Args:
        images: The training images.
        config: Says how they are cut into batches.
        clock: Says which epoch it is.
        frozen: Names of modules that stay as they are.
        module: The network.
    """
    epoch = clock.now.epoch
    batches = cut_epoch(config, images, epoch)
    first = epoch * len(batches)
    own = list(enumerate(batches, start=first))[distributed.rank() :: distributed.world_size()]
    renew_statistics(module, (batch.x for batch in images.train_batches(own, config.seed)), frozen)


@contextmanager
def _train_mode(module: nn.Module, frozen: Collection[str]) -> Iterator[None]:
    """Training mode inside, but for frozen modules; every module's own flag is restored."""
    before = {part: part.training for part in module.modules()}
    for name, part in module.named_modules():
        part.training = name not in frozen
    try:
        yield
    finally:
        for part, mode in before.items():
            part.training = mode


@contextmanager
def _keep_momentum(norms: Iterable[nn.modules.batchnorm._BatchNorm]) -> Iterator[None]:
    """The momentum of norms may be set inside, and is restored."""
    before = {norm: norm.momentum for norm in norms}
    try:
        yield
    finally:
        for norm, momentum in before.items():
            norm.momentum = momentum


def _average(norms: list[nn.modules.batchnorm._BatchNorm], seen: int, count: int) -> None:
    """The means over the batches of all processes; seen, count: this one's images and batches."""
    own = [getattr(norm, name) for norm in norms for name in RUNNING]
    if not own:
        return
    numbers = [own[0].new_tensor(float(number)) for number in (seen, count)]
    *sums, whole, batches = distributed.sum_over_processes(
        [*(tensor * seen for tensor in own), *numbers]
    )
    for tensor, total in zip(own, sums, strict=True):
        tensor.copy_(total / whole)
    for norm in norms:
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked += int(batches) - count
