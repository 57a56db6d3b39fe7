"""The metrics of a run as columns."""

from __future__ import annotations

import json
from pathlib import Path

from abatis.errors import UsageError
from abatis.runs.result import Result
from abatis.train.trainer import METRICS


def history(run: str | Path | Result) -> dict[str, list[float | None]]:
    """Read the metrics of a run, as a data frame or a plot takes them.

    Args:
        run: the run folder, or the result of :func:`abatis.run`. The run may still be going on.

    Returns:
        For each name in ``metrics.jsonl``, its value in every epoch, from the first; None where an
        epoch has none.

    Raises:
        UsageError: the folder has no metrics, or they are damaged.
    """
    folder = run.folder if isinstance(run, Result) else Path(run).expanduser()
    path = folder / METRICS
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
        rows = [json.loads(line) for line in lines[:-1]]  # what follows is not written yet
        if not all(isinstance(row, dict) for row in rows):
            raise ValueError("a line is not a table of names and numbers")
    except FileNotFoundError:
        raise UsageError(
            f"no metrics in {folder}", fix="give the folder of a run, like runs/NAME"
        ) from None
    except (OSError, ValueError) as error:
        raise UsageError(
            f"the metrics are damaged: {type(error).__name__}: {error}", where=str(path)
        ) from error
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}
