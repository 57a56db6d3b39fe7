"""A number of an evaluation is one line in one table: everything that shows numbers finds it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

from abatis.api.threat import Threat
from abatis.commands.compare.finished_runs import JudgedRun
from abatis.commands.compare.page import make_page
from abatis.commands.compare.ranking import rank_methods
from abatis.commands.compare.tables import to_markdown
from abatis.commands.export.card import make_card
from abatis.commands.export.finished_run import FinishedRun
from abatis.config.run_config import RunConfig
from abatis.evaluate import EvaluationRequest, evaluate
from abatis.evaluate.autoattack import get_version_name
from abatis.evaluate.ladder import TWENTY_STEPS, VERSIONS
from abatis.report import numbers
from abatis.report.run_report import write_report
from abatis.report.terminal import Reporter
from tests.commands.compare.run_folders import record
from tests.evaluate.conftest import PointsInMemory

KEYS = [
    "clean_acc",
    "pgd20_acc",
    "margin_pgd20_acc",
    "autoattack_acc",
    "autoattack_fast_acc",
    "autoattack_rand_acc",
    "robust_acc",
    "robust_acc_upper",
]
NUMBER = numbers.Number("corners_acc", "corners", "corner accuracy", "corners", column=2)
RECORD = record(
    [1, 1, 1, 1],
    [1, 1, 0, 0],
    [1, 0, 0, 0],
    corners_acc=0.75,
    note="",
    findings=[],
    interval={"clean_acc": [0.5101, 1.0], "robust_acc": [0.0456, 0.6994]},
    masking={"points": 4, "tests": []},
)
RECORD["per_point"]["corners"] = [1, 1, 1, 0]


@pytest.fixture
def corners(monkeypatch):
    """One line more in the table."""
    monkeypatch.setattr(
        numbers, "NUMBERS", (*numbers.NUMBERS[:-2], NUMBER, numbers.ROBUST, numbers.UPPER)
    )


def test_the_numbers_are_those_of_the_records_in_their_order():
    assert [number.key for number in numbers.NUMBERS] == KEYS
    assert [number.key for number in numbers.list_ranked()] == [
        "robust_acc",
        "autoattack_acc",
        "pgd20_acc",
    ]
    assert [number.short for number in numbers.list_compared()] == [
        "clean",
        "PGD-20",
        "AutoAttack",
        "robust",
    ]
    assert [number.key for number in numbers.list_measured({"robust_acc": 0, "n": 3})] == [
        "robust_acc"
    ]


def test_every_number_is_the_verdict_of_an_attack_that_runs():
    run = {rung.name for rung in TWENTY_STEPS}
    run |= {
        get_version_name(version) for version in (*VERSIONS["standard"], *VERSIONS["rand"], "fast")
    }
    assert {number.verdicts for number in numbers.NUMBERS} == {*run, "clean", "robust"}


def shown_in_terminal(tmp_path):
    reporter = Reporter()
    reporter.console = Console(file=io.StringIO(), width=120)
    reporter.evaluation(RECORD)
    return reporter.console.file.getvalue()


def shown_in_report(tmp_path):
    (tmp_path / "eval.json").write_text(json.dumps(RECORD))
    return write_report(tmp_path).read_text()


def compare():
    runs = [JudgedRun("at", Path("at"), Path(), RECORD, {"seed": 0}, 2, 100)]
    return rank_methods(runs, [], ["at"], "at") | {"notes": []}


def shown_in_comparison(tmp_path):
    return to_markdown(compare())


def shown_on_page(tmp_path):
    return make_page(compare())


def shown_in_card(tmp_path):
    table = RunConfig(data="digits", backbone="cnn").to_toml()
    facts = {"num_classes": 2, "channels": 1, "image_size": 8}
    run = FinishedRun(tmp_path, table, [], RECORD, nn.Linear(1, 2), facts, None)
    return make_card(run, {})


PLACES = {
    shown_in_terminal: "corner accuracy",
    shown_in_report: "corner accuracy",
    shown_in_comparison: "corners %",
    shown_on_page: "corners",
    shown_in_card: "corner accuracy",
}


@pytest.mark.parametrize("show", PLACES, ids=lambda show: show.__name__)
def test_one_line_more_is_shown_everywhere(tmp_path, corners, show):
    text = show(tmp_path)
    assert PLACES[show] in text
    assert "75.00" in text


@pytest.mark.parametrize("show", PLACES, ids=lambda show: show.__name__)
def test_without_the_line_it_is_not_shown(tmp_path, show):
    assert PLACES[show] not in show(tmp_path)


def test_one_line_more_is_measured(monkeypatch):
    """By its verdicts: here those of the clean images, under another name."""
    more = numbers.Number("again_acc", "clean", "the clean accuracy again", "again")
    monkeypatch.setattr(numbers, "NUMBERS", (*numbers.NUMBERS, more))
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    nn.init.zeros_(net[1].weight)
    net[1].bias = nn.Parameter(torch.tensor([1.0, 0.0]))
    points = PointsInMemory(
        torch.full((4, 1, 8, 8), 0.5), torch.tensor([0, 0, 0, 1]), torch.arange(4)
    )
    request = EvaluationRequest(
        points,
        Threat.parse("Linf:0.1"),
        ladder="quick",
        seed=0,
        batch_size=4,
        device=torch.device("cpu"),
        num_classes=2,
    )
    found = evaluate(net, request).to_json()
    assert found["again_acc"] == found["clean_acc"] == 0.75
