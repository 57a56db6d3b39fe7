"""The data of a run, and its rows in the plan."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import asdict, replace

import torch

from abatis.config.plan_row import PlanRow
from abatis.config.run_config import RunConfig
from abatis.data import Data, DataInfo, DataRequest, View, describe, from_user, open_data
from abatis.data.extra import describe_extra
from abatis.data.info import show_some
from abatis.data.sources import is_streamed
from abatis.errors import UsageError
from abatis.nets.backbones import view_of
from abatis.nets.backbones.names import has_prefix
from abatis.nets.weights_file import WEIGHTS, WEIGHTS_LAST, read_class_names


def describe_run_data(config: RunConfig) -> DataInfo:
    """The facts of a run's data as its plan shows them, without reading all of a large file.

    Raises DataError, UsageError.
    """
    request = DataRequest.of(config, find_view(config))
    names = _read_class_names(config)
    return describe(replace(request, class_names=names, measure=False))


def open_run_data(config: RunConfig, given: object, device: torch.device) -> Data:
    """A run's data, or those given from Python in their place; raises DataError, UsageError."""
    request = DataRequest.of(config, find_view(config), device)
    if given is not None:
        return from_user(given, request)
    return open_data(replace(request, class_names=_read_class_names(config)))


def find_view(config: RunConfig) -> View:
    """How the network sees image files; of images in memory it is not asked what timm says."""
    in_memory = not is_streamed(config.data) and not has_prefix(config.backbone)
    return View() if in_memory else view_of(config.backbone, config.zoo_dir)


def _read_class_names(config: RunConfig) -> tuple[str, ...]:
    """The classes as the weights that a run starts from number them; empty for a new run."""
    own = [config.out / config.name] if config.resumes and config.name else []
    earlier = [config.continue_from] if config.continue_from is not None else []
    for folder in (*own, *earlier):
        for name in (WEIGHTS, WEIGHTS_LAST):
            with suppress(UsageError):  # there is no such file yet, or it is damaged
                return read_class_names(folder / name)
    return ()


def check_classes(config: RunConfig, info: DataInfo) -> None:
    """Raise UsageError where the run that this one goes on from has other classes by name."""
    there = _read_class_names(config)
    if config.continue_from is None or not there or not info.class_names:
        return
    if there != info.class_names:
        raise UsageError(
            f"--continue-from: that run has the classes {show_some(there)}, these data have"
            f" {show_some(info.class_names)}",
            where=str(config.continue_from),
            fix="give data with the same class folders",
        )


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
        usual = {"image_size"} | ({"resize"} if info.view.resize == "shorter" else set())
        view = {name: value for name, value in asdict(info.view).items() if name not in usual}
        facts |= view | {"auto_augment": info.view.auto_augment or "none"}
    row = PlanRow("data", shown, "", facts)
    if config.extra.file is None:
        return (row,)
    extra = describe_extra(config.extra, info, config.batch_size)
    return row, PlanRow("data", f"extra:{config.extra.file.name}", "", extra)
