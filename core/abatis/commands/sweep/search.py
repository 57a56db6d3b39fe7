"""Runs the trials of a sweep, one after the other, and writes its page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from abatis.commands.jobs.write import write_jobs
from abatis.commands.sweep.advice import Adviser, describe_accuracies, describe_values
from abatis.commands.sweep.options import Asked
from abatis.commands.sweep.page import write_results
from abatis.commands.sweep.study_file import StudyFile, Trial, open_study
from abatis.config.run_config import RunConfig
from abatis.errors import AbatisError, NotFiniteError, OutOfMemoryError, Stopped, UsageError
from abatis.report.console import SafeConsole
from abatis.runs.history import history
from abatis.runs.run import run
from abatis.system.files import explain_disk_errors
from abatis.system.folder_lock import lock_folder

TRIAL_ERRORS = (NotFiniteError, OutOfMemoryError)
"""What the values of a trial can cause; other errors end the sweep."""


class Hopeless(Exception):
    """Ends the training of a trial that is pruned."""


def sweep(asked: Asked) -> int:
    """Run the trials that the study still lacks; returns the exit code."""
    adviser = Adviser(asked.spaces, asked.objectives, _configure_first(asked).seed)
    console = SafeConsole()

    def tell(text: str) -> None:
        console.print(text, markup=False, soft_wrap=not console.is_terminal)

    with explain_disk_errors(asked.out):
        asked.out.mkdir(parents=True, exist_ok=True)
    with lock_folder(asked.out):
        study = open_study(asked.out, _describe_question(asked))  # nobody else changes it now
        if asked.jobs is not None:
            _write_jobs(asked, study, adviser, tell)
            return 0
        _check_first(asked, study)
        for number in range(asked.trials):
            if number == len(study.trials):
                study.trials.append(Trial(adviser.choose_values(study.trials)))
                study.save()
            if study.trials[number].state == "started":
                _run_trial(asked, study, adviser, number, tell)
        write_results(study, adviser, asked, tell)
    return 0 if any(trial.state == "finished" for trial in study.trials) else 1


def _configure_first(asked: Asked) -> RunConfig:
    """The run of the lower ends of all spaces."""
    return asked.configure({space.name: space.extremes[0] for space in asked.spaces}, 0, 0)


def _describe_question(asked: Asked) -> dict[str, Any]:
    """What must stay the same where a sweep goes on; the number of trials may grow."""
    searched = {space.name for space in asked.spaces}
    options = _configure_first(asked).to_toml()
    for name in searched:
        group, dot, key = name.replace("-", "_").rpartition(".")
        table = options.get(group, options.get(group.replace("_", "-"))) if dot else options
        if isinstance(table, dict):
            table.pop(key, None)
    options.pop("out", None)
    return {
        "space": sorted(space.text for space in asked.spaces),
        "objective": list(asked.objectives),
        "seeds": asked.seeds,
        "pruning": asked.prune,
        "options": options,
    }


def _check_first(asked: Asked, study: StudyFile) -> None:
    """Make the plan of one run, so that what cannot start fails before the first trial."""
    if not study.trials:
        run(_configure_first(asked).model_copy(update={"dry_run": True, "quiet": True}))


def _write_jobs(
    asked: Asked, study: StudyFile, adviser: Adviser, tell: Callable[[str], None]
) -> None:
    """Draw all trials, and write the commands of those that have not ended."""
    assert asked.jobs is not None
    while len(study.trials) < asked.trials:
        study.trials.append(Trial(adviser.choose_values(study.trials, at_random=True)))
    study.save()
    configs = [
        asked.configure(trial.values, number, seed)
        for number, trial in enumerate(study.trials)
        for seed in range(asked.seeds)
        if trial.state == "started"
    ]
    for text in write_jobs(asked.jobs, configs):
        tell(text)


def _run_trial(
    asked: Asked, study: StudyFile, adviser: Adviser, number: int, tell: Callable[[str], None]
) -> None:
    """Train a trial with all its seeds, or go on with it, and write how it ended."""
    trial = study.trials[number]
    tell(f"trial {number + 1} of {asked.trials}: {describe_values(trial.values)}")
    found: list[tuple[float, float]] = []
    try:
        for seed in range(asked.seeds):
            config = asked.configure(trial.values, number, seed)
            watch = _make_watch(asked, study, adviser, number) if seed == 0 else None
            run(config.model_copy(update={"quiet": True}), on_epoch=watch)
            found.append(_read_accuracies(config))
        trial.state = "finished"
        trial.robust, trial.clean = (sum(one) / len(found) for one in zip(*found, strict=True))
        tell(f"  held out: {describe_accuracies(trial)}")
    except Hopeless:
        trial.state = "pruned"
        tell(f"  pruned after epoch {len(trial.epochs)}: below the median of the other trials")
    except Stopped as error:
        raise Stopped(
            error.what, where=error.where, fix="run the same command again to continue"
        ) from error
    except TRIAL_ERRORS as error:
        trial.state, trial.why = "failed", f"{type(error).__name__}: {error.what}"
        tell(f"  failed: {trial.why}")
    except AbatisError as error:
        where = f"trial {number + 1}" + (f", {error.where}" if error.where else "")
        raise type(error)(error.what, where=where, fix=error.fix) from error
    study.save()


def _make_watch(
    asked: Asked, study: StudyFile, adviser: Adviser, number: int
) -> Callable[[Mapping[str, Any]], None]:
    """What looks at each epoch of a trial's first seed."""
    trial = study.trials[number]

    def watch(row: Mapping[str, Any]) -> None:
        if "val_robust_acc" not in row:
            raise UsageError("no images are held out, by which trials are compared")
        epoch = int(row["epoch"])
        accuracy = row["val_robust_acc" if "robust" in asked.objectives else "val_clean_acc"]
        trial.epochs[epoch - 1 :] = [float(accuracy)]
        study.save()
        last = epoch >= asked.configure(trial.values, number, 0).epochs
        if asked.prune and not last and adviser.is_hopeless(study.trials, number):
            raise Hopeless

    return watch


def _read_accuracies(config: RunConfig) -> tuple[float, float]:
    """Robust and clean accuracy on held-out images at the epoch whose weights were kept."""
    assert config.name is not None
    columns = history(config.out / config.name)
    rows = zip(columns.get("val_robust_acc", ()), columns.get("val_clean_acc", ()), strict=True)
    known = [(robust, clean) for robust, clean in rows if robust is not None and clean is not None]
    if not known:
        raise UsageError("no images are held out, by which trials are compared")
    return max(known)
