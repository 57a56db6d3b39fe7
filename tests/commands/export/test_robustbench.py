"""A run in RobustBench's form: the entry, and the network that loads without this package."""

from __future__ import annotations

import importlib
import inspect
import json
import subprocess
import sys

import pytest
import torch
from torch import nn

import abatis
from abatis.commands.export import command, robustbench
from abatis.commands.export.finished_run import read_finished_run
from abatis.commands.export.options import FORMATS
from abatis.commands.export.program import TOLERANCE, write_program
from abatis.commands.export.robustbench import LeaderboardEntry
from abatis.errors import UsageError
from tests.helpers import tiny

STRANGER = """
import sys
for name in ("abatis", "timm", "torchvision", "numpy"):
    sys.modules[name] = None  # an import of it now fails
import torch
from load import load

x, y = torch.load("points.pt")
model = load().train()
seen = {}
for size in (1, 3, 7):
    part = x[:size].requires_grad_()
    logits = model(part)
    (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, y[:size]), part)
    seen[size] = (logits.detach(), gradient)
torch.save(seen, "seen.pt")
assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())
"""


@pytest.fixture
def no_network(monkeypatch):
    """Exporting the network takes a second, and changes nothing in the entry."""
    monkeypatch.setattr(robustbench, "write_program", lambda *_: 0.0)


def export(folder, out, entry=None, **options):
    return robustbench.write_entry(read_finished_run(folder, **options), out, entry)


def entry_of(exported):
    return json.loads(exported.info.read_text(encoding="utf-8"))


def test_the_entry_has_every_field_in_robustbench_s_types(judged, tmp_path):
    about = LeaderboardEntry(
        "Doe2026Little",
        "cifar10",
        "A title",
        "Jané Doe",
        "Somewhere 2026",
        "https://example.org/1",
        True,
    )
    exported = export(judged(n=10_000), tmp_path, about)
    assert exported.info == tmp_path / "model_info" / "cifar10" / "Linf" / "Doe2026Little.json"
    assert entry_of(exported) == {
        "link": "https://example.org/1",
        "name": "A title",
        "authors": "Jané Doe",
        "venue": "Somewhere 2026",
        "additional_data": True,
        "number_forward_passes": 1,
        "dataset": "cifar10",
        "architecture": "cifar_cnn",
        "eps": "8/255",
        "clean_acc": "84.21",
        "reported": "50.00",
        "autoattack_acc": "50.00",
        "unreliable": False,
        "footnote": "Masking diagnostics: PASS.",
    }
    assert exported.difference <= TOLERANCE


@pytest.mark.usefixtures("no_network")
def test_what_only_authors_know_is_not_made_up(judged, tmp_path):
    exported = export(judged(), tmp_path)
    assert exported.info.name == "little.json"
    entry = entry_of(exported)
    assert {entry[key] for key in ("link", "name", "authors", "venue")} == {"N/A"}
    assert (entry["dataset"], entry["additional_data"]) == ("digits", False)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("changes", "dataset", "notes"),
    [
        (
            {"n": 1000, "verdict": "WARN"},
            "cifar10",
            ["diagnostics: WARN.", "Judged on 1,000 test images of 10,000."],
        ),
        (
            {"n": 10_000, "threat": "Linf:0.1", "verdict": None},
            "cifar10",
            ["not run.", "no leaderboard for cifar10 under"],
        ),
        ({"n": 10_000, "threat": "L2:1/2"}, "cifar10", ["diagnostics: PASS."]),
        (
            {"n": 10_000, "threat": "L2:1/2", "verdict": "UNDECIDED"},
            "cifar10",
            ["diagnostics: too little to judge."],
        ),
        (
            {"note": "real digits"},
            None,
            ["PASS.", "on 38 test images.", "no leaderboard for digits", "Data: real digits."],
        ),
        (
            {"n": 10_000, "attacks": {"AutoAttack": {"left_out": ["apgd-t"]}}},
            "cifar100",
            ["PASS.", "AutoAttack ran without apgd-t"],
        ),
    ],
)
def test_the_footnote_says_what_a_reader_must_know(judged, tmp_path, changes, dataset, notes):
    exported = export(judged(**changes), tmp_path, LeaderboardEntry(dataset=dataset))
    assert len(exported.notes) == len(notes)
    assert all(part in note for part, note in zip(notes, exported.notes, strict=True))
    assert entry_of(exported)["footnote"] == " ".join(exported.notes)


@pytest.mark.usefixtures("no_network")
def test_a_number_below_autoattack_s_is_the_external_one(judged, tmp_path):
    assert entry_of(export(judged(robust_acc=0.45), tmp_path))["external"] == "45.00"


def test_the_network_loads_where_abatis_does_not(judged, tmp_path):
    folder = judged()
    export(folder, tmp_path)
    source = torch.Generator().manual_seed(0)
    x, y = torch.rand(7, 1, 8, 8, generator=source), torch.arange(7)
    torch.save((x, y), tmp_path / "points.pt")
    done = subprocess.run(
        [sys.executable, "-c", STRANGER], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    ours = abatis.load(folder)
    for size, (logits, gradient) in torch.load(tmp_path / "seen.pt").items():
        part = x[:size].clone().requires_grad_()
        expected = ours(part)
        (slope,) = torch.autograd.grad(nn.functional.cross_entropy(expected, y[:size]), part)
        assert slope.abs().max() > 0
        torch.testing.assert_close(
            logits, expected, rtol=0, atol=TOLERANCE * expected.abs().max().item()
        )
        torch.testing.assert_close(
            gradient, slope, rtol=0, atol=TOLERANCE * slope.abs().max().item()
        )


def test_refused_without_autoattack(judged, tmp_path):
    folder = judged(autoattack_acc=None)
    with pytest.raises(UsageError, match="no AutoAttack number") as caught:
        export(folder, tmp_path / "out")
    assert caught.value.fix == f"defense eval {folder}"
    (folder / "eval.json").unlink()
    with pytest.raises(UsageError, match="no AutoAttack number"):
        export(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_network")
def test_a_masked_network_is_refused_unless_allowed(judged, tmp_path):
    folder = judged(verdict="FAIL")
    with pytest.raises(UsageError, match=r"verdict of .* is FAIL"):
        export(folder, tmp_path)
    entry = entry_of(export(folder, tmp_path, allow_fail=True))
    assert entry["unreliable"] is True
    assert entry["footnote"].startswith("Masking diagnostics: FAIL.")


def test_other_weights_than_those_judged_are_refused(judged, tmp_path):
    with pytest.raises(UsageError, match="not the ones that were evaluated"):
        export(judged(weights_sha256="0" * 64), tmp_path)


@pytest.mark.usefixtures("no_network")
def test_a_run_that_came_from_python(tmp_path):
    source = torch.Generator().manual_seed(0)
    x, y = torch.rand(40, 1, 8, 8, generator=source), torch.arange(40) % 10
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    folder = abatis.run(
        tiny(tmp_path, limit=None, epochs=1), model=module, data=((x, y), (x, y))
    ).folder
    record = {
        "n": 40,
        "clean_acc": 0.1,
        "autoattack_acc": 0.1,
        "threat": "Linf:0.1",
        "data": "python:tuple",
        "attacks": {"AutoAttack": {"left_out": []}},
    }
    (folder / "eval.json").write_text(json.dumps(record))
    with pytest.raises(UsageError, match="was given from Python: Sequential"):
        export(folder, tmp_path)
    with pytest.raises(UsageError, match="data were given from Python: tuple"):
        export(folder, tmp_path, model=module)
    entry = entry_of(export(folder, tmp_path, model=module, images=(x[:6], y[:6])))
    assert (entry["architecture"], entry["dataset"]) == ("Sequential", "tuple")


class Noisy(nn.Module):
    def forward(self, x):
        return x.flatten(1) + 0.01 * torch.rand_like(x.flatten(1))


class Branching(nn.Module):
    def forward(self, x):
        return x.flatten(1) if x.sum() > 0 else -x.flatten(1)


@pytest.mark.parametrize(
    ("network", "message"), [(Noisy(), "differs by"), (Branching(), r"torch\.export cannot export")]
)
def test_a_network_that_would_not_be_the_same_is_refused(network, message, tmp_path):
    x = torch.rand(6, 1, 2, 2)
    with pytest.raises(UsageError, match=message):
        write_program(network.eval(), x, torch.zeros(6, dtype=torch.int64), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_network")
def test_the_command(judged, tmp_path, capsys):
    folder = judged(verdict="WARN")
    words = [
        str(folder),
        "--to",
        "robustbench",
        "--out",
        str(tmp_path),
        "--paper-title",
        "T",
        "--name",
        "Doe2026T",
    ]
    assert command(words) == 0
    shown = capsys.readouterr().out
    assert "note: Masking diagnostics: WARN." in shown
    entry = json.loads((tmp_path / "model_info" / "digits" / "Linf" / "Doe2026T.json").read_text())
    assert entry["name"] == "T"
    assert "python" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--to", "robustbnch"], "did you mean 'robustbench'"),
        (["--to", "robustbench", "--venu", "x"], "did you mean '--venue'"),
        (["--to", "robustbench", "--name", "../x"], "not a valid file name"),
        (["--to", "robustbench", "--dataset", "a/b"], "not a valid file name"),
    ],
)
def test_mistakes_are_explained(judged, tmp_path, words, message):
    with pytest.raises(UsageError, match=message):
        command([str(judged()), "--out", str(tmp_path), *words])


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_shown_in_the_help_and_has_its_module(name, capsys):
    with pytest.raises(SystemExit):
        command(["--help"])
    assert name in capsys.readouterr().out
    assert list(inspect.signature(importlib.import_module(FORMATS[name]).export).parameters) == [
        "asked",
        "run",
    ]
