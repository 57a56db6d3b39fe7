"""What an attacker reports beside its images: any shape, and in the metrics where it asks."""

from __future__ import annotations

import json

import pytest
import torch

from abatis import Attacked, PluginError, run
from abatis.cli import main
from tests.helpers import plugin, tiny


def attacking(info, shown=()):
    """A plugin whose attacker returns the clean images, and this of the batch."""

    def attacker(run):
        return lambda forward, batch: Attacked(batch.x.clone(), info(batch), shown=shown)

    return plugin("tells", attacker=attacker)


def read_rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_means_over_an_epoch_are_in_the_metrics(install, tmp_path, accumulate):
    """The second has two numbers a sample, the mean of which counts."""
    seen = []

    def info(batch):
        seen.append(batch.index)
        return {
            "place": batch.index,
            "pair": torch.stack([batch.index, 3 * batch.index], 1).float(),  # (B, 2)
            "hidden": batch.index,
        }

    install(attacking(info, shown=("place", "pair")))
    folder = run(tiny(tmp_path, plugin=["tells"], epochs=1, accumulate=accumulate)).folder
    (row,) = read_rows(folder)
    mean = torch.cat(seen).double().mean().item()
    assert row["attack/place"] == pytest.approx(mean, rel=1e-6)
    assert row["attack/pair"] == pytest.approx(2 * mean, rel=1e-6)
    assert "attack/hidden" not in row


def test_a_report_without_a_row_for_each_sample_is_refused(install, tmp_path):
    install(attacking(lambda batch: {"one": torch.zeros(())}))
    with pytest.raises(PluginError, match=r"info 'one': shape \(\), not a tensor with a row"):
        run(tiny(tmp_path, plugin=["tells"]))


def test_what_is_shown_is_reported(install, tmp_path):
    install(attacking(lambda batch: {}, shown=("place",)))
    with pytest.raises(PluginError, match="asks to show place, which is not in its info"):
        run(tiny(tmp_path, plugin=["tells"]))


def test_a_plugin_s_own_usage_error_ends_the_run_with_exit_code_2(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "choosy.py").write_text(
        "from abatis import UsageError, hookimpl\n\n\n"
        "@hookimpl\ndef defense_regularizer(run):\n"
        "    raise UsageError('two classes are too few', fix='use other data')\n"
    )
    tried = "run --plugin ./choosy.py --data digits --backbone cnn --epochs 1 --limit 60 --quiet"
    assert main(tried.split()) == 2
    assert capsys.readouterr().err == "error: two classes are too few\n  fix:   use other data\n"
