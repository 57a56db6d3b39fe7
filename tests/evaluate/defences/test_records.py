"""The records about the toys agree with each other, with the pages, and with the limits.

The proof is resumable: toys that it did not judge yet are named on its page.
"""

from __future__ import annotations

import json

import pytest
from benchmarks import broken_defences, calibrate_verdict
from benchmarks.broken_defences import NEAR, get_headline, list_spoken, read_truth

from abatis.evaluate.masking.record import GATES
from tests.evaluate.defences.table import BROKEN, HONEST_ONES, TOYS

RECORD = broken_defences.read_record()
ROWS = RECORD["toys"]
WARN_ONLY = ("D14", "D15")
"""They measure how weak one start is, which honest networks share."""


def test_every_judged_toy_got_a_report():
    assert set(ROWS) <= set(TOYS)
    assert [name for name in ROWS if ROWS[name]["exit"] or ROWS[name]["verdict"] is None] == []


def test_broken_defences_are_caught_and_honest_networks_are_not_failed():
    passed = {name for name in ROWS if name in BROKEN and not is_caught(name)}
    failed = {name for name in ROWS if name in HONEST_ONES and ROWS[name]["verdict"] == "FAIL"}
    assert passed | failed == set(broken_defences.MISSED)


def is_caught(name: str) -> bool:
    return ROWS[name]["verdict"] in ("WARN", "FAIL")


def test_the_headline_is_near_the_truth_or_the_reason_is_told():
    truth = read_truth()
    far = {name for name in ROWS if abs(get_headline(ROWS[name]) - truth[name]) > NEAR}
    assert far == set(broken_defences.REASONS)


@pytest.mark.parametrize("name", ROWS)
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
    docs = broken_defences.DOCS.read_text(encoding="utf-8")
    assert broken_defences.put_into_docs(page, docs) == docs
    broken, honest = len(BROKEN), len(HONEST_ONES)
    assert f"of {broken} broken defences and {honest} honest networks" in docs


def test_rates_are_counted_by_hand():
    def row(status: str, count: int) -> dict[str, object]:
        return {"verdict": "PASS", "tests": {"D10": [status, count / 100, count, 100]}}

    rows = {"cnn 0": row("pass", 0), "cnn 1": row("warn", 2), "mlp 1": row("pass", 1)}
    rows |= {"decoy 0": row("fail", 30), "vit 0": row("not applicable", 0)}
    found = calibrate_verdict.measure("D10", rows)
    assert found["honest"] == {
        "networks": 3,
        "spoke": {"count": 1, "interval": [0.0615, 0.7923]},
        "failed": {"count": 0, "interval": [0.0, 0.5615]},
        "quantiles": [0.0, 0.01, 0.02, 0.02],
    }
    assert found["broken"]["failed"] == {"count": 1, "interval": [0.2065, 1.0]}


CALIBRATION = (
    json.loads(calibrate_verdict.RECORD.read_text(encoding="utf-8"))
    if calibrate_verdict.RECORD.exists()
    else None
)
measured = pytest.mark.skipif(CALIBRATION is None, reason="no calibration was recorded yet")


@measured
def test_the_limits_are_those_that_were_measured():
    gates = {test: [gate.warn, gate.fail] for test, gate in GATES.items()}
    assert CALIBRATION["gates"] == gates
    keys = CALIBRATION["networks"]
    assert sum(key.split()[0] in HONEST_ONES for key in keys) >= 12
    page = calibrate_verdict.write_page(keys)
    assert calibrate_verdict.PAGE.read_text(encoding="utf-8") == page


@measured
@pytest.mark.parametrize("test", GATES)
def test_no_limit_fails_an_honest_network(test):
    found = calibrate_verdict.measure(test, CALIBRATION["networks"])
    assert found == CALIBRATION["rates"][test]
    assert found["honest"]["failed"]["count"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param("decoy", marks=pytest.mark.long), "cnn"])
def test_a_verdict_is_found_again(name):
    found = broken_defences.judge(name)
    assert found["verdict"] == ROWS[name]["verdict"]
    assert get_headline(found) == pytest.approx(get_headline(ROWS[name]), abs=NEAR)
