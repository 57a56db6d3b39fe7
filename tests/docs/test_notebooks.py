"""The notebooks run from start to end, show what they are to show, and stay small."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
LARGEST = 60_000  # bytes of a notebook with its outputs
PATIENCE = 600  # seconds for a cell
IDS = {"ids": lambda path: path.stem}


def read_cells(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def test_there_are_three():
    assert len(NOTEBOOKS) == 3


@pytest.mark.parametrize("path", NOTEBOOKS, **IDS)
def test_a_notebook_is_small(path):
    assert path.stat().st_size < LARGEST


@pytest.mark.parametrize("path", NOTEBOOKS, **IDS)
def test_links_of_a_notebook_lead_somewhere(path):
    for cell in read_cells(path):
        if cell["cell_type"] == "markdown":
            for target in re.findall(r"\]\(([^)]+)\)", "".join(cell["source"])):
                assert (path.parent / target).exists(), target


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, **IDS)
def test_a_notebook_runs_and_shows_a_verdict(path, tmp_path):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    book = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(book, timeout=PATIENCE, resources=where).execute()
    shown = json.dumps([cell.get("outputs", []) for cell in book.cells])
    assert "masking verdict" in shown
    assert len(nbformat.writes(book)) < LARGEST
