"""Any networks side by side: judged where they have no evaluation, and their images swapped."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from abatis.cli import main
from abatis.evaluate.judge import Judge
from abatis.report.eval_record import read_record

NETS = """
import torch
from torch import nn

def make(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

def zero():
    return make(0)

def one():
    return make(1)
"""


def test_networks_with_and_without_an_evaluation_share_a_table(tmp_path, monkeypatch, capsys):
    """The second network has weights of its own; the third is the evaluation of the first."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(NETS)
    torch.manual_seed(5)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    how = ["--data", "digits", "--ladder", "quick", "--subset", "24", "--threat", "Linf:0.1"]
    assert main(["eval", "nets.py:zero", *how, "--quiet", "--out", "mine"]) == 0
    capsys.readouterr()
    words = ["compare", "mine", "nets.py:zero=w.safetensors", "--transfer", "--allow-fail"]
    assert main([*words, "--out", "table", "--data", "digits"]) == 0
    printed = capsys.readouterr().out
    record = read_record(tmp_path / "table" / "evals" / "nets.py-zero-w.safetensors")
    mine = read_record(tmp_path / "mine")
    for key in ("data", "n", "ladder", "threat", "seed", "points_sha256"):
        assert record[key] == mine[key]
    assert "--weights w.safetensors" in record["command"]
    assert "--subset 24" in record["command"]
    compared = json.loads((tmp_path / "table" / "compare.json").read_text())
    assert {row["method"] for row in compared["rows"]} == {"mine", "nets.py-zero-w.safetensors"}
    transfer = compared["transfer"]
    assert transfer["networks"] == ["mine", "nets.py-zero-w.safetensors"]
    assert transfer["clean"] == [mine["counts"]["clean"], record["counts"]["clean"]]
    for place, one in enumerate((mine, record)):
        # images of the highest loss fool at least as few as every iterate does
        assert one["counts"]["robust"] <= transfer["right"][place][place]
    assert "[2] nets.py-zero-w.safetensors" in printed
    page = (tmp_path / "table" / "compare.html").read_text()
    assert "Accuracy on images made for others" in page
    monkeypatch.setattr(Judge, "run_attack", None)  # what was judged is not judged again
    assert main([*words, "--out", "table", "--data", "digits"]) == 0
    assert "nets.py:zero was judged before" in capsys.readouterr().out
    assert "## Transfer" in (tmp_path / "table" / "compare.md").read_text()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nets.py:zero", "nets.py:one"], "no data set given for nets.py:zero"),
        (["nets.py:zero", "--ladder", "clean"], "--ladder clean measures no robustness"),
        (["nothing", "--data", "digits"], "no model 'nothing'"),
        (["nets.py:zero", "--dat", "digits"], "did you mean '--data'"),
        (["nets.py:zero", "--data", "digits", "--threat", "L1:2", "--ladder", "quick"], "L1:2"),
    ],
)
def test_what_cannot_be_judged_is_refused_in_words(words, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(NETS)
    assert main(["compare", *words]) == 2
    assert says in capsys.readouterr().err
