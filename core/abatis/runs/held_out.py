"""Which training images a run holds out, recorded in its folder."""

from __future__ import annotations

import json
from pathlib import Path

from abatis.data import Data
from abatis.system.files import explain_disk_errors, write_text

HELD_OUT = "held-out.json"  # in the run folder


def write_held_out(folder: Path, images: Data) -> None:
    """Write the positions of the held-out images into the run folder."""
    held_out = [] if images.val is None else images.val.index.tolist()
    record = {"training images": len(images.train) + len(held_out), "held out": held_out}
    with explain_disk_errors(folder):
        write_text(folder / HELD_OUT, json.dumps(record) + "\n")
