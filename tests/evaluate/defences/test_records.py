"""The records about the toys agree with each other, with the pages, and with the limits."""

from __future__ import annotations

import json

import pytest
from benchmarks import broken_defences, calibrate_verdict
from benchmarks.broken_defences import NEAR, ROOT, get_headline, list_spoken, read_truth

from abatis.evaluate.masking.record import GATES
from tests.evaluate.defences.table import BROKEN, HONEST_ONES, TOYS

RECORD = json.loads(broken_defences.RECORD.read_text(encoding="utf-8"))
ROWS = RECORD["toys"]
CALIBRATION = json.loads(calibrate_verdict.RECORD.read_text(encoding="utf-8"))
WARN_ONLY = ("D14", "D15")
"""They measure how weak one start is, which honest networks share."""


def test_every_toy_was_judged_and_got_a_report():
    assert set(ROWS) == set(TOYS)
    assert [name for name in TOYS if ROWS[name]["exit"] or ROWS[name]["verdict"] is None] == []


def test_broken_defences_are_caught():
    passed = [name for name in BROKEN if ROWS[name]["verdict"] not in ("WARN", "FAIL")]
    assert passed == [name for name in BROKEN if name in broken_defences.MISSED]


def test_honest_networks_are_not_failed():
    failed = [name for name in HONEST_ONES if ROWS[name]["verdict"] == "FAIL"]
    assert failed == [name for name in HONEST_ONES if name in broken_defences.MISSED]


def test_the_headline_is_near_the_truth_or_the_reason_is_told():
    truth = read_truth()
    far = [name for name in TOYS if abs(get_headline(ROWS[name]) - truth[name]) > NEAR]
    assert len(far) <= len(TOYS) / 5
    assert far == [name for name in TOYS if name in broken_defences.REASONS]


@pytest.mark.parametrize("name", TOYS)
def test_a_row_is_consistent(name):
    row = ROWS[name]
    fails, warns = list_spoken(row, "fail"), list_spoken(row, "warn")
    assert (row["verdict"] == "FAIL") == bool(fails)
    if row["verdict"] in ("PASS", "UNDECIDED"):
        assert not warns
    assert (row["robust_acc"] is None) == (row["verdict"] == "FAIL")
    assert get_headline(row) <= row["clean_acc"]
    assert not set(fails) & set(WARN_ONLY)


def test_the_pages_show_the_records():
    page = broken_defences.write_page(RECORD)
    assert broken_defences.PAGE.read_text(encoding="utf-8") == page
    docs = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    assert [line for line in page.splitlines() if line.startswith("|") and line not in docs] == []
    rates = calibrate_verdict.write_page(CALIBRATION["networks"])
    assert calibrate_verdict.PAGE.read_text(encoding="utf-8") == rates


def test_the_limits_are_those_that_were_measured():
    gates = {test: [gate.warn, gate.fail] for test, gate in GATES.items()}
    assert CALIBRATION["gates"] == gates


@pytest.mark.parametrize("test", GATES)
def test_no_limit_fails_an_honest_network(test):
    found = calibrate_verdict.measure(test, CALIBRATION["networks"])
    assert found == CALIBRATION["rates"][test]
    assert found["honest"]["failed"]["count"] == 0


def test_the_networks_are_many():
    keys = CALIBRATION["networks"]
    assert sum(key.split()[0] in HONEST_ONES for key in keys) >= 24
    assert sum(key.split()[0] in BROKEN for key in keys) >= 22


@pytest.mark.slow
@pytest.mark.parametrize("name", ["reversed", "cnn"])
def test_a_verdict_is_found_again(name):
    found = broken_defences.judge(name)
    assert found["verdict"] == ROWS[name]["verdict"]
    assert get_headline(found) == pytest.approx(get_headline(ROWS[name]), abs=NEAR)
