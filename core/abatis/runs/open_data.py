"""The data that a configuration asks for, and what the plan says of them."""

from __future__ import annotations

import re
from dataclasses import asdict, replace

import torch

from abatis.config.plan_row import PlanRow
from abatis.config.run_config import RunConfig
from abatis.data import Data, DataInfo, View, describe, from_user, open_data
from abatis.data.extra import described
from abatis.errors import UsageError
from abatis.nets.backbones import view_of


def _view(config: RunConfig) -> View:
    """How this run sees image files; raises UsageError where it has none and asks for what only they can have."""
    if config.data.startswith("folder:"):
        if config.extra.file is not None:
            raise UsageError(
                "--extra.file goes with data in memory, not with a folder",
                fix="give npz:PATH or a named set",
            )
        return replace(
            view_of(config.backbone), auto_augment=config.auto_augment, erasing=config.erasing
        )
    if config.auto_augment or config.erasing:
        raise UsageError(
            f"--auto-augment and --erasing are for image files, and the data are {config.data}",
            fix="leave them out, or give folder:PATH",
        )
    return View()


def describe_data(config: RunConfig) -> DataInfo:
    """The facts of a run's data; raises DataError, UsageError."""
    return describe(
        config.data,
        data_dir=config.data_dir,
        image_size=config.image_size,
        augment=config.augment,
        skip_broken=config.skip_broken,
        view=_view(config),
    )


def open_sources(config: RunConfig, given: object, device: torch.device) -> Data:
    """A run's data, or what a program hands over in their place; raises DataError, UsageError."""
    view, extra = _view(config), config.extra if config.extra.file is not None else None
    if given is not None:
        return from_user(
            given,
            device=device,
            workers=config.workers,
            limit=config.limit,
            augment=config.augment,
            extra=extra,
        )
    return open_data(
        config.data,
        data_dir=config.data_dir,
        limit=config.limit,
        image_size=config.image_size,
        augment=config.augment,
        device=device,
        workers=config.workers,
        skip_broken=config.skip_broken,
        view=view,
        extra=extra,
    )


def data_rows(config: RunConfig, info: DataInfo) -> tuple[PlanRow, ...]:
    """What a plan says of the data; raises DataError or UsageError where additional images do not fit."""
    shown = re.sub(
        r":.*[/\\]", ":", info.name
    )  # a long path leaves no room for the options; run.toml has it whole
    facts = {"classes": info.num_classes, "pixels": info.image_size, "augment": info.augment}
    if info.name.startswith("folder:"):
        view = {name: value for name, value in asdict(info.view).items() if name != "image_size"}
        facts |= view | {"auto_augment": info.view.auto_augment or "none"}
    row = PlanRow("data", shown, "", facts)
    if config.extra.file is None:
        return (row,)
    return row, PlanRow(
        "data",
        f"extra:{config.extra.file.name}",
        "",
        described(config.extra, info, config.batch_size),
    )
