"""From the name a user writes to the name timm knows."""

from __future__ import annotations

import difflib

from abatis.errors import UsageError, did_you_mean
from abatis.nets.backbones import cifar_cnn, cifar_preact, cifar_resnet  # noqa: F401  # registers our nets in timm
from abatis.system.timm_import import timm

SHORT_NAMES = {
    "wrn28": "cifar_wrn28_10",
    "wrn34": "cifar_wrn34_10",
    "wrn70": "cifar_wrn70_16",
    "resnet18": "cifar_resnet18",
    "preactresnet18": "cifar_preactresnet18",
    "cnn": "cifar_cnn",
    "resnet8": "cifar_resnet8",
}
SMALL_IMAGE = (
    64  # pixels a side, up to which nets made for CIFAR fit better than nets made for ImageNet
)


def is_factory(name: str) -> bool:
    """Is it ``FILE.py:FUNCTION``?"""
    return name.rpartition(":")[0].endswith(".py")


def resolve(name: str, image_size: int) -> str:
    """The timm name of a backbone, or ``FILE.py:FUNCTION`` as it is; raises UsageError.

    image_size: pixels a side; ``resnet18``, which timm has too, is ours up to 64.
    """
    if name in SHORT_NAMES and not (name == "resnet18" and image_size > SMALL_IMAGE):
        return SHORT_NAMES[name]
    if is_factory(name):
        return name
    if timm.is_model(name):
        _check_tag(name)
        return name
    near = difflib.get_close_matches(name.lower(), [*SHORT_NAMES, *timm.list_models()], n=1)
    raise UsageError(
        f"unknown backbone '{name}': {did_you_mean(near[0] if near else name, near or SHORT_NAMES)}",
        fix="defense-run takes our short names, any timm model name, or FILE.py:FACTORY",
    )


def _check_tag(name: str) -> None:
    """timm's ``is_model`` looks no further than the dot, so a misspelt tag of weights gets this far."""
    try:
        timm.models.get_pretrained_cfg(name)
    except RuntimeError as error:
        architecture, _, tag = name.partition(".")
        tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{architecture}.*")]
        raise UsageError(
            f"backbone {architecture} has no weights '{tag}': {did_you_mean(tag, tags)}"
        ) from error
