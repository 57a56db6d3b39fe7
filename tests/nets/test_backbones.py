"""The nets: size, design, normalisation, their place in timm, and the last feature map."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from abatis.errors import UsageError
from abatis.nets.backbones import Normalized, last_feature_map
from abatis.nets.backbones.cifar_preact import PreActBlock
from abatis.nets.backbones.from_timm import small_patch
from abatis.nets.backbones.names import resolve
from abatis.system.timm_import import timm
from tests.making_backbones import make, refusal

DESIGNS = ("wrn28", "resnet18", "preactresnet18", "cnn", "resnet8")
LIGHT = ("resnet8", "cnn")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


# --- size and design


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("wrn28", 36_479_194),
        ("wrn34", 46_160_474),
        ("wrn70", 266_796_506),
        ("resnet18", 11_173_962),
        # convolutions 1728 + 147456 + 524288 + 4 * 524288 + 16 * 524288, batch norms 512 + 896 +
        # 1792 + 3584 + 1024, head 5130
        ("preactresnet18", 11_172_170),
        # stem 432 + 32, blocks 4608 + 64, 14336 + 192 and 57344 + 384, head 650
        ("resnet8", 78_042),
        # convolutions 864 + 18432 + 2 * 36864, batch norms 64 + 3 * 128, head 650
        ("cnn", 94_122),
    ],
)
def test_number_of_parameters(name: str, parameters: int) -> None:
    with torch.device("meta"):
        model = make(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_wide_resnets_of_any_size_have_names() -> None:
    """WRN-10-1: 432 + 4,672 + 14,432 + 57,536 + 128 + 650; its depth is 6 blocks + 4."""
    net = make("wrn10-1-silu")
    assert sum(parameter.numel() for parameter in net.parameters()) == 77_850
    assert resolve("wrn10-1-silu", 32) == resolve("cifar_wrn10_1_silu", 32) == "cifar_wrn10_1_silu"
    for name in ("wrn11-1", "wrn4-1", "wrn10-0"):
        with pytest.raises(UsageError, match="unknown backbone"):
            resolve(name, 32)


@pytest.mark.parametrize("name", ["wrn34", "resnet18", "preactresnet18", "resnet8", "cnn"])
def test_every_parameter_gets_a_gradient(name: str) -> None:
    model = make(name, image_size=8)
    F.cross_entropy(model(torch.rand(2, 3, 8, 8)), torch.tensor([0, 1])).backward()
    idle = [
        key for key, value in model.named_parameters() if value.grad is None or not value.grad.any()
    ]
    assert idle == []


@pytest.mark.parametrize("name", DESIGNS)
@pytest.mark.parametrize(("channels", "classes"), [(1, 2), (3, 10)])
def test_shape_of_the_logits(name: str, channels: int, classes: int) -> None:
    with torch.device("meta"):
        model = make(name, channels=channels, num_classes=classes)
        for size in (8, 28, 32):
            assert model(torch.empty(5, channels, size, size)).shape == (5, classes)


def test_block_projects_the_activated_input() -> None:
    block = PreActBlock(2, 3, stride=2).eval()
    x = torch.randn(4, 2, 6, 6)
    scale = (1 + 1e-5) ** -0.5  # batch norm with fresh statistics
    activated = F.relu(x * scale)
    inner = F.relu(F.conv2d(activated, block.conv1.weight, stride=2, padding=1) * scale)
    assert block.shortcut is not None
    expected = F.conv2d(inner, block.conv2.weight, padding=1) + F.conv2d(
        activated, block.shortcut.weight, stride=2
    )
    torch.testing.assert_close(block(x), expected)


def test_block_of_one_shape_adds_the_input_itself() -> None:
    block = PreActBlock(3, 3, stride=1)
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 3, 5, 5)
    assert torch.equal(block(x), x)


def test_initial_weights() -> None:
    features = make("resnet18").get_submodule("backbone.features")
    weight = features.get_parameter("stage4_1.path.0.weight")
    assert weight.std().item() == pytest.approx(
        (2 / (512 * 9)) ** 0.5, rel=0.01
    )  # Kaiming, fan out
    norms = [module for module in features.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 20
    assert all((norm.weight == 1).all() and (norm.bias == 0).all() for norm in norms)


@pytest.mark.parametrize("name", LIGHT)
def test_a_batch_is_its_images_one_by_one(name: str) -> None:
    model = make(name).eval()
    x = torch.rand(4, 3, 32, 32)
    one_by_one = torch.cat([model(image[None]) for image in x])
    torch.testing.assert_close(model(x), one_by_one)
    assert not torch.allclose(one_by_one[0], one_by_one[1])


# --- normalisation


def test_normalisation_is_inside() -> None:
    model = make("cnn", mean=[0.1, 0.2, 0.3], std=[0.5, 1.0, 2.0]).eval()
    assert isinstance(model, Normalized)
    x = torch.rand(2, 3, 32, 32)
    outside = torch.stack([(x[:, 0] - 0.1) / 0.5, x[:, 1] - 0.2, (x[:, 2] - 0.3) / 2], dim=1)
    torch.testing.assert_close(model(x), model.backbone(outside))


def test_mean_and_std_travel_with_the_weights() -> None:
    source, target = make("cnn", mean=[0.1, 0.2, 0.3]), make("cnn")
    state = source.state_dict()
    assert state["normalize.mean"].shape == state["normalize.std"].shape == (1, 3, 1, 1)
    target.load_state_dict(state)
    assert target.get_buffer("normalize.mean").flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])


@pytest.mark.parametrize("wrong", [{"mean": [0.5]}, {"std": [0.5, 0.5, 0.0]}])
def test_mean_and_std_must_fit(wrong: dict[str, list[float]]) -> None:
    assert "3 channel(s)" in refusal("cnn", **wrong)


# --- timm


@pytest.mark.parametrize("name", ["cifar_resnet18", "cifar_preactresnet18", "cifar_cnn"])
def test_ours_are_models_of_timm(name: str) -> None:
    net = timm.create_model(name, num_classes=7, in_chans=1)
    assert net(torch.rand(2, 1, 16, 16)).shape == (2, 7)
    assert net.pretrained_cfg["mean"] == (0.4914, 0.4822, 0.4465)
    assert net.get_submodule(net.pretrained_cfg["classifier"]) is net.get_classifier()
    assert net.get_submodule(net.pretrained_cfg["first_conv"]).in_channels == 1
    net.reset_classifier(3)
    assert net(torch.rand(2, 1, 16, 16)).shape == (2, net.num_classes) == (2, 3)
    net.reset_classifier(0)
    features = net(torch.rand(2, 1, 16, 16))
    assert features.shape == (2, net.num_features)


@pytest.mark.parametrize(
    ("name", "patches"), [("vit_tiny_patch16_224", 64), ("swin_tiny_patch4_window7_224", 256)]
)
def test_transformers_at_small_images(name: str, patches: int) -> None:
    model = make(name, channels=1, num_classes=2)
    assert model.get_submodule("backbone.patch_embed").num_patches == patches
    assert model.eval()(torch.rand(2, 1, 32, 32)).shape == (2, 2)


def test_patches_divide_the_image() -> None:
    assert [small_patch("vision_transformer", size) for size in (8, 28, 32, 64)] == [1, 4, 4, 8]
    assert small_patch("resnet", 32) is None


def test_last_feature_map() -> None:
    sizes = {
        name: last_feature_map(make(name), 3, 32)
        for name in ("resnet18", "cnn", "convnext_atto", "mobilenetv3_small_050")
    }
    assert sizes == {
        "resnet18": (4, 4),
        "cnn": (8, 8),
        "convnext_atto": (1, 1),
        "mobilenetv3_small_050": (1, 1),
    }
    assert last_feature_map(make("vit_tiny_patch16_224"), 3, 32) is None
    # behind strides of 4 and 2, a gate on the pooled map and a convolution as wide as its input:
    # neither counts
    gate = nn.Sequential(
        nn.Conv2d(3, 2, 5, 4, 2),
        nn.Conv2d(2, 2, 3, 2, 1),
        nn.Conv2d(2, 2, 4),
        nn.Conv2d(2, 1, 1),
        nn.Flatten(),
    )
    assert last_feature_map(gate, 3, 32) == (4, 4)


def test_last_feature_map_leaves_the_model_as_found() -> None:
    model = make("resnet8", image_size=8)
    model.get_submodule("backbone.features.norm").eval()
    modes, state = (
        [module.training for module in model.modules()],
        {k: v.clone() for k, v in model.state_dict().items()},
    )
    last_feature_map(model, 3, 8)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_net_that_needs_larger_images_is_refused() -> None:
    with torch.device("meta"):
        model = make("inception_v3")
        with pytest.raises(UsageError, match="3x32x32"):
            last_feature_map(model, 3, 32)
