"""Options of the network in whole runs: its design, and the layer that normalises."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import abatis
from abatis import UsageError
from abatis.nets.backbones import build
from abatis.nets.normalising import Normalized
from abatis.nets.weights import DESIGN, read_contents, read_design, start_from
from abatis.nets.weights_file import write_weights
from tests.helpers import tiny

SHAPE = {"num_classes": 4, "channels": 3, "image_size": 16}
STATISTICS = {"mean": [0.5] * 3, "std": [0.25] * 3}
NET = """
from torch import nn
def make(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))
"""


def test_a_network_with_another_design_is_built_again_from_its_run(tmp_path):
    own = {"activation": "silu", "padding": "same"}
    net = build("wrn40-2", **SHAPE, **STATISTICS, own=own).eval()
    assert isinstance(net.backbone.features.stage2_0.activate1[1], nn.SiLU)
    write_weights(tmp_path / "weights.safetensors", net.state_dict(), SHAPE)
    lines = ['backbone = "wrn40-2"', *(f'backbone_{key} = "{value}"' for key, value in own.items())]
    (tmp_path / "run.toml").write_text("\n".join(lines))
    x = torch.rand(2, 3, 16, 16)
    assert torch.equal(abatis.load(tmp_path)(x), net(x))


def test_a_weights_file_of_another_design_is_refused(tmp_path):
    """ReLU and SiLU have the same tensors: only what the file says tells them apart."""
    net = build("wrn40-2", **SHAPE, **STATISTICS, own={"activation": "silu"})
    file = tmp_path / "weights.safetensors"
    write_weights(
        file, net.state_dict(), {"backbone": "wrn40-2", **SHAPE, DESIGN: read_design(net)}
    )
    with pytest.raises(
        UsageError, match=r"with activation silu, and wrn40-2 has the usual"
    ) as told:
        abatis.load(file, backbone="wrn40-2")
    assert len(str(told.value).splitlines()) <= 4
    with pytest.raises(UsageError, match="with activation silu"):
        start_from(build("wrn40-2", **SHAPE, **STATISTICS), read_contents(file), "wrn40-2")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"backbone": "cnn", "backbone_activation": "silu"}, "--backbone-activation silu is for"),
        ({"backbone": "vgg11", "backbone_padding": "same"}, "--backbone-padding same is for"),
        ({"backbone": "wrn28", "backbone_activation": "gelu"}, "activation"),
    ],
)
def test_options_of_other_networks_are_refused(tmp_path, changes, words):
    with pytest.raises(UsageError, match=words):
        abatis.run(tiny(tmp_path, dry_run=True, **changes))


def test_names_of_published_designs():
    with torch.device("meta"):
        edm = build("wrn28-silu", **SHAPE, **STATISTICS).backbone
        usual = build("wrn28", **SHAPE, **STATISTICS).backbone
    assert edm.features.norm.momentum == 0.01
    assert usual.features.norm.momentum == 0.1
    assert "features.stage2_0.conv1.1.weight" in edm.state_dict()
    assert "features.stage2_0.conv1.weight" in usual.state_dict()


def test_a_function_s_network_is_normalised_where_that_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    asked = {"backbone": "net.py:make", "normalize": ((0.25,), (0.5,)), "limit": 40, "epochs": 1}
    folder = abatis.run(tiny(tmp_path, **asked)).folder
    again = abatis.load(folder)
    assert isinstance(again, Normalized)
    assert again.normalize.mean.item() == 0.25
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(again(x), again.backbone((x - 0.25) / 0.5))


def test_weights_to_start_from_may_not_bring_another_normalisation(tmp_path):
    first = abatis.run(tiny(tmp_path, name="first", limit=40, epochs=1)).folder
    with pytest.raises(UsageError, match="weights of --init bring another normalisation"):
        abatis.run(tiny(tmp_path, name="second", init=first, normalize="none"))
    plain = abatis.load(first).backbone.state_dict()
    write_weights(tmp_path / "plain.safetensors", plain)
    abatis.run(
        tiny(
            tmp_path,
            name="third",
            init=tmp_path / "plain.safetensors",
            normalize="none",
            dry_run=True,
        )
    )
