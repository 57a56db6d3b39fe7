"""What is refused before any data are opened or downloaded, and before there is a run folder."""

from __future__ import annotations

from collections.abc import Sequence

import pluggy
import torch
from torch import nn

from abatis.config import discovery
from abatis.config.built_in import PROVIDERS
from abatis.config.discovery import Plugin
from abatis.config.hook_checks import make_manager
from abatis.config.run_config import RunConfig
from abatis.errors import UsageError
from abatis.evaluate.ladder_checks import check_ladder
from abatis.nets.backbones.from_repository import is_repository
from abatis.nets.backbones.names import SMALL_IMAGE, resolve
from abatis.nets.backbones.zoo.table import is_zoo
from abatis.nets.weights import refuse_pickle
from abatis.nets.weights_file import find_weights
from abatis.runs.open_data import describe_run_data
from abatis.runs.prepare import prepare
from abatis.runs.run_folder import PYTHON, find_start
from abatis.system import distributed
from abatis.train.hook_answers import list_implementers
from abatis.train.plan import read_use
from abatis.train.sharding_checks import check_shard_options
from abatis.train.trackers import load_trackers


def check_before_data(
    config: RunConfig, model: nn.Module | None, data: object, device: torch.device
) -> None:
    """Check what the options and the loaded plugins show by themselves.

    Args:
        config: what was asked for.
        model: the network that was given from Python, else None.
        data: the data set that was given from Python, else None.
        device: where the network will be.

    Raises:
        UsageError: options that do not fit together or name what is not there.
        PluginConflict: plugins that do not go together.
    """
    _check_given(config, model, data)
    check_ladder(config.ladder, config.judged_threats)
    _check_processes(config)
    load_trackers(config.track)
    _check_continuation(config)
    check_shard_options(config)
    if model is None:
        resolve(config.backbone, SMALL_IMAGE)
    _check_init(config)
    _check_normalize(config, model)
    _check_plugins(config, model, data, device)


def _check_given(config: RunConfig, model: nn.Module | None, data: object) -> None:
    """Raise UsageError where a run.toml says "from Python", and Python gave nothing."""
    for value, option in ((model, "backbone"), (data, "data")):
        asked = getattr(config, option)
        if value is None and asked.startswith(PYTHON):
            raise UsageError(
                f"the {option} of this run was given from Python: {asked.removeprefix(PYTHON)}",
                fix="give it again: abatis.run(config, model=..., data=...)",
            )
    if model is not None and config.own_options:
        name, value = next(iter(config.own_options.items()))
        raise UsageError(
            f"--backbone-{name} {value}: a network given from Python is used as it is",
            fix="leave it out",
        )


def _check_processes(config: RunConfig) -> None:
    """Raise UsageError where the options do not fit the number of processes."""
    if config.name is None and not config.dry_run and distributed.may_restart():
        raise UsageError("automatic restarts need --name", fix="add --name NAME")
    processes = distributed.world_size()
    if config.batch_size < processes * config.accumulate:
        raise UsageError(
            f"batch size {config.batch_size} is too small for {processes} processes x "
            f"{config.accumulate} micro-batches",
            fix="a larger --batch-size, a smaller --accumulate, or fewer processes",
        )


def _check_init(config: RunConfig) -> None:
    """Raise UsageError where there are no weights to start from."""
    if config.init is None:
        return
    path = find_start(config)
    if is_zoo(str(config.init)):
        return
    if path.is_file():
        refuse_pickle(path, config.allow_pickle)
    elif not path.is_dir():
        raise UsageError(f"--init: no file {path}", fix="give a weights file or a run folder")
    elif (path / "run.toml").is_file():
        find_weights(path)


def _check_normalize(config: RunConfig, model: nn.Module | None) -> None:
    """Raise UsageError where ``--normalize`` would have no effect."""
    if config.normalize == "data":
        return
    own = {
        "--pretrained": config.pretrained,
        "a network from Python": model is not None,
        config.backbone: is_zoo(config.backbone) or is_repository(config.backbone),
    }
    for name in (name for name, brings in own.items() if brings):
        raise UsageError(
            f"--normalize {config.normalize} has no effect on {name}, which brings its own"
            " normalisation",
            fix="leave it out",
        )


def _check_continuation(config: RunConfig) -> None:
    """Raise UsageError where ``--continue-from`` does not go with another option."""
    if config.continue_from is None:
        return
    if config.init is not None:
        raise UsageError(
            "--init and --continue-from both give the weights to start from",
            fix="--init for a new training, --continue-from to go on with an old one",
        )
    if config.shard != "none":
        raise UsageError("--continue-from does not support --shard", fix="leave out --shard")
    own = config.out / config.name if config.name else None
    if own is not None and own.resolve() == config.continue_from.resolve():
        raise UsageError(
            f"--continue-from: {own} is this run's own folder",
            fix="choose another --name; or give only --resume, which goes on in the same folder",
        )


def _check_plugins(
    config: RunConfig, model: nn.Module | None, data: object, device: torch.device
) -> None:
    """Raise UsageError or PluginConflict where plugins do not fit ``--use``, or each other."""
    loaded = discovery.load_plugins(config.plugin)
    active = [plugin for plugin in loaded if not config.options[plugin.name].is_neutral]
    manager = make_manager((plugin.name, plugin.module) for plugin in active)
    _check_use(config, loaded, manager)
    described = model is None and data is None and not config.dry_run
    if described and _may_conflict(config, active, manager):
        _try_plan(config, device)


def _check_use(config: RunConfig, loaded: Sequence[Plugin], manager: pluggy.PluginManager) -> None:
    """Raise UsageError where ``--use`` names a provider that cannot provide the role."""
    for role, name in read_use(config.use, loaded).items():
        if role not in PROVIDERS:  # who provides weights is known once the hooks have answered
            continue
        able = [*PROVIDERS[role], *list_implementers(manager, role)]
        if name in able:
            continue
        why = f"plugin '{name}' provides no {role}"
        if config.options[name].is_neutral:
            why = f"plugin '{name}' is switched off by its options"
        raise UsageError(f"--use {role}={name}: {why}", fix=f"choose one of {', '.join(able)}")


def _may_conflict(
    config: RunConfig, active: Sequence[Plugin], manager: pluggy.PluginManager
) -> bool:
    """Do only the answers of the hooks tell whether these plugins go together?"""
    contested = any(
        len(list_implementers(manager, role)) > 1 for role in PROVIDERS if role not in config.use
    )
    compiled = config.compile in ("step", "both")
    options = [config.options[plugin.name] for plugin in active]
    uncompiled = any(one.needs_double_backward or one.needs_features for one in options)
    return contested or (compiled and uncompiled)


def _try_plan(config: RunConfig, device: torch.device) -> None:
    """Make the plan once as a dry run does, without images, downloads and other processes."""
    light = config.model_copy(
        update={"pretrained": False, "init": None, "continue_from": None, "shard": "none"}
    )
    prepare(light, describe_run_data(light), device, None)
