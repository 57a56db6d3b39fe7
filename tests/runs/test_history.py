"""The metrics of a run as columns."""

from __future__ import annotations

import pytest

import abatis
from abatis import UsageError

ROWS = '{"epoch": 1, "loss": 2.5}\n{"epoch": 2, "loss": 1.5, "val_robust_acc": 0.25}\n'


def write(folder, text):
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("end", ["", '{"epoch": 3, "lo', '{"epoch": 3}'])
def test_each_name_has_a_value_an_epoch_and_an_unfinished_line_does_not_count(tmp_path, end):
    wanted = {"epoch": [1, 2], "loss": [2.5, 1.5], "val_robust_acc": [None, 0.25]}
    assert abatis.history(write(tmp_path, ROWS + end)) == wanted
    assert abatis.history(str(tmp_path)) == wanted
    assert abatis.history(abatis.Result(tmp_path)) == wanted


def test_a_run_whose_first_epoch_is_going_on_has_no_columns(tmp_path):
    assert abatis.history(write(tmp_path, "")) == {}


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(UsageError, match="no metrics in"):
        abatis.history(tmp_path)


@pytest.mark.parametrize("text", ["{\n", "[1]\n", '{"epoch": 1\n{"epoch": 2}\n'])
def test_damaged_metrics_are_named(tmp_path, text):
    with pytest.raises(UsageError, match="the metrics are damaged") as caught:
        abatis.history(write(tmp_path, text))
    assert caught.value.where.endswith("metrics.jsonl")
