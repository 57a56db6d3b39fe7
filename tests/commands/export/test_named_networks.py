"""Runs of networks that names with options or prefixes give come back from their export."""

from __future__ import annotations

import json

import pytest
import torch

from abatis.commands.export.finished_run import FinishedRun
from abatis.commands.export.folder import write_folder
from abatis.nets.backbones import build
from abatis.nets.digest import weights_digest
from abatis.runs.published import load_published
from abatis.system.timm_import import timm

SILU = {"backbone_activation": "silu", "backbone_padding": "same"}
ZOO = "rb:cifar10/corruptions/Hendrycks2020AugMix_WRN"


def written(folder, name, size, options=None, names=None):
    """The network that is exported into the folder."""
    own = {key.removeprefix("backbone_"): value for key, value in (options or {}).items()}
    shape = {"num_classes": 3, "channels": 3, "image_size": size}
    module = build(name, **shape, mean=[0.1] * 3, std=[0.3] * 3, own=own).eval()
    table = {"backbone": name, "data": "folder:/x", "threat": "Linf:8/255", "pretrained": False}
    facts = {**shape, "class_names": names} if names else shape
    run = FinishedRun(folder, {**table, **(options or {})}, [], {}, module, facts, None)
    write_folder(run, folder)
    return module


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "repository"
    net = timm.create_model("test_convnext", num_classes=3, dims=(8, 8, 16, 16))
    timm.models.save_for_hf(net, folder, model_args={"dims": [8, 8, 16, 16]})
    return f"local-dir:{folder}"


def assert_returned(folder, module, size):
    x = torch.rand(2, 3, size, size)
    again = load_published(folder).eval()
    assert weights_digest(again) == weights_digest(module)
    assert torch.equal(again(x), module(x))
    return x


@pytest.mark.parametrize(
    ("name", "options", "architecture"),
    [("wrn40-2", SILU, "cifar_wrn40_2"), (ZOO, None, "cifar_wrn40_2")],
)
def test_our_own_networks_come_back_through_timm(tmp_path, name, options, architecture):
    module = written(tmp_path, name, 32, options)
    x = assert_returned(tmp_path, module, 32)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architecture"] == architecture
    timm_s = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    torch.testing.assert_close(timm_s(x), module.backbone(x), rtol=0, atol=0)


def test_a_repository_of_timm_comes_back_with_its_options(tmp_path, repository):
    module = written(tmp_path, repository, 64)
    x = assert_returned(tmp_path, module, 64)
    timm_s = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    torch.testing.assert_close(timm_s(x), module.backbone(x), rtol=0, atol=0)


def test_a_network_of_torchvision_comes_back_by_its_name(tmp_path):
    module = written(tmp_path, "torchvision:squeezenet1_1", 64)
    assert_returned(tmp_path, module, 64)


def test_what_images_and_outputs_are_is_written(tmp_path):
    written(tmp_path, "test_convnext", 160, names=["cat", "dog", "fox"])
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["label_names"] == ["cat", "dog", "fox"]
    assert config["pretrained_cfg"]["crop_pct"] == 0.95
    assert config["pretrained_cfg"]["mean"] == pytest.approx([0.1] * 3)
    card = (tmp_path / "README.md").read_text()
    assert "images of 3x160x160" in card
    assert "0.95 of them is cut out" in card
    assert "the mean (0.1, 0.1, 0.1) is subtracted" in card
    assert "Outputs in order: cat, dog, fox" in card
