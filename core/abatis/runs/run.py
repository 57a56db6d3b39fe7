"""``abatis.run`` and ``defense-run``: checks what was asked for, shows its plan or runs it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from abatis.api.randomness import untouched
from abatis.config.built_in import load_built_in
from abatis.config.run_config import RunConfig
from abatis.errors import UsageError
from abatis.report.terminal import OnEpoch, Reporter
from abatis.runs.early_checks import check_before_data
from abatis.runs.forecast import add_forecast
from abatis.runs.open_data import describe_run_data, open_run_data
from abatis.runs.prepare import Prepared, prepare
from abatis.runs.result import Result
from abatis.runs.run_folder import PYTHON, claim_folder
from abatis.system import distributed
from abatis.system.arithmetic import use_run_arithmetic
from abatis.system.device import pick_device
from abatis.train.continuation import Source, check_architecture, find_source
from abatis.train.resume import Start
from abatis.train.trace import Say

WHOLE = "abatis.runs.runner:train_and_judge"
"""Imported where a run is made: a plan needs no trainer and no evaluation."""


@dataclass(frozen=True)
class Job:
    """One run, as this process sees it.

    Args:
        config: what was asked for.
        model: the network that was given from Python, else None.
        data: the data set that was given from Python, else None.
        device: where the network is.
        folder: the run folder; the working directory in a dry run, which writes nothing.
        reporter: writes to the terminal; silent in all processes but the first.
    """

    config: RunConfig
    model: nn.Module | None
    data: object
    device: torch.device
    folder: Path
    reporter: Reporter

    @property
    def say(self) -> Say | None:
        """Takes the lines of ``--trace``, where they are asked for."""
        return self.reporter.note if self.config.trace else None


def run(
    config: RunConfig,
    *,
    model: nn.Module | None = None,
    data: object = None,
    on_epoch: OnEpoch | None = None,
) -> Result:
    """Train a network and judge it; the same as ``defense-run``.

    The global random generators are left as they were.

    Args:
        config: the options of the run.
        model: your own module on images in [0, 1], used instead of ``config.backbone``.
        data: ``(train, test)``, used instead of ``config.data``: each a pair (x, y) of arrays, or
            a torch Dataset of (image in [0, 1], label).
        on_epoch: called with the metrics of every epoch, a row of ``metrics.jsonl``. What it raises
            ends the run, whose checkpoints stay.

    Returns:
        The run folder and the numbers of the evaluation.

    Raises:
        AbatisError: one of its subclasses, for everything that can go wrong.
    """
    if model is not None and not isinstance(model, nn.Module):
        raise UsageError(
            f"model is not a torch module, but {model!r:.80}",
            fix="give an instance: model=Net(), not the class Net or a name",
        )
    marks = {"backbone": f"{PYTHON}{type(model).__name__}"} if model is not None else {}
    marks |= {"data": f"{PYTHON}{type(data).__name__}"} if data is not None else {}
    config = config.model_copy(update=marks)
    with distributed.connect(config.device), untouched():
        device = pick_device(config.device)
        with use_run_arithmetic(device, config.tf32, config.deterministic):
            return _run(config, model, data, device, on_epoch)


def _run(
    config: RunConfig,
    model: nn.Module | None,
    data: object,
    device: torch.device,
    on_epoch: OnEpoch | None,
) -> Result:
    check_before_data(config, model, data, device)
    if distributed.was_restarted():
        config = config.model_copy(update={"resume": True})
    first = distributed.rank() == 0
    reporter = Reporter(config.quiet or not first, on_epoch if first else None)
    if config.dry_run:
        _show_plan(Job(config, model, data, device, Path(), reporter))
        return Result(Path())
    train_and_judge: Callable[[Job], Result] = load_built_in(WHOLE)
    with claim_folder(config) if first else nullcontext() as claimed:
        folder = distributed.first_says(claimed) or Path()
        return train_and_judge(Job(config, model, data, device, folder, reporter))


def _show_plan(job: Job) -> None:
    """Print the plan of a dry run; images are read only where they were given from Python."""
    if job.data is None:
        info = describe_run_data(job.config)
    else:
        info = open_run_data(job.config, job.data, job.device).info
    prepared = prepare(job.config, info, job.device, job.model, None, job.say)
    run, notes = job.config.continue_from, prepared.notes
    if run is not None and not run.exists():
        notes = (*notes, f"there is no run {run} yet: this one cannot start before it has ended")
    else:
        prepared = go_on_from(find_source(job.config), Start(), prepared)
    prepared = add_forecast(job.config, prepared, None)
    job.reporter.plan(prepared.plan.rows, notes, job.config)


def go_on_from(source: Source | None, start: Start, prepared: Prepared) -> Prepared:
    """The run with what is known about the run that it goes on from; raises UsageError."""
    if source is None:
        recorded = start.loaded.about.get("continues", {}) if start.loaded is not None else {}
        return prepared.with_continuation(recorded)
    check_architecture(source, prepared.net.module)
    return prepared.with_continuation(source.describe())
