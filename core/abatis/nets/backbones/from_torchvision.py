"""Backbones of torchvision: ``torchvision:NAME[.WEIGHTS]``."""

from __future__ import annotations

from typing import Any

from torch import nn

from abatis.data.info import View
from abatis.data.statistics import Statistics
from abatis.errors import UsageError, did_you_mean, summarise_error
from abatis.system.timm_import import torchvision

PREFIX = "torchvision:"
WARNING = ("googlenet", "inception_v3")  # unless they are told to initialise their weights


def find_weights(spec: str) -> tuple[str, Any]:
    """The name of the builder, and the weights: the default ones where none are named.

    Raises:
        UsageError: there is no such classifier, or it has no such weights.
    """
    name, _, tag = spec.removeprefix(PREFIX).partition(".")
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise UsageError(
            f"torchvision has no classifier '{name}': {did_you_mean(name, known)}",
            fix="write torchvision:NAME or torchvision:NAME.WEIGHTS",
        )
    weights = torchvision.models.get_model_weights(name)
    tags = [*weights.__members__]
    if tag and tag not in tags:
        raise UsageError(f"{name} has no weights '{tag}': {did_you_mean(tag, tags)}")
    return name, weights[tag] if tag else getattr(weights, "DEFAULT", None)


def build_torchvision(spec: str, num_classes: int, channels: int, pretrained: bool) -> nn.Module:
    """The network, without its normalisation.

    Raises:
        UsageError: it cannot be built, or its weights cannot be had.
    """
    if channels != 3:
        raise UsageError(
            f"{spec} takes images of 3 channels, not {channels}", fix="choose a timm model"
        )
    name, weights = find_weights(spec)
    used = weights if pretrained else None
    quiet = {"init_weights": True} if name in WARNING and used is None else {}
    try:
        if used is not None and len(used.meta["categories"]) == num_classes:
            net: nn.Module = torchvision.models.get_model(name, weights=used)
            return net
        net = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **quiet)
        if used is not None:
            _load_body(net, used.get_state_dict(progress=False))
    except Exception as error:
        raise UsageError(
            f"{spec} cannot be made: {summarise_error(error)}",
            fix="check the connection; weights of torchvision are cached in TORCH_HOME",
        ) from error
    return net


def _load_body(net: nn.Module, tensors: Any) -> None:
    """All weights but those of a head of another size."""
    own = net.state_dict()
    fitting = {
        key: value for key, value in tensors.items() if key in own and own[key].shape == value.shape
    }
    net.load_state_dict({**own, **fitting})


def statistics_of(spec: str) -> Statistics:
    """The mean and std that the weights were trained with."""
    transforms = _transforms(spec)
    return tuple(transforms.mean), tuple(transforms.std)


def torchvision_view(spec: str) -> View:
    """Size, interpolation and crop that the weights were trained for."""
    transforms = _transforms(spec)
    crop, resize = transforms.crop_size[0], transforms.resize_size[0]
    return View(crop, transforms.interpolation.value, min(crop / resize, 1.0))


def _transforms(spec: str) -> Any:
    weights = find_weights(spec)[1]
    return weights.transforms()


def count_outputs(spec: str) -> int:
    """The number of classes of the weights."""
    return len(find_weights(spec)[1].meta["categories"])
