"""A report of records that hold anything."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from abatis.errors import DataError
from abatis.report.record_check import find_fault
from abatis.report.run_report import write_report
from tests.report import run_folder
from tests.report.reading import EVIL, Read, report


@pytest.fixture
def folder(tmp_path) -> Path:
    return run_folder(tmp_path / "a-run", epochs=4)


ODD = (
    None,
    "text",
    EVIL,
    "\ud800",
    [],
    [None],
    {},
    {"a": 1},
    True,
    -1,
    0,
    1e308,
    10**400,
    float("nan"),
    float("inf"),
)


def spoiled(value: Any, draw: random.Random, share: float) -> Any:
    """The same structure, here and there something missing or odd."""
    if draw.random() < share:
        return draw.choice(ODD)
    if isinstance(value, dict):
        return {
            key: spoiled(part, draw, share) for key, part in value.items() if draw.random() > share
        }
    return [spoiled(part, draw, share) for part in value] if isinstance(value, list) else value


def test_no_record_breaks_the_report(folder):
    """A damaged evaluation is refused in few lines; whatever else is odd is left out."""
    draw, pages = random.Random(0), 0
    names = ("eval.json", "plan.json", "environment.json")
    whole = {name: json.loads((folder / name).read_text()) for name in names}
    del whole["eval.json"]["per_point"]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for _ in range(25):
        for name in names:
            share = 0.01 if name == "eval.json" else 0.04
            (folder / name).write_text(json.dumps(spoiled(whole[name], draw, share)))
        (folder / "metrics.jsonl").write_text(
            "".join(json.dumps(spoiled(one, draw, 0.05)) + "\n" for one in rows)
        )
        if find_fault(json.loads((folder / "eval.json").read_text())):
            with pytest.raises(DataError, match=r"eval\.json is damaged"):
                write_report(folder)
            (folder / "eval.json").unlink()
        else:
            pages += 1
        text = report(folder)
        assert "<script" not in text
        assert Read(text).under("h1") == ["a-run"]
    assert 3 <= pages <= 24
