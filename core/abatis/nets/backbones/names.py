"""From the name a user writes to the name timm knows."""

from __future__ import annotations

import difflib

from abatis.errors import UsageError, did_you_mean
from abatis.nets.backbones import (  # noqa: F401  # each registers its nets
    cifar_cnn,
    cifar_preact,
    cifar_resnet,
    mnist_nets,
)
from abatis.nets.backbones.from_repository import is_repository
from abatis.nets.backbones.from_torchvision import PREFIX as TORCHVISION
from abatis.nets.backbones.from_torchvision import find_weights
from abatis.nets.backbones.own_nets import OWN_NETS, SHORT_NAMES
from abatis.nets.backbones.zoo.table import PREFIX as ZOO
from abatis.system.timm_import import timm

__all__ = ["SHORT_NAMES", "SMALL_IMAGE", "has_prefix", "is_factory", "resolve"]

SMALL_IMAGE = 64  # pixels a side, up to which our nets fit better than nets made for ImageNet


def is_factory(name: str) -> bool:
    """Is it ``FILE.py:FUNCTION``?"""
    return name.rpartition(":")[0].endswith(".py")


def has_prefix(name: str) -> bool:
    """Is it a name with a prefix or a file, which timm does not know?"""
    return is_factory(name) or is_repository(name) or name.startswith((TORCHVISION, ZOO))


def resolve(name: str, image_size: int) -> str:
    """The timm name of a backbone; names with a prefix and ``FILE.py:FUNCTION`` as they are.

    Args:
        name: As the user writes it.
        image_size: Pixels a side; ``resnet18``, which timm has too, is ours up to 64.

    Raises:
        UsageError: There is no such backbone, or it has no such weights.
    """
    cifar_preact.add_sized(name)
    if name in SHORT_NAMES and not (name == "resnet18" and image_size > SMALL_IMAGE):
        return SHORT_NAMES[name]
    if name.startswith(TORCHVISION):
        find_weights(name)
    if has_prefix(name) or name in OWN_NETS:
        return name
    if timm.is_model(name):
        _check_tag(name)
        return name
    near = difflib.get_close_matches(name.lower(), [*SHORT_NAMES, *timm.list_models()], n=1)
    hint = did_you_mean(near[0] if near else name, near or SHORT_NAMES)
    raise UsageError(
        f"unknown backbone '{name}': {hint}",
        fix="use one of our short names, wrnDEPTH-FACTOR[-silu], any timm model name,"
        " torchvision:NAME, hf-hub:ORG/NAME, local-dir:PATH, rb:NAME or FILE.py:FACTORY",
    )


def _check_tag(name: str) -> None:
    """Raise UsageError for an unknown tag of weights: ``is_model`` ignores what follows the dot."""
    try:
        timm.models.get_pretrained_cfg(name)
    except RuntimeError as error:
        architecture, _, tag = name.partition(".")
        tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{architecture}.*")]
        raise UsageError(
            f"backbone {architecture} has no weights '{tag}': {did_you_mean(tag, tags)}"
        ) from error
