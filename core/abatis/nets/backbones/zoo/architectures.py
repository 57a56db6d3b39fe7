"""Builds the architectures of RobustBench's networks: ours, timm's, and timm's with changes.

A name in the table is a name of ours or of timm, or a key of ``CHANGED``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import nn

from abatis.errors import UsageError
from abatis.nets.backbones.from_torchvision import PREFIX as TORCHVISION
from abatis.nets.backbones.from_torchvision import build_torchvision
from abatis.nets.backbones.names import resolve
from abatis.nets.backbones.own_nets import make_net
from abatis.nets.backbones.zoo.stems import convnext_stem, shrink_patches, vit_stem
from abatis.nets.backbones.zoo.table import EACH_IMAGE, PREFIX, ZooNetwork
from abatis.nets.normalising import Normalized, StandardizedImages


@dataclass(frozen=True)
class Changed:
    """A network of timm, or of ours, with other options.

    Attributes:
        name: timm's.
        options: of the net.
        change: what is done to it then.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    change: Callable[[Any], None] | None = None


SMALL_EPS = {"norm_layer": partial(nn.LayerNorm, eps=1e-6)}
TWELVE = {"depth": 12, "eta": 1.0}
CHANGED: Mapping[str, Changed] = {
    # the input itself goes through the shortcuts, and no batch norm comes before the pooling
    "preactresnet18-v1": Changed("cifar_preactresnet18", {"shortcut": "raw", "last_norm": False}),
    "xcit-s12": Changed("xcit_small_12_p16_224"),
    "xcit-m12": Changed("xcit_medium_24_p16_224", TWELVE),
    "xcit-l12": Changed("xcit_large_24_p16_224", TWELVE),
    "xcit-s12-patch4": Changed("xcit_small_12_p16_224", {}, shrink_patches),
    "xcit-m12-patch4": Changed("xcit_medium_24_p16_224", TWELVE, shrink_patches),
    "xcit-l12-patch4": Changed("xcit_large_24_p16_224", TWELVE, shrink_patches),
    "swin-b-mimir": Changed("swin_base_patch4_window7_224", SMALL_EPS),
    "swin-l-mimir": Changed("swin_large_patch4_window7_224", {**SMALL_EPS, "window_size": 14}),
    "convnext-t-convstem": Changed("convnext_tiny", {}, partial(convnext_stem, widths=(48, 96))),
    "convnext-s-convstem": Changed("convnext_small", {}, partial(convnext_stem, widths=(48, 96))),
    "convnext-b-convstem": Changed(
        "convnext_base", {}, partial(convnext_stem, widths=(64, 96, 128))
    ),
    "convnext-l-convstem": Changed(
        "convnext_large", {}, partial(convnext_stem, widths=(96, 144, 192))
    ),
    "vit-s-convstem": Changed("deit_small_patch16_224", {}, vit_stem),
    "vit-b-convstem": Changed("vit_base_patch16_224", {}, vit_stem),
}


def find_timm_network(name: str, image_size: int) -> tuple[str, dict[str, Any]] | None:
    """timm's name of an architecture and its options in plain types; None where there are none."""
    if name.startswith(TORCHVISION):
        return None
    changed = CHANGED.get(name) or Changed(resolve(name, image_size))
    plain = all(isinstance(value, int | float | str) for value in changed.options.values())
    return (changed.name, dict(changed.options)) if plain and changed.change is None else None


def build_zoo(
    network: ZooNetwork,
    num_classes: int | None = None,
    channels: int = 3,
    statistics: tuple[Sequence[float], Sequence[float]] | None = None,
) -> nn.Module:
    """A network of the zoo with random weights, from images in [0, 1] to logits.

    Args:
        network: a row of the table.
        num_classes: the number of outputs; its own if None.
        channels: of the images.
        statistics: mean and standard deviation to normalise by; its own if None.

    Raises:
        UsageError: it takes no such images.
    """
    if channels != 3:
        raise UsageError(
            f"{PREFIX}{network.key} takes images of 3 channels, not {channels}",
            fix="choose another network",
        )
    net = build_architecture(
        network.architecture, num_classes or network.classes, network.image_size
    )
    if network.normalize == EACH_IMAGE and statistics is None:
        return StandardizedImages(net)
    return Normalized(net, *(statistics or network.statistics))


def build_architecture(name: str, num_classes: int, image_size: int) -> nn.Module:
    """A network with random weights, without its normalisation."""
    if name.startswith(TORCHVISION):
        return build_torchvision(name, num_classes, 3, pretrained=False)
    changed = CHANGED.get(name) or Changed(resolve(name, image_size))
    net = make_net(changed.name, num_classes=num_classes, **changed.options)
    if changed.change is not None:
        changed.change(net)
    return net
