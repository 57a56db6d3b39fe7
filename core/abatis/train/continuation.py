"""``--continue-from RUN``: a new run that goes on where another one ended.

Weights, buffers, the optimizer's moments and the epoch are taken over. Everything else may differ:
plugins, their options, the attack, the learning rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from abatis.config.run_config import RunConfig
from abatis.errors import CheckpointError, UsageError
from abatis.system.folder_lock import find_writer
from abatis.train.checkpoint import CHECKPOINTS, Loaded, load_checkpoint
from abatis.train.optimizer import check_groups, load_moments
from abatis.train.resume import check_fit

OPTION = "--continue-from"
AVERAGING = "averaging"  # the trainer hook of --ema, as checkpoints name it


@dataclass(frozen=True)
class Source:
    """The end of another run.

    Args:
        run: Its folder.
        loaded: Its last checkpoint.
    """

    run: Path
    loaded: Loaded

    @property
    def epochs_ended(self) -> int:
        """How many epochs are done there."""
        return int(self.loaded.state["epochs_ended"])

    def describe(self) -> dict[str, Any]:
        """What a run records about where it goes on from, in plain types."""
        return {
            "run": str(self.run),
            "epoch": self.epochs_ended,
            "step": self.loaded.step,
            "sha256": self.loaded.about["manifest_sha256"],
        }


def find_source(config: RunConfig) -> Source | None:
    """The end of the run that ``config`` goes on from; None where it starts afresh.

    Raises:
        UsageError: There is no such run, or it does not fit this one.
        CheckpointError: Its newest checkpoint is damaged.
    """
    run = config.continue_from
    if run is None:
        return None
    if not (run / CHECKPOINTS).is_dir():
        raise UsageError(
            f"{OPTION}: {run} holds no checkpoints", fix="give the folder of a run, like runs/NAME"
        )
    if writer := find_writer(run):
        raise UsageError(
            f"{OPTION}: {writer} is writing this run", where=str(run), fix="wait for it or stop it"
        )
    source = Source(run, _load_newest(run))
    with check_fit(source.loaded):
        _check_epoch(source, config)
        _check_state(source, config)
    return source


def check_architecture(source: Source, model: nn.Module) -> None:
    """Raise UsageError where a network has other tensors than the run it goes on from."""
    there, own = source.loaded.weights, model.state_dict()
    differing = [
        name
        for name in (*own, *(there.keys() - own.keys()))
        if name not in there or name not in own or there[name].shape != own[name].shape
    ]
    if differing:
        raise UsageError(
            f"{OPTION}: {source.run} has another network: {len(differing)} tensors differ,"
            f" such as {differing[0]}",
            fix="give the --backbone and the --data of that run",
        )


def take_over_moments(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Take the moments of another run's optimizer; rates and decays stay those of this run.

    Args:
        optimizer: That of this run.
        saved: The ``state_dict`` of the other one.

    Raises:
        UsageError: They have other groups of parameters.
    """
    fix = "give --optim.decay-all, --optim.layer-decay and --optim.rates as in that run"
    check_groups(saved, optimizer.state_dict(), OPTION, fix)
    load_moments(optimizer, saved)


def _load_newest(run: Path) -> Loaded:
    """The newest checkpoint of a run, which must be intact: an older one is another state."""
    try:
        loaded = load_checkpoint(run / CHECKPOINTS)
        rejected = loaded.rejected if loaded is not None else ()
    except CheckpointError as error:
        loaded, rejected = None, error.rejected
    if rejected:
        raise CheckpointError(
            f"{OPTION}: the newest checkpoint is damaged: {rejected[0]}",
            where=str(run),
            fix="restore it from a backup, or make it again: resume that run",
        )
    if loaded is None:
        raise UsageError(
            f"{OPTION}: {run} holds no checkpoint yet", fix="let that run end its first epoch"
        )
    return loaded


def _check_epoch(source: Source, config: RunConfig) -> None:
    """Raise UsageError where that run stopped within an epoch, or no epoch is left."""
    ended, parts = source.epochs_ended, source.loaded.state["parts"]
    if any(part["meter"]["samples"] for part in parts):
        raise UsageError(
            f"{OPTION}: that run stopped within epoch {ended + 1}",
            where=str(source.run),
            fix="let it end the epoch: resume it",
        )
    if ended >= config.epochs:
        raise UsageError(
            f"{OPTION}: that run ended after epoch {ended}, so --epochs {config.epochs} leaves"
            " nothing to train",
            fix=f"epochs count from the start of that run: give more than {ended}",
        )


def _check_state(source: Source, config: RunConfig) -> None:
    """Raise UsageError where the state of that run is of another kind."""
    if not source.loaded.weights:
        raise UsageError(
            f"{OPTION}: that run has a sharded checkpoint, which is not supported",
            where=str(source.run),
            fix="train that run without --shard",
        )
    normalized = source.loaded.about["options"].get("normalize", "data")
    if normalized != config.normalize:
        raise UsageError(
            f"{OPTION}: that run has --normalize {normalized}, this one {config.normalize}",
            where=str(source.run),
            fix=f"give --normalize {normalized}",
        )
    averaged = AVERAGING in source.loaded.state["trainers"]
    if averaged != bool(config.ema):
        has = "averages" if averaged else "does not average"
        raise UsageError(
            f"{OPTION}: that run {has} its weights (--ema), and this one "
            + ("does not" if averaged else "does"),
            where=str(source.run),
            fix="give --ema as in that run" if averaged else "leave out --ema",
        )
    _check_layers(source, config)
    optim = source.loaded.about["options"]["optim"]["name"]
    if optim != config.optim.name:
        raise UsageError(
            f"{OPTION}: that run has the optimizer {optim}, this one {config.optim.name}",
            where=str(source.run),
            fix=f"give --optim.name {optim}",
        )


def _check_layers(source: Source, config: RunConfig) -> None:
    """Raise UsageError where layers are grouped otherwise: moments are in the groups' order."""
    options = source.loaded.about["options"]
    for flag, there, own in (
        ("--freeze", options.get("freeze", ()), config.freeze),
        ("--optim.rates", options["optim"].get("rates", ()), config.optim.rates),
    ):
        if list(there) == list(own):
            continue
        given = f"{flag} {','.join(there)}" if there else f"no {flag}"
        raise UsageError(
            f"{OPTION}: that run has {given}, this one {','.join(own) or 'none'}",
            where=str(source.run),
            fix=f"give {flag} as in that run, or start from its weights alone: --init {source.run}",
        )
