"""A network that a plugin changes: in the run, and wherever the run's network is built again."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from abatis import PluginConfig, PluginError, UsageError, load, run
from abatis.cli import main as defense
from abatis.cli import run as defense_run
from abatis.commands.export.finished_run import read_finished_run
from abatis.nets.digest import weights_digest
from tests.helpers import cut_last_epoch, final_bytes, plugin, tiny


class Scaled(nn.Module):
    """Logits times a factor, with a trainable shift that starts at a random number."""

    def __init__(self, module, factor):
        super().__init__()
        self.module, self.factor = module, factor
        self.shift = nn.Parameter(torch.rand(10))

    def forward(self, x):
        return self.factor * self.module(x) + self.shift

    def plain(self):
        plain = Scaled(self.module, self.factor)
        plain.shift = self.shift
        return plain


class Factor(PluginConfig):
    neutral = {"factor": 1}
    factor: float = 2.0


def scaling(name="scaling", answers=None):
    def network(run, module):
        return Scaled(module, run.config(Factor).factor)

    made = plugin(name, network=answers or network, config=lambda: Factor)
    return made


def finish(install, tmp_path, **changes):
    install(scaling())
    config = {"plugin": ["scaling"], "options": {"scaling": {"factor": 3.0}}, "eval": "none"}
    return run(tiny(tmp_path, name="run", epochs=1, **{**config, **changes}))


def test_a_run_trains_loads_and_evaluates_the_changed_network(install, tmp_path):
    done = finish(install, tmp_path)
    module = load(done.folder)
    assert isinstance(module, Scaled)
    assert module.factor == 3
    rows = json.loads((done.folder / "plan.json").read_text())
    assert [row["provider"] for row in rows if row["role"] == "network"] == ["scaling"]
    assert not [row for row in rows if row["role"] == "unused"]
    parameters = next(row for row in rows if row["role"] == "backbone")["options"]["parameters"]
    assert int(parameters.replace(",", "")) == sum(part.numel() for part in module.parameters())


@pytest.mark.slow
def test_the_changed_network_is_judged_in_the_run_and_again(install, tmp_path):
    done = finish(install, tmp_path, eval="quick")
    record = json.loads((done.folder / "eval.json").read_text())
    assert record["weights_sha256"] == weights_digest(load(done.folder))
    (done.folder / "eval.json").unlink()
    assert defense(["eval", str(done.folder), "--ladder", "quick", "--quiet"]) == 0
    again = json.loads((done.folder / "eval.json").read_text())
    for number in ("weights_sha256", "clean_acc", "pgd20_acc", "verdict"):
        assert again[number] == record[number]


def test_a_resumed_run_is_the_same_to_the_bit(install, tmp_path):
    install(scaling())
    config = {"plugin": ["scaling"], "ema": True}
    whole = run(tiny(tmp_path, name="whole", **config)).folder
    cut_last_epoch(whole)
    run(tiny(tmp_path, name="resumed", resume=True, **config))
    assert final_bytes(tmp_path / "resumed") == final_bytes(whole)
    assert isinstance(load(whole), Scaled)


def test_the_same_seed_gives_the_same_network_whatever_was_drawn_before(install, tmp_path):
    found = []
    for draws in (0, 1):
        torch.rand(draws)
        found.append(load(finish(install, tmp_path / str(draws)).folder))
    assert torch.equal(found[0].shift, found[1].shift)


def test_switched_off_the_network_stays(install, tmp_path):
    done = finish(install, tmp_path, options={"scaling": {"factor": 1}})
    assert not isinstance(load(done.folder), Scaled)


def test_weights_alone_and_a_missing_plugin_are_refused_with_the_way_out(install, tmp_path):
    done = finish(install, tmp_path)
    file = done.folder / "weights.safetensors"
    with pytest.raises(UsageError, match="changed by the plugin scaling"):
        load(file, backbone="cnn")
    install()
    with pytest.raises(UsageError, match="scaling"):
        load(done.folder)


def test_export_writes_the_plain_network(install, tmp_path):
    done = finish(install, tmp_path)
    exported = read_finished_run(done.folder, allow_fail=True)
    x = torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(exported.module(x), load(done.folder)(x))
    assert not exported.in_timm
    assert exported.architecture.endswith("+scaling")


def test_an_unequal_plain_network_is_refused(install, tmp_path, monkeypatch):
    done = finish(install, tmp_path)
    monkeypatch.setattr(Scaled, "plain", lambda self: self.module)
    with pytest.raises(UsageError, match="other logits"):
        read_finished_run(done.folder, allow_fail=True)


def test_two_plugins_nest_in_the_order_of_their_names(install, tmp_path):
    class Other(PluginConfig):
        factor: float = 5.0

    second = plugin(
        "b-second",
        network=lambda run, module: Scaled(module, run.config(Other).factor),
        config=lambda: Other,
    )
    install(scaling("a-first"), second)
    config = {"plugin": ["b-second", "a-first"], "eval": "none"}
    module = load(run(tiny(tmp_path, name="run", epochs=1, **config)).folder)
    assert (module.factor, module.module.factor) == (5, 2)


def test_the_net_is_not_there_yet_and_a_wrong_answer_is_named(install, tmp_path):
    install(plugin("early", network=lambda run, module: run.net.module))
    with pytest.raises(PluginError, match=r"run\.net is not there yet"):
        run(tiny(tmp_path, plugin=["early"], dry_run=True))
    install(plugin("wrong", network=lambda run, module: "net"))
    with pytest.raises(PluginError, match="defense_network returned 'net'"):
        run(tiny(tmp_path, plugin=["wrong"], dry_run=True))


def test_trace_says_who_changed_the_network(install, capsys):
    install(scaling())
    words = ["--backbone", "cnn", "--data", "digits", "--dry-run", "--trace", "--plugin", "scaling"]
    assert defense_run(words) == 0
    line = f"trace: defense_network asked scaling: {__name__}.Scaled"
    assert line in capsys.readouterr().out


def test_sharding_is_refused(install, tmp_path):
    install(scaling())
    with pytest.raises(UsageError, match="not supported with a network that a plugin changed"):
        run(tiny(tmp_path, plugin=["scaling"], dry_run=True, shard="root"))
