"""The network of a run as its plugins change it, in the run and wherever it is built again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from abatis.api.randomness import Randomness, untouched
from abatis.api.run import NoNet, Run
from abatis.config import discovery
from abatis.config.run_config import RunConfig
from abatis.config.toml import read_toml
from abatis.data import DataInfo
from abatis.errors import UsageError
from abatis.nets.backbones import build
from abatis.nets.backbones.from_timm import with_sync_batch_norm
from abatis.nets.backbones.names import is_factory
from abatis.nets.net import Net
from abatis.nets.normalising import UNWRAPPED, Normalized, find_statistics
from abatis.system import distributed
from abatis.train.network_hooks import change_network

CHANGED_BY = "network"  # among the facts of a weights file: the plugins that changed the network


def make_run(
    config: RunConfig,
    num_classes: int,
    device: torch.device,
    steps_per_epoch: int = 1,
    train_size: int = 0,
) -> Run:
    """What hooks are given of a run that has no network yet.

    Args:
        config: its options.
        num_classes: K.
        device: where the network will be.
        steps_per_epoch: how many updates an epoch has.
        train_size: how many training images there are; 0 where none are open.
    """
    return Run(
        NoNet(),
        num_classes,
        config.epochs,
        steps_per_epoch,
        config.threat_model,
        device,
        config.attack,
        Randomness(config.seed),
        {type(options): options for options in config.options.values()},
        train_size,
        distributed.gather,
        further=config.trained_threats[1:],
    )


def build_backbone(
    config: RunConfig, info: DataInfo, name: str, pretrained: bool, own: Mapping[str, Any]
) -> nn.Module:
    """Build a backbone for a run's data, normalised as the run asks for.

    Args:
        config: the options of the run.
        info: the facts of its data.
        name: of the backbone.
        pretrained: with the weights that belong to it.
        own: options of the backbone itself.
    """
    mean, std = find_statistics(config.normalize, (info.mean, info.std), info.channels)
    net = build(
        name,
        num_classes=info.num_classes,
        channels=info.channels,
        image_size=info.image_size,
        mean=mean,
        std=std,
        pretrained=pretrained,
        download=config.continue_from is None,
        own=own,
        zoo_dir=config.zoo_dir,
    )
    wraps = is_factory(name) and config.normalize not in UNWRAPPED
    return Normalized(net, mean, std) if wraps else net


def build_auxiliary(
    config: RunConfig, info: DataInfo, device: torch.device, given: nn.Module | str
) -> Net:
    """Make an auxiliary network of a module, or of the name of a backbone.

    Raises:
        UsageError: the run is sharded.
    """
    if config.shard != "none":
        raise UsageError(
            f"--shard {config.shard} is not supported with an auxiliary network",
            fix="leave out --shard: the processes then share only the batches",
        )
    if isinstance(given, str):
        given = build_backbone(config, info, given, False, {})
    if config.sync_bn:
        given = with_sync_batch_norm(given, device)
    return Net(given.to(device), config.precision, config.attack.precision)


def change_again(options: Path, facts: Mapping[str, Any], module: nn.Module) -> nn.Module:
    """Return the network of a finished run as its plugins changed it.

    Args:
        options: its ``run.toml``.
        facts: those of its weights file, which name the plugins.
        module: the network as it was built.

    Raises:
        UsageError: a plugin is not installed, or makes no network any more.
    """
    names = facts.get(CHANGED_BY, [])
    if not names:
        return module
    config = RunConfig.model_validate(read_toml(options))
    run = make_run(config, int(facts["num_classes"]), torch.device("cpu"))
    loaded = discovery.load_plugins(config.plugin)
    with untouched():
        module = change_network(loaded, config.options, run, module)
    if run.networks != names:
        raise UsageError(
            f"the network of this run was changed by {', '.join(names)},"
            f" and is now by {', '.join(run.networks) or 'no plugin'}",
            where=str(options),
            fix="install the plugins as they were when the run was made",
        )
    return module
