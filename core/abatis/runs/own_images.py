"""The data of a finished run, opened again to judge its network on them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from abatis.data import Data, DataRequest, open_data
from abatis.data.digest import digest_split
from abatis.data.info import Split
from abatis.errors import DataError, UsageError
from abatis.report.eval_record import read_record
from abatis.runs.model_spec import Kind, ModelSpec, find_model
from abatis.runs.open_data import find_view
from abatis.runs.own_run import describe_plugins, describe_training
from abatis.runs.prepare import prepare
from abatis.runs.result import Result
from abatis.runs.run_folder import PYTHON

TOGETHER = 256  # images at a time


def open_own_data(subject: ModelSpec, device: torch.device, **changes: Any) -> Data:
    """The data that a run was trained on, without what only a training step sees.

    Args:
        subject: the run.
        device: where the images lie.
        changes: fields of the request that differ from the run's.

    Raises:
        UsageError: they were given from Python.
    """
    run = subject.run
    assert run is not None
    if run.data.startswith(PYTHON):
        raise UsageError(
            f"the data of this run were given from Python: {run.data.removeprefix(PYTHON)}",
            where=str(subject.path),
            fix="give the test images again: abatis.judge(run, data=(x, y)); the commands take "
            "--data npz:PATH",
        )
    request = DataRequest.of(run, find_view(run), device).for_judging()
    return open_data(replace(request, class_names=subject.class_names, **changes))


def describe_own_run(
    subject: ModelSpec, module: nn.Module, images: Data, device: torch.device
) -> dict[str, Any]:
    """What only a run has: its training images, and the adaptive attacks of its plugins."""
    if subject.run is None:
        return {}
    # its weights are loaded already
    config = subject.run.model_copy(update={"init": None, "continue_from": None})
    plan = prepare(config, images.info, device, module, changed=True).plan
    return {
        "training": describe_training(subject.run, module, images),
        "adaptive": plan.adaptive,
        "plugins": describe_plugins(plan.rows),
    }


def find_run(run: str | Path | Result) -> ModelSpec:
    """The run in a folder; raises UsageError where there is none."""
    folder = run.folder if isinstance(run, Result) else Path(run).expanduser()
    spec = find_model(str(folder)) if folder.is_dir() else None
    if spec is None or spec.kind is not Kind.RUN:
        raise UsageError(f"{folder} is not a run folder", fix="give the folder of a run: runs/NAME")
    return spec


def judged_images(run: str | Path | Result) -> tuple[Tensor, Tensor]:
    """Open the test images of a run, as they were judged.

    Args:
        run: the run folder, or the result of :func:`abatis.run`.

    Returns:
        x, (n, C, H, W) float32 in [0, 1], and y, (n,) int64, both on the CPU, in the order of
        ``per_point`` in eval.json.

    Raises:
        UsageError: the folder holds no run, or its data were given from Python.
        DataError: the data cannot be opened, or are not those that were judged.
    """
    spec = find_run(run)
    test = _take_judged(spec.path, open_own_data(spec, torch.device("cpu")).test)
    _check_same(spec.path, test)
    return read_images(test)


def read_images(split: Split) -> tuple[Tensor, Tensor]:
    """All images of a split, (n, C, H, W) float32 in [0, 1], and their labels, (n,) int64."""
    batches = [*split.eval_batches(TOGETHER)]
    return torch.cat([batch.x for batch in batches]), torch.cat([batch.y for batch in batches])


def _take_judged(folder: Path, test: Split) -> Split:
    """The test images that a run's record names, where it was judged on some of them."""
    chosen = read_record(folder).get("points")
    if chosen is None:
        return test
    places = {index: place for place, index in enumerate(test.index.tolist())}
    if not set(chosen) <= places.keys():
        return test  # other data, as the next check says
    return test.subset(torch.tensor([places[index] for index in chosen]))


def _check_same(folder: Path, test: Split) -> None:
    judged = read_record(folder).get("points_sha256")
    if judged is not None and judged != digest_split(test):
        raise DataError(
            "the test images are not those that the run was judged on",
            where=str(folder),
            fix="restore the data, or judge the run on these: defense eval",
        )
