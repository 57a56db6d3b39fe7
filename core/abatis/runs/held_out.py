"""Which training images a run holds out, recorded in its folder."""

from __future__ import annotations

import json
from pathlib import Path

from abatis.config.run_config import RunConfig
from abatis.data import Data
from abatis.errors import UsageError
from abatis.system.files import explain_disk_errors, write_text
from abatis.train.resume import list_allowed

HELD_OUT = "held-out.json"  # in the run folder


def check_not_trained_on(config: RunConfig, run: Path, images: Data) -> None:
    """Raise UsageError where held-out images were trained on in the run that this one goes on from.

    Not where that run had another number of images, and so other data, or recorded nothing.
    """
    try:
        before = json.loads((run / HELD_OUT).read_text(encoding="utf-8"))
        same = before["training images"] == _describe(images)["training images"]
        kept = set(before["held out"])
    except (OSError, ValueError, LookupError, TypeError):
        return
    if images.val is None or not same or "held_out" in list_allowed(config):
        return
    if trained := len(set(images.val.index.tolist()) - kept):
        raise UsageError(
            f"--continue-from: that run was trained on {trained} of the images that this one holds"
            " out",
            where=str(run / HELD_OUT),
            fix="give --validation as in that run, or --validation 0; or --allow-mismatch held_out,"
            " and they may choose the best weights",
        )


def write_held_out(folder: Path, images: Data) -> None:
    """Write the positions of the held-out images into the run folder."""
    with explain_disk_errors(folder):
        write_text(folder / HELD_OUT, json.dumps(_describe(images)) + "\n")


def _describe(images: Data) -> dict[str, object]:
    held_out = [] if images.val is None else images.val.index.tolist()
    return {"training images": len(images.train) + len(held_out), "held out": held_out}
