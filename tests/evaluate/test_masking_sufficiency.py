"""A PASS needs enough points that are right, and a network better than a constant answer."""

from __future__ import annotations

import pytest
import torch

from abatis.evaluate.judge import Clean
from abatis.evaluate.masking.sufficiency import MIN_RIGHT, find_shortage
from abatis.report.intervals import find_chance
from abatis.report.terminal import Reporter
from abatis.report.verdicts import ORDER, STYLES, find_worst, format_verdict
from tests.evaluate.planted import PLANTED, diagnosed, dim, shorten
from tests.report import record


def clean(right, of, labels=None, classes=10):
    labels = torch.arange(of) % classes if labels is None else labels
    correct = torch.arange(of) < right
    return Clean(correct, labels, torch.zeros(of, dtype=torch.bool), classes, labels)


@pytest.mark.parametrize(
    ("right", "of", "shortage"),
    [
        (0, 24, "none of 24 points is right without an attack, so nothing is left to attack"),
        (1, 1, "only 1 of 1 point is right without an attack; 50 are needed for a verdict"),
        (3, 24, "only 3 of 24 points are right without an attack; 50 are needed for a verdict"),
        (MIN_RIGHT - 1, 49, "only 49 of 49 points are right without an attack; 50 are needed"),
        (MIN_RIGHT, 50, ""),
        (50, 256, ""),  # 15.2 to 24.8 % in ten classes
    ],
)
def test_a_pass_needs_points_that_are_right(right, of, shortage):
    found = find_shortage(clean(right, of))
    assert found.startswith(shortage)
    assert bool(found) == bool(shortage)


def test_a_network_at_chance_proves_nothing():
    """135 of 256 are 46.6 to 58.8 %, 144 of 256 are 50.1 to 62.2 %."""
    assert find_shortage(clean(135, 256, classes=2)) == (
        "the clean accuracy, 52.7 % (95 % interval 46.6 to 58.8 %), is not above chance: always "
        "answering the most common class gives 50.0 %"
    )
    assert find_shortage(clean(144, 256, classes=2)) == ""


def test_a_constant_answer_is_chance_however_often_it_is_right():
    """240 of 256 points are of one class: 94 % right, and no attack changes any."""
    labels = (torch.arange(256) >= 240).long()
    assert "not above chance" in find_shortage(clean(240, 256, labels))
    one_class = torch.zeros(60, dtype=torch.int64)
    assert "gives 100.0 %" in find_shortage(clean(60, 60, one_class))
    assert find_chance([3, 1]) == 0.75


def test_an_alarm_needs_no_number_of_points(monkeypatch, points):
    shorten(monkeypatch)
    net, data = dim(points)
    found = diagnosed(PLANTED["detached"](net), data, "Linf:0.0222")
    assert (found.verdict, found.shortage) == ("FAIL", "")
    assert not any("too little" in finding for finding in found.list_findings())
    warned = diagnosed(PLANTED["softmax"](net), data, "Linf:0.0222")
    assert (warned.verdict, warned.shortage) == ("WARN", "")


def test_the_words_of_the_verdict():
    assert {format_verdict(word) for word in ORDER} == {
        "PASS",
        "-",
        "too little to judge",
        "WARN",
        "FAIL",
    }
    assert set(STYLES) == set(ORDER) - {"-"}
    assert "green" not in STYLES["UNDECIDED"]
    assert find_worst(["PASS", "UNDECIDED", None]) == "UNDECIDED"
    assert find_worst(["PASS", "nonsense", 3]) == "-"
    assert find_worst([]) == "-"


def test_the_terminal_says_why_there_is_no_verdict(capsys):
    says = "too little to judge: only 3 of 24 points are right"
    Reporter().evaluation({**record(), "verdict": "UNDECIDED", "findings": [says]})
    text = capsys.readouterr().out
    assert "too little to judge" in text.replace(says, "")
    assert f"finding: {says}" in text
    assert "PASS" not in text
    assert "found no sign of masking" not in text
