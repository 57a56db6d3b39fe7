"""The batch of a step whose loss or gradient was not finite, for whoever looks into it."""

from __future__ import annotations

import json
import math

from abatis.errors import NotFiniteError
from abatis.system import distributed
from abatis.system.files import explain_disk_errors, write_text
from abatis.train.batches import cut_epoch
from abatis.train.training import Training

FAILED_BATCH = "not-finite.json"  # in the run folder


def write_failed_batch(error: NotFiniteError, training: Training) -> None:
    """Write the images of a failed step, by their places in the training split, and say where."""
    if error.step is None or distributed.rank() > 0:
        return
    config = training.config
    epoch, number = divmod(error.step, training.steps_per_epoch)
    batch = cut_epoch(config, training.data.train, epoch)[number]
    # JSON has no NaN
    terms = {name: mean if math.isfinite(mean) else str(mean) for name, mean in error.terms.items()}
    record = {
        "what": error.what,
        "step": error.step,
        "epoch": epoch,
        "seed": config.seed,
        "terms": terms,
        "batch": batch.tolist(),
    }
    path = training.folder / FAILED_BATCH
    with explain_disk_errors(training.folder):
        write_text(path, json.dumps(record, indent=2) + "\n")
    error.where = f"{error.where}; the batch is in {path}"
