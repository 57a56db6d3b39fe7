"""Several threats: each is judged for itself, and a point counts only if it withstands them all."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from abatis.api.threat import Threat
from abatis.cli import main
from abatis.errors import UsageError
from abatis.evaluate.judge import Judge
from abatis.evaluate.ladder_checks import check_ladder
from abatis.evaluate.several_threats import unite
from abatis.report.eval_record import read_record, split_threats
from abatis.report.record_check import find_fault
from abatis.report.threats_table import list_threat_rows
from tests.helpers import tiny

NET = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""


def judged(marks, verdict="PASS", bound=None, right=None):
    """What is used of an evaluation of four points."""
    flags = torch.tensor(marks, dtype=torch.bool)
    key = "robust_acc" if bound is None else "robust_acc_upper"
    share = float(flags.double().mean()) if bound is None else bound
    draws = None
    if right is not None:
        draws = SimpleNamespace(right={"robust": torch.tensor(right)}, number=4)
        share = sum(right) / 16
    return SimpleNamespace(
        verdict=verdict, per_point={"robust": flags}, accuracies={key: share}, draws=draws
    )


def test_the_union_keeps_the_points_that_withstand_every_threat():
    found = {"Linf:0.1": judged([1, 1, 0, 0]), "L2:1": judged([1, 0, 1, 0], "WARN")}
    union = unite(found)
    assert union["per_point"] == [1, 0, 0, 0]
    assert (union["robust_acc"], union["count"], union["verdict"]) == (0.25, 1, "WARN")
    assert union["threats"] == ["Linf:0.1", "L2:1"]
    assert "robust_acc_upper" not in union


def test_a_fail_makes_the_union_a_bound_and_no_bound_is_exceeded():
    found = {"Linf:0.1": judged([1, 1, 1, 0]), "L2:1": judged([1, 1, 1, 1], "FAIL", 0.5)}
    union = unite(found)
    assert (union["robust_acc_upper"], union["verdict"]) == (0.5, "FAIL")
    assert "robust_acc" not in union
    assert union["count"] == 3


def test_random_answers_count_by_the_worse_threat_of_each_point():
    found = {
        "Linf:0.1": judged([1, 1, 0, 0], right=[4, 3, 2, 0]),
        "L2:1": judged([1, 0, 1, 0], right=[3, 2, 4, 0]),
    }
    assert unite(found)["robust_acc"] == (3 + 2 + 2 + 0) / 16


@pytest.mark.parametrize("ladder", ["quick", "rand", "thorough"])
def test_only_the_standard_ladder_judges_l1(ladder):
    threats = [Threat.parse("Linf:0.1"), Threat.parse("L1:3")]
    check_ladder(ladder, threats[:1])
    check_ladder("standard", threats)
    with pytest.raises(UsageError, match=f"the {ladder} ladder cannot judge L1:3"):
        check_ladder(ladder, threats)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"also_threat": ["L1:3"], "eval": "thorough"}, "cannot judge L1:3"),
        ({"also_threat": ["Linf:1/10"], "eval": "quick"}, "same threat twice"),
        ({"also_threat": ["L2:1"], "eval": "clean"}, "--ladder clean, which runs no attack"),
    ],
)
def test_a_run_refuses_threats_it_cannot_judge_before_it_trains(words, says, tmp_path):
    import abatis

    with pytest.raises(UsageError, match=says):
        abatis.run(tiny(tmp_path, **words))
    assert not [*tmp_path.iterdir()]


def test_a_killed_evaluation_of_two_threats_repeats_no_finished_attack(
    tmp_path, monkeypatch, capsys
):
    """One run through: stopped under the second threat, resumed, and all files agree."""
    (tmp_path / "net.py").write_text(NET)
    out, run_attack, asked = tmp_path / "out", Judge.run_attack, []
    words = ["eval", f"{tmp_path / 'net.py'}:net", "--data", "digits", "--subset", "24"]
    words += ["--threat", "Linf:0.1", "--threat", "L2:0.5", "--ladder", "quick", "--out", str(out)]

    def judge(stops):
        def call(self, name, *rest, **named):
            if name == "PGD-20" and str(self.threat) in ("Linf:0.1", "L2:0.5"):
                asked.append(str(self.threat))
                if stops and self.threat.norm == "L2":
                    raise KeyboardInterrupt
            return run_attack(self, name, *rest, **named)

        asked.clear()
        monkeypatch.setattr(Judge, "run_attack", call)
        return main(words)

    assert judge(stops=True) == 75
    assert asked == ["Linf:0.1", "L2:0.5"]
    assert judge(stops=False) == 0
    assert asked == ["L2:0.5"]
    names = sorted(path.name for path in out.iterdir())
    assert names == ["eval.json", "pictures.json", "report.html"]
    record = read_record(out)
    first, second = split_threats(record)
    assert (first["threat"], second["threat"]) == ("Linf:0.1", "L2:0.5")
    pairs = zip(first["per_point"]["robust"], second["per_point"]["robust"], strict=True)
    assert record["union"]["per_point"] == [one & other for one, other in pairs]
    printed = capsys.readouterr().out
    assert "images withstood every attack under Linf:0.1 and L2:0.5" in printed
    report = (out / "report.html").read_text()
    assert "robust accuracy under all threats" in report
    assert "Attacks, L2:0.5" in report
    assert [row[0] for row in list_threat_rows(record)] == ["Linf:0.1", "L2:0.5", "all of them"]
    assert main([*words, "--threat", "Linf:0.1"]) == 2
    assert main([*words[:6], "--ladder", "quick", "--out", str(out)]) == 2
    assert "holds an evaluation under Linf:0.1 and L2:0.5" in capsys.readouterr().err
    broken = json.loads((out / "eval.json").read_text())
    broken["union"]["per_point"] = [1] * 24
    assert "the union is not that of the points" in find_fault(broken)
    del broken["union"]
    assert "the union of its threats is missing" in find_fault(broken)


def test_the_clean_ladder_says_nothing_about_robustness(tmp_path, capsys):
    (tmp_path / "net.py").write_text(NET)
    out = tmp_path / "out"
    words = ["eval", f"{tmp_path / 'net.py'}:net", "--data", "digits", "--ladder", "clean"]
    assert main([*words, "--out", str(out)]) == 0
    record = read_record(out)
    assert sum(record["per_point"]["clean"]) == record["clean_acc"] * record["n"]
    assert not [key for key in record if "robust" in key or key in ("verdict", "threat", "masking")]
    printed = capsys.readouterr().out
    assert "no attack was run: nothing is known about the robustness" in printed
    assert "verdict" not in printed
    report = (out / "report.html").read_text()
    assert "clean accuracy" in report
    assert "robust accuracy against all attacks together: not measured" in report
    for option in (["--threat", "Linf:0.1"], ["--strict"]):
        assert main([*words, *option, "--out", str(out)]) == 2
        assert f"{option[0]} has no effect with --ladder clean" in capsys.readouterr().err
    assert "robust_acc is there" in find_fault({**record, "robust_acc": 0.5})
