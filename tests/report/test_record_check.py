"""The numbers of eval.json are believed only where they agree with its points and its sha256."""

from __future__ import annotations

import json

import pytest

from abatis.errors import DataError
from abatis.report.eval_record import STATE, describe_check, read_record, write_record
from abatis.report.intervals import wilson_interval
from abatis.report.record_check import find_fault
from abatis.report.sealed_json import CHECKSUM, is_intact, parse_json, seal

CLEAN, BROKEN, ROBUST = [1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]
RECORD = {
    "n": 4,
    "data": "digits",
    "clean_acc": 0.75,
    "pgd20_acc": 0.5,
    "robust_acc": 0.25,
    "verdict": "PASS",
    "counts": {"clean": 3, "PGD-20": 2, "robust": 1},
    "interval": {
        "clean_acc": list(wilson_interval(3, 4)),
        "robust_acc": list(wilson_interval(1, 4)),
    },
    "attacks": {"PGD-20": {"accuracy": 0.5}},
    "per_point": {"clean": CLEAN, "PGD-20": BROKEN, "robust": ROBUST},
}


def test_a_record_that_agrees_with_itself_has_no_fault():
    assert find_fault(RECORD) == ""
    assert find_fault({}) == ""
    assert find_fault(seal(RECORD)) == ""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"robust_acc": 0.26}, "robust_acc is 0.26"),
        ({"pgd20_acc": 1.0}, "pgd20_acc is 1.0, but its points give 0.5"),
        ({"clean_acc": float("nan")}, "clean_acc is not a share"),
        ({"clean_acc": 1.5}, "clean_acc is not a share"),
        ({"clean_acc": True}, "clean_acc is not a share"),
        ({"clean_acc": "0.75"}, "clean_acc is not a share"),
        ({"n": -3}, "n is not a positive number"),
        ({"n": 0}, "n is not a positive number"),
        ({"n": 4.0}, "n is not a positive number"),
        ({"n": 5}, "clean has 4 points, but n is 5"),
        ({"n": None, "per_point": {}}, "n is missing"),
        ({"margin_pgd20_acc": 0.5}, "margin_pgd20_acc has no results by point"),
        ({"interval": {"robust_acc": [0.6, 0.1]}}, "the interval of robust_acc is impossible"),
        ({"interval": {"robust_acc": [-0.1, 0.3]}}, "the interval of robust_acc is impossible"),
        ({"interval": {"robust_acc": [0.3, 0.9]}}, "outside of its interval"),
        ({"interval": {"robust_acc": [0.1, 0.6]}}, "is not that of its points"),
        ({"counts": {"robust": 4}}, "the count of robust is 4"),
        ({"attacks": {"PGD-20": {"accuracy": 0.9}}}, "the accuracy of PGD-20 is 0.9"),
        ({"attacks": []}, "attacks is not a table"),
        ({"verdict": 3}, "verdict is not a text"),
        ({"ladder": "longest"}, "ladder is not one of"),
        ({"masking": {"tests": [3]}}, "masking is not a table of tests"),
        ({"per_point": {"clean": [1, 1, 1, 2]}}, "are not all 0 or 1"),
        (
            {"interval": {}, "counts": {}, "per_point": {"clean": CLEAN, "PGD-20": [0, 1, 0, 1]}},
            "robust_acc has no results",
        ),
    ],
)
def test_what_is_impossible_or_contradicts_the_points_is_named(changes, words):
    assert words in find_fault({**RECORD, **changes})


def test_an_attack_repairs_no_point_and_robust_is_what_withstood_all():
    points = {"clean": CLEAN, "PGD-20": [0, 1, 0, 1]}
    record = {"n": 4, "data": "digits", "clean_acc": 0.75, "per_point": points}
    assert "PGD-20 has right points that are wrong" in find_fault(record)
    points |= {"PGD-20": BROKEN, "robust": [0, 0, 1, 0]}
    assert "robust has right points that PGD-20 broke" in find_fault(record)


def test_one_changed_byte_of_a_written_record_is_seen(tmp_path):
    flags = [int(point < 93) for point in range(200)]
    record = {
        "n": 200,
        "data": "digits",
        "clean_acc": 0.465,
        "note": "as it was",
        "per_point": {"clean": flags},
    }
    write_record(tmp_path, record)
    path = tmp_path / "eval.json"
    text = path.read_text()
    assert read_record(tmp_path)["clean_acc"] == 0.465
    for before, after in (("0.465", "0.865"), ("as it was", "as it is!"), ("1,", "0,")):
        assert before in text
        path.write_text(text.replace(before, after, 1))
        with pytest.raises(DataError, match=r"eval\.json is damaged"):
            read_record(tmp_path)
    path.write_text(text.replace('"note": "as it was",\n', ""))
    with pytest.raises(DataError, match="does not match its own sha256"):
        read_record(tmp_path)


def test_impossible_numbers_are_refused(tmp_path):
    (tmp_path / "eval.json").write_text('{"clean_acc": NaN, "n": -3}')
    with pytest.raises(DataError, match="n is not a positive number of points: -3"):
        read_record(tmp_path)


def test_an_older_record_is_read_and_noted(tmp_path):
    assert describe_check(seal(RECORD)) == describe_check({}) == ""
    assert "its numbers fit its points" in describe_check(RECORD)
    assert "cannot be checked" in describe_check({"n": 4, "clean_acc": 0.5})
    (tmp_path / "eval.json").write_text(json.dumps(RECORD))
    assert read_record(tmp_path) == RECORD


def test_the_state_is_removed_once_the_record_is_written(tmp_path):
    (tmp_path / STATE).write_text("{}")
    write_record(tmp_path, RECORD)
    assert not (tmp_path / STATE).exists()
    assert write_record(tmp_path, RECORD)["test_set_evaluations"] == 2


def test_the_sha256_is_that_of_the_content_as_it_is_read_back():
    sealed = seal({"a": (1, 2.5), "b": {3: None}})
    assert sealed == {"a": [1, 2.5], "b": {"3": None}, CHECKSUM: sealed[CHECKSUM]}
    assert is_intact(json.loads(json.dumps(sealed)))
    assert not is_intact({**sealed, "a": [1, 2.6]})
    assert not is_intact({"a": 1})
    assert seal(sealed) == sealed


@pytest.mark.parametrize("text", ["[" * 100_000, "[" * 60 + "]" * 60, '{"a": ', ""])
def test_what_is_no_json_or_too_deep_is_refused(text):
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)
