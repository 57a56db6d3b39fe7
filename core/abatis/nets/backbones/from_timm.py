"""Backbones that ``timm.create_model`` makes, ours among them, and what each family needs at small images."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from abatis.data.info import View
from abatis.errors import UsageError
from abatis.nets.backbones.names import SHORT_NAMES, SMALL_IMAGE, resolve
from abatis.system.timm_import import timm

PLAIN_TRANSFORMERS = {
    "beit",
    "cait",
    "convit",
    "deit",
    "eva",
    "vision_transformer",
    "vision_transformer_relpos",
    "vision_transformer_sam",
}
WINDOWED_TRANSFORMERS = {"swin_transformer", "swin_transformer_v2", "swin_transformer_v2_cr"}


def create(
    name: str, *, num_classes: int, channels: int, image_size: int, pretrained: bool, download: bool
) -> tuple[nn.Module, Any]:
    """The net and its ``pretrained_cfg``; raises UsageError where timm cannot make it or has no weights for it."""
    cfg = (
        timm.models.get_pretrained_cfg(name) or timm.models.PretrainedCfg()
    )  # a few old names have none
    if pretrained and not cfg.has_weights:
        raise UsageError(
            f"{name} has no pretrained weights",
            fix="drop --pretrained, or take a timm model that has some (timm.list_pretrained())",
        )
    sizes = size_options(name, cfg, image_size, pretrained)
    try:
        net: nn.Module = timm.create_model(
            name,
            pretrained=pretrained and download,
            num_classes=num_classes,
            in_chans=channels,
            **sizes,
        )
    except Exception as error:
        cause = brief(error)
        if pretrained and download:
            raise _no_weights(name, cfg, cause) from error
        wanted = f"{num_classes} classes and images of {channels}x{image_size}x{image_size}"
        raise UsageError(
            f"{name} cannot be built for {wanted}: {cause}", fix="take another backbone"
        ) from error
    return net, cfg


def view_of(name: str) -> View:
    """How a net of timm's wants image files, by its configuration: size, interpolation and crop. Others have no wishes."""
    if ":" in name:
        return View()
    try:
        resolved = resolve(name, View.image_size)
        cfg = timm.models.get_pretrained_cfg(resolved)
    except UsageError:  # whoever builds it says so
        return View()
    if cfg is None or resolved in SHORT_NAMES.values():
        return View()
    wish = timm.data.resolve_data_config(pretrained_cfg=cfg.to_dict())
    return View(wish["input_size"][-1], wish["interpolation"], wish["crop_pct"])


def size_options(name: str, cfg: Any, image_size: int, pretrained: bool) -> dict[str, int]:
    """``img_size`` for the nets that are made for one size, and a small ``patch_size`` for small images.

    Pretrained nets keep their patches: the weights fit no others.
    """
    family = timm.models.model_entrypoint(name).__module__.rpartition(".")[2]
    if not (cfg.fixed_input_size or family in PLAIN_TRANSFORMERS | WINDOWED_TRANSFORMERS):
        return {}
    patch = None if pretrained or image_size > SMALL_IMAGE else small_patch(family, image_size)
    return (
        {"img_size": image_size} if patch is None else {"img_size": image_size, "patch_size": patch}
    )


def small_patch(family: str, image_size: int) -> int | None:
    """Pixels a side of a patch at small images; None where the family has no such option or needs its own."""
    if family in WINDOWED_TRANSFORMERS:
        return 2  # three halvings follow
    if family in PLAIN_TRANSFORMERS:
        divisors = [side for side in range(1, image_size + 1) if image_size % side == 0]
        return min(
            divisors, key=lambda side: abs(side - image_size / 8)
        )  # 64 patches, or about as many
    return None


def pretrained_statistics(values: Sequence[float], channels: int) -> list[float]:
    """Mean or std of each channel: the weights' own, or their average where the number of channels differs."""
    return list(values) if len(values) == channels else [sum(values) / len(values)] * channels


def brief(error: Exception) -> str:
    """An exception in one short line."""
    return textwrap.shorten(f"{type(error).__name__}: {error}", 160, placeholder=" ...")


def _no_weights(name: str, cfg: Any, cause: str) -> UsageError:
    on_hub = (
        f"{cfg.hf_hub_id}/{cfg.hf_hub_filename or 'model.safetensors'}" if cfg.hf_hub_id else None
    )
    expected = cfg.file or on_hub or cfg.url
    return UsageError(
        f"no pretrained weights for {name}: {cause}",
        where=f"timm expected '{expected}' on the Hugging Face hub, at that address or in the local cache",
        fix="run once with a network, copy the cache (HF_HOME) here, or drop --pretrained",
    )


def with_sync_batch_norm(module: nn.Module, device: torch.device) -> nn.Module:
    """The network with batch norms over the images of all processes; raises UsageError where torch has none."""
    if device.type != "cuda":
        raise UsageError(
            f"--sync-bn: torch's SyncBatchNorm works on GPUs, and this run is on {device}",
            fix="leave it out: each process then normalises by its own images",
        )
    converted: nn.Module = timm.layers.convert_sync_batchnorm(
        module
    )  # torch's own drops timm's activations
    return converted
