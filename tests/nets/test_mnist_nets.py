"""The nets that margin methods are published with on MNIST: size, design, initial weights."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from abatis.nets.backbones import last_feature_map
from abatis.system.timm_import import timm
from tests.making_backbones import make, refusal

NAMES = ("mnist-linear", "mnist-mlp1024", "mnist-cnn", "mnist-mlp800", "mnist-lenet")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def make_mnist(name: str, **options) -> nn.Module:
    return make(name, channels=1, image_size=28, **options)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("mnist-linear", 784 * 10 + 10),
        ("mnist-mlp1024", 784 * 1024 + 1024 + 1024 * 10 + 10),
        # convolutions 320 + 9248 + 18496 + 36928, linear layers 205000 + 40200 + 2010
        ("mnist-cnn", 312_202),
        ("mnist-mlp800", 784 * 800 + 800 + 800 * 800 + 800 + 800 * 10 + 10),
        # convolutions 520 + 25050, linear layers 400500 + 5010
        ("mnist-lenet", 431_080),
    ],
)
def test_number_of_parameters_and_shape_of_the_logits(name: str, parameters: int) -> None:
    with torch.device("meta"):
        model = make_mnist(name)
        assert model(torch.empty(5, 1, 28, 28)).shape == (5, 10)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@pytest.mark.parametrize("name", NAMES)
def test_other_images_and_classes(name: str) -> None:
    model = make(name, num_classes=2)  # images of 3x32x32
    logits = model(torch.rand(4, 3, 32, 32))
    assert logits.shape == (4, 2)
    F.cross_entropy(logits, torch.tensor([0, 1, 0, 1])).backward()
    assert all(parameter.grad.any() for parameter in model.parameters())


def test_the_linear_net_is_linear() -> None:
    model = make_mnist("mnist-linear", mean=[0.0], std=[1.0])
    weight, bias = model.parameters()
    x = torch.rand(3, 1, 28, 28)
    torch.testing.assert_close(model(x), x.flatten(1) @ weight.T + bias)


def test_the_perceptrons_have_relus_between_their_layers() -> None:
    model = make_mnist("mnist-mlp800", mean=[0.0], std=[1.0])
    first, b1, second, b2, third, b3 = model.parameters()
    x = torch.rand(3, 1, 28, 28)
    hidden = F.relu(F.relu(x.flatten(1) @ first.T + b1) @ second.T + b2)
    torch.testing.assert_close(model(x), hidden @ third.T + b3)


def test_lenet_has_no_relu_behind_its_convolutions() -> None:
    model = make_mnist("mnist-lenet", mean=[0.0], std=[1.0])
    c1, d1, c2, d2, f1, b1, f2, b2 = model.parameters()
    x = torch.rand(3, 1, 28, 28)
    maps = F.max_pool2d(F.conv2d(F.max_pool2d(F.conv2d(x, c1, d1), 2), c2, d2), 2)
    torch.testing.assert_close(model(x), F.relu(maps.flatten(1) @ f1.T + b1) @ f2.T + b2)


def test_order_of_the_convolutions() -> None:
    model = make_mnist("mnist-cnn")
    kinds = [type(layer).__name__ for layer in model.get_submodule("backbone.features")]
    block = ["Conv2d", "ReLU", "Conv2d", "ReLU", "MaxPool2d"]
    assert kinds == [*block, *block, "Flatten", "Linear", "ReLU", "Linear", "ReLU"]
    assert last_feature_map(model, 1, 28) == (8, 8)


@pytest.mark.parametrize(
    ("init", "std"),
    [
        ("he", (2 / 784) ** 0.5),  # variance 2 / fan-in
        ("torch", (1 / 784) ** 0.5 / 3**0.5),  # uniform up to 1 / sqrt(fan-in)
    ],
)
def test_initial_weights(init: str, std: float) -> None:
    first, bias, *_, last_bias = make_mnist("mnist-mlp800", own={"init": init}).parameters()
    assert first.std().item() == pytest.approx(std, rel=0.01)
    assert bias.any().item() is last_bias.any().item() is (init == "torch")


def test_they_are_models_of_timm() -> None:
    for name in NAMES:
        net = timm.create_model(name.replace("-", "_"), num_classes=7)
        assert net(torch.rand(2, 1, 28, 28)).shape == (2, 7)
        assert net.pretrained_cfg["mean"] == (0.1307,)
        assert net.get_submodule(net.pretrained_cfg["classifier"]) is net.get_classifier()
        net.reset_classifier(0)
        assert net(torch.rand(2, 1, 28, 28)).shape == (2, net.num_features)
    with pytest.raises(ValueError, match="do not pool"):
        net.reset_classifier(3, "avg")


def test_images_that_are_too_small_are_refused() -> None:
    assert "images of 1x8x8" in refusal("mnist-cnn", channels=1, image_size=8)
