"""The data of a run, and its rows in the plan."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import asdict, replace

import torch

from abatis.config.plan_row import PlanRow
from abatis.config.run_config import RunConfig
from abatis.data import Data, DataInfo, DataRequest, describe, from_user, open_data
from abatis.data.extra import describe_extra
from abatis.errors import UsageError
from abatis.nets.backbones import view_of
from abatis.nets.weights_file import WEIGHTS, WEIGHTS_LAST, read_class_names


def describe_run_data(config: RunConfig) -> DataInfo:
    """The facts of a run's data; raises DataError, UsageError."""
    request = DataRequest.of(config, view_of(config.backbone))
    return describe(replace(request, class_names=_read_class_names(config)))


def open_run_data(config: RunConfig, given: object, device: torch.device) -> Data:
    """A run's data, or those given from Python in their place; raises DataError, UsageError."""
    request = DataRequest.of(config, view_of(config.backbone), device)
    if given is not None:
        return from_user(given, request)
    return open_data(replace(request, class_names=_read_class_names(config)))


def _read_class_names(config: RunConfig) -> tuple[str, ...]:
    """The classes as a run that resumes has numbered them; empty for a new run."""
    if not config.resumes or not config.name:
        return ()
    for name in (WEIGHTS, WEIGHTS_LAST):
        with suppress(UsageError):  # there is no such file yet, or it is damaged
            return read_class_names(config.out / config.name / name)
    return ()


def data_rows(config: RunConfig, info: DataInfo) -> tuple[PlanRow, ...]:
    """The plan's rows of the data.

    Raises DataError or UsageError where additional images do not fit.
    """
    # a long path leaves no room for the options; run.toml has it whole
    shown = re.sub(r":.*[/\\]", ":", info.name)
    facts = {"classes": info.num_classes, "pixels": info.image_size, "augment": info.augment}
    if config.crop_padding != "zeros":
        facts["crop padding"] = config.crop_padding
    if config.validation is not None:
        facts["held out"] = f"{config.validation:g}"
    if config.order != "shuffled":
        facts["order"] = config.order
    if info.view is not None:
        view = {name: value for name, value in asdict(info.view).items() if name != "image_size"}
        facts |= view | {"auto_augment": info.view.auto_augment or "none"}
    row = PlanRow("data", shown, "", facts)
    if config.extra.file is None:
        return (row,)
    extra = describe_extra(config.extra, info, config.batch_size)
    return row, PlanRow("data", f"extra:{config.extra.file.name}", "", extra)
