"""Where a backbone comes from: names, pretrained weights, a user's own file, and what goes wrong
with each.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from abatis.nets.backbones import resolve
from abatis.nets.backbones.from_timm import pretrained_statistics
from abatis.system.timm_import import timm
from tests.making_backbones import make, refusal

# --- names


@pytest.mark.parametrize(
    ("name", "image_size", "resolved"),
    [
        ("wrn28", 32, "cifar_wrn28_10"),
        ("wrn34", 224, "cifar_wrn34_10"),
        ("wrn70", 32, "cifar_wrn70_16"),
        ("resnet18", 64, "cifar_resnet18"),
        ("resnet18", 65, "resnet18"),
        ("cifar_resnet18", 224, "cifar_resnet18"),
        ("convnext_atto", 32, "convnext_atto"),
        ("resnet18.a1_in1k", 32, "resnet18.a1_in1k"),
        ("some/where.py:net", 32, "some/where.py:net"),
    ],
)
def test_resolve(name: str, image_size: int, resolved: str) -> None:
    assert resolve(name, image_size) == resolved


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("WRN34", "'wrn34'?"),
        ("convnext_atom", "'convnext_atto'?"),
        ("qqzz", "known names is similar"),
        ("resnet18.a1_in2k", "'a1_in1k'?"),
    ],
)
def test_unknown_names_get_a_hint(name: str, hint: str) -> None:
    assert hint in refusal(name)


def test_a_constructor_that_refuses() -> None:
    assert "xcit_nano_12_p16_224 cannot be built for 10 classes and images of 3x28x28" in refusal(
        "xcit_nano_12_p16_224", image_size=28
    )


# --- pretrained weights


def test_pretrained_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(
        constants, "HF_HUB_OFFLINE", True
    )  # the variable of that name is read at import only
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    text = refusal("test_resnet.r160_in1k", pretrained=True)
    assert "'timm/test_resnet.r160_in1k/model.safetensors'" in text
    assert "--pretrained" in text


def test_our_nets_have_no_pretrained_weights() -> None:
    assert "cifar_resnet18 has no pretrained weights" in refusal("resnet18", pretrained=True)


def test_pretrained_takes_the_statistics_and_patches_of_the_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights = timm.create_model("test_vit").state_dict()
    monkeypatch.setattr(
        "timm.models._builder.load_state_dict_from_hf", lambda *_, **__: dict(weights)
    )
    model = make("test_vit", pretrained=True)
    cfg = timm.models.get_pretrained_cfg("test_vit")
    assert model.get_buffer("normalize.mean").flatten().tolist() == pytest.approx(list(cfg.mean))
    assert torch.equal(
        model.get_parameter("backbone.patch_embed.proj.weight"), weights["patch_embed.proj.weight"]
    )
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    make("test_vit", pretrained=True, download=False).load_state_dict(model.state_dict())


def test_statistics_of_another_number_of_channels() -> None:
    assert pretrained_statistics((0.25, 0.5, 0.75), 3) == [0.25, 0.5, 0.75]
    assert pretrained_statistics((0.25, 0.5, 0.75), 1) == [0.5]


# --- a user's own file

FACTORIES = """
from torch import nn

class Tiny(nn.Sequential):
    def __init__(self, num_classes):
        super().__init__(nn.Flatten(), nn.Linear(3 * 32 * 32, num_classes))

def fixed():
    return Tiny(4)

def loose(**options):
    return Tiny(options["num_classes"])

def wrong():
    return "a net"

def broken():
    raise KeyError("weights.pt")
"""


@pytest.fixture
def factories(tmp_path: Path) -> str:
    path = tmp_path / "my_nets.py"
    path.write_text(FACTORIES)
    return str(path)


@pytest.mark.parametrize(("function", "classes"), [("Tiny", 10), ("fixed", 4), ("loose", 10)])
def test_factory(factories: str, function: str, classes: int) -> None:
    model = make(f"{factories}:{function}")
    assert type(model).__name__ == "Tiny"  # as it is, not wrapped
    logits: Tensor = model(torch.rand(2, 3, 32, 32))
    assert logits.shape == (2, classes)


@pytest.mark.parametrize(
    ("function", "parts"),
    [
        ("fixd", ["no function 'fixd'", "did you mean 'fixed'?"]),
        ("wrong", ["returns a str"]),
        ("broken", ["my_nets.py, broken: KeyError: 'weights.pt'", "my_nets.py:18"]),
    ],
)
def test_factory_errors(factories: str, function: str, parts: list[str]) -> None:
    text = refusal(f"{factories}:{function}")
    assert all(part in text for part in parts), text


def test_factory_file_errors(tmp_path: Path, factories: str) -> None:
    assert "no file" in refusal(f"{tmp_path}/none.py:net")
    (tmp_path / "bad.py").write_text("import no_such_module\n")
    assert "bad.py, import: ModuleNotFoundError" in refusal(f"{tmp_path}/bad.py:net")
    assert "--pretrained" in refusal(f"{factories}:fixed", pretrained=True)
