"""The page on RobustBench's networks shows the table that the package has."""

from __future__ import annotations

import importlib.util
from pathlib import Path

MAKER = Path(__file__).resolve().parents[2] / "docs" / "zoo_page.py"


def test_the_page_is_that_of_the_table():
    spec = importlib.util.spec_from_file_location("zoo_page", MAKER)
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    text = maker.PAGE.read_text(encoding="utf-8")
    assert text.partition(maker.MARK)[2] == maker.make_tables(), "run python docs/zoo_page.py"
    assert "| Carmon2019Unlabeled | `wrn28-10` | 36.5 M | none | 89.69 | 59.53 | MIT |" in text
