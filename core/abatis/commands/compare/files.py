"""The files of a comparison: compare.json, and the tables and the page made from it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from abatis.commands.compare.page import make_page
from abatis.commands.compare.tables import Compared, to_latex, to_markdown
from abatis.system.files import explain_disk_errors, write_text


def write_files(compared: Compared, out: Path) -> Sequence[Path]:
    """Write compare.json, .md, .tex and .html.

    Args:
        compared: What :func:`~abatis.commands.compare.ranking.rank_methods` returned, with notes.
        out: The folder to write into, created if it does not exist.

    Returns:
        The paths of the four files.

    Raises:
        UsageError: The files cannot be written.
    """
    texts = {
        "json": json.dumps(compared, indent=1) + "\n",
        "md": to_markdown(compared),
        "tex": to_latex(compared),
        "html": make_page(compared),
    }
    with explain_disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        for ending, text in texts.items():
            write_text(out / f"compare.{ending}", text)
    return [out / f"compare.{ending}" for ending in texts]
