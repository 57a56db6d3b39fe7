"""The study file of a sweep: written anew after every epoch, so that a kill loses nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from abatis.errors import UsageError
from abatis.system.files import explain_disk_errors, write_text

STUDY = "study.json"
FORMAT = 1


@dataclass
class Trial:
    """One trial.

    Args:
        values: of the options that are searched.
        state: ``started`` covers what is waiting, running, or was killed.
        epochs: robust accuracy on held-out images after each epoch of its first seed.
        robust: mean over its seeds at the epoch that each chose; None before the end.
        clean: the same of the clean accuracy.
        why: why it failed.
    """

    values: dict[str, Any]
    state: Literal["started", "finished", "pruned", "failed"] = "started"
    epochs: list[float] = field(default_factory=list)
    robust: float | None = None
    clean: float | None = None
    why: str = ""


@dataclass
class StudyFile:
    """The question and the trials of a sweep."""

    folder: Path
    question: dict[str, Any]
    trials: list[Trial] = field(default_factory=list)

    def save(self) -> None:
        """Write the file; the former one stays whole until then."""
        content = {
            "format": FORMAT,
            "question": self.question,
            "trials": [asdict(trial) for trial in self.trials],
        }
        with explain_disk_errors(self.folder):
            write_text(self.folder / STUDY, json.dumps(content, indent=1) + "\n")


def open_study(folder: Path, question: Mapping[str, Any]) -> StudyFile:
    """The study in a folder, a new one where there is none.

    Raises:
        UsageError: the folder holds another sweep, or its study file is damaged.
    """
    question = json.loads(json.dumps(question, default=str))
    path = folder / STUDY
    if not path.exists():
        with explain_disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        return StudyFile(folder, dict(question))
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        trials = [Trial(**row) for row in content["trials"]]
        before = dict(content["question"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"the study file is damaged: {type(error).__name__}: {error}",
            where=str(path),
            fix="choose another --out; the runs in this one are whole",
        ) from error
    differing = [key for key in {*before, *question} if before.get(key) != question.get(key)]
    if differing:
        raise UsageError(
            f"this folder holds a sweep with another {', '.join(sorted(differing))}",
            where=str(path),
            fix="repeat its command, or choose another --out",
        )
    return StudyFile(folder, before, trials)
