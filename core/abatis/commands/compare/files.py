"""The files of a comparison: compare.json, and what is made from it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from abatis.commands.compare.page import page_of
from abatis.commands.compare.tables import Compared, latex, markdown
from abatis.system.files import explain_disk_errors, write_text


def write(compared: Compared, out: Path) -> Sequence[Path]:
    """compare.json and what is made from it, in ``out``; raises UsageError where the disk refuses."""
    texts = {
        "json": json.dumps(compared, indent=1) + "\n",
        "md": markdown(compared),
        "tex": latex(compared),
        "html": page_of(compared),
    }
    with explain_disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        for ending, text in texts.items():
            write_text(out / f"compare.{ending}", text)
    return [out / f"compare.{ending}" for ending in texts]
