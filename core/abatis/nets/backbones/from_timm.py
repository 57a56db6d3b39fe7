"""Backbones of timm and our own, and what each family needs for small images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from abatis.data.info import View
from abatis.errors import UsageError, summarise_error
from abatis.nets.backbones.names import SMALL_IMAGE, resolve
from abatis.nets.backbones.own_nets import OWN_NETS, make_net
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
    name: str,
    *,
    num_classes: int,
    channels: int,
    image_size: int,
    pretrained: bool,
    download: bool,
    own: Mapping[str, Any],
) -> tuple[nn.Module, Any]:
    """The net and its ``pretrained_cfg``, None for our own nets; ``own`` are options of these.

    Raises UsageError where it cannot be made or has no weights.
    """
    ours = OWN_NETS.get(name)
    # a few old names have no configuration
    cfg = None if ours else timm.models.get_pretrained_cfg(name) or timm.models.PretrainedCfg()
    if pretrained and (cfg is None or not cfg.has_weights):
        raise UsageError(
            f"{name} has no pretrained weights",
            fix="drop --pretrained, or choose a timm model that has some (timm.list_pretrained())",
        )
    options: dict[str, Any] = {"num_classes": num_classes, "in_chans": channels}
    if ours is not None:
        options |= {**ours.size_options(image_size), **own}
    else:
        options |= size_options(name, cfg, image_size, pretrained)
    try:
        if pretrained and download:
            options["pretrained"] = True
        net = make_net(name, **options)
    except Exception as error:
        cause = summarise_error(error)
        if pretrained and download:
            raise _no_weights(name, cfg, cause) from error
        wanted = f"{num_classes} classes and images of {channels}x{image_size}x{image_size}"
        raise UsageError(
            f"{name} cannot be built for {wanted}: {cause}", fix="choose another backbone"
        ) from error
    return net, cfg


def timm_view(name: str) -> View:
    """Size, interpolation and crop that a timm net was made for; for other nets the default."""
    try:
        resolved = resolve(name, View.image_size)
        cfg = None if resolved in OWN_NETS else timm.models.get_pretrained_cfg(resolved)
    except UsageError:  # raised again where the net is built
        return View()
    if cfg is None:
        return View()
    config = timm.data.resolve_data_config(pretrained_cfg=cfg.to_dict())
    return View(config["input_size"][-1], config["interpolation"], config["crop_pct"])


def size_options(name: str, cfg: Any, image_size: int, pretrained: bool) -> dict[str, int]:
    """``img_size`` for nets that are made for one size, and ``patch_size`` for small images.

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
    """Pixels a side of a patch for small images; None where the family has no such option."""
    if family in WINDOWED_TRANSFORMERS:
        return 2  # three halvings follow
    if family in PLAIN_TRANSFORMERS:
        divisors = [side for side in range(1, image_size + 1) if image_size % side == 0]
        # 64 patches, or about as many
        return min(divisors, key=lambda side: abs(side - image_size / 8))
    return None


def pretrained_statistics(values: Sequence[float], channels: int) -> list[float]:
    """Mean or std of each channel that the weights were trained with.

    Their average for each channel, where the number of channels differs.
    """
    return list(values) if len(values) == channels else [sum(values) / len(values)] * channels


def _no_weights(name: str, cfg: Any, cause: str) -> UsageError:
    on_hub = (
        f"{cfg.hf_hub_id}/{cfg.hf_hub_filename or 'model.safetensors'}" if cfg.hf_hub_id else None
    )
    expected = cfg.file or on_hub or cfg.url
    return UsageError(
        f"no pretrained weights for {name}: {cause}",
        where=f"timm looked for '{expected}' on the Hugging Face Hub and in the local cache",
        fix="run once with a network, copy the cache (HF_HOME) here, or drop --pretrained",
    )


def with_sync_batch_norm(module: nn.Module, device: torch.device) -> nn.Module:
    """The network with batch norms over the images of all processes.

    Raises UsageError for a device on which torch has none.
    """
    if device.type != "cuda":
        raise UsageError(
            f"--sync-bn: torch's SyncBatchNorm works on GPUs, and this run is on {device}",
            fix="leave it out: each process then normalises with its own images",
        )
    # torch's own function drops the activations of timm's norms
    converted: nn.Module = timm.layers.convert_sync_batchnorm(module)
    return converted
