"""The table that benchmarks/scaling.py computes: its formulas, and the record it stands on."""

from __future__ import annotations

import json

import pytest
from benchmarks.scaling import (
    ASSUMED,
    GPUS,
    NETWORKS,
    RECORD,
    computed,
    counted,
    gathering,
    seconds,
)
from benchmarks.scaling_page import page

PASSES = {
    "none": 2,
    "root": 3,
    "blocks": 4,
}  # a tensor goes around: an all-reduce is a scatter and a gather


@pytest.fixture(scope="module")
def record():
    return json.loads(RECORD.read_text(encoding="utf-8"))


def test_what_is_computed_goes_around_as_often_as_what_was_measured(record):
    found = record["measured"]
    gradients = 4 * found["parameters"]
    rows = {row["shard"]: row["exchanged"] for row in found["rows"] if row["method"] == "at"}
    for shard, kinds in rows.items():
        passes = (
            sum(told["bytes"] * (2 if kind == "allreduce" else 1) for kind, told in kinds.items())
            / gradients
        )
        assert passes == pytest.approx(PASSES[shard], rel=1e-3)
        for row in record["computed"]:
            whole = 4 * record["networks"][row["network"]]["parameters"]
            share = (row["gpus"] - 1) / row["gpus"]
            assert row[f"sent_mb_{shard}"] == pytest.approx(PASSES[shard] * share * whole / 1e6)


def test_by_hand(monkeypatch):
    monkeypatch.setitem(ASSUMED, "latency_seconds", 0)
    size = 8e9  # two nodes of eight: half of an eighth from outside, seven eighths inside
    assert gathering(size, 16) == pytest.approx(0.5e9 / 2.5e10 + 7e9 / 2e11)
    assert seconds(10**6, 10**9, 16, 1, "root") == (pytest.approx(23 * 16e9 / 2e14), 0)
    assert seconds(10**9, 1, 0, 2, "root")[1] == pytest.approx(3 * 2e9 / 2e11)


def test_the_page_is_that_of_the_record_and_the_record_that_of_the_formulas(record):
    assert RECORD.with_suffix(".md").read_text(encoding="utf-8") == page(record)
    name = "WRN-70-16"
    assert counted(NETWORKS[name]) == {
        key: record["networks"][name][key] for key in ("parameters", "forward_flop")
    }
    again = computed(name, NETWORKS[name], record["networks"][name])
    assert [row for row in record["computed"] if row["network"] == name] == again
    assert len(again) == len(GPUS)
