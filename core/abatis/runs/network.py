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
from abatis.errors import UsageError
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
    )


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
