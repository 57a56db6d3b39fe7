"""Every backbone: our nets for small images, all of timm's, or one made by a function in a file.

Timm's nets and ours come from ``timm.create_model`` and are wrapped, so that the normalisation is
inside: outside of a backbone every image is a float in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from abatis.api.context import Forward
from abatis.errors import AbatisError, UsageError, summarise_error
from abatis.nets.backbones.from_file import load_factory
from abatis.nets.backbones.from_timm import create, pretrained_statistics, view_of
from abatis.nets.backbones.names import SHORT_NAMES, is_factory, resolve
from abatis.nets.net import BATCH_STATISTICS, Net
from abatis.system.torch_messages import is_out_of_memory
from abatis.system.user_module import raised_at

__all__ = [
    "Normalize",
    "Normalized",
    "build",
    "check_first_pass",
    "last_feature_map",
    "resolve",
    "switch_checkpointing",
    "unwrap",
    "view_of",
]


class Normalize(nn.Module):
    """``(x - mean) / std`` of images (B, C, H, W).

    The buffers ``mean`` and ``std`` are (1, C, 1, 1).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class Normalized(nn.Module):
    """A backbone on images (B, C, H, W) in [0, 1]."""

    def __init__(self, backbone: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.normalize = Normalize(mean, std)
        self.backbone = backbone

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.backbone(self.normalize(x))
        return logits


def build(
    name: str,
    *,
    num_classes: int,
    channels: int,
    image_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    pretrained: bool = False,
    download: bool = True,
    init: str = "he",
) -> nn.Module:
    """A net from images (B, channels, image_size, image_size) in [0, 1] to logits (B, num_classes).

    Args:
        name: one of our short names, a timm name, or ``FILE.py:FUNCTION``.
        num_classes: number of logits.
        channels: number of channels of the images.
        image_size: pixels a side.
        mean: one number a channel, for images in [0, 1].
        std: one number a channel, for images in [0, 1].
        pretrained: take timm's weights, with the mean and std that belong to them.
        download: if False, a pretrained net has its shape but random weights, for callers that
            load weights themselves.
        init: initial weights of the convolutions of our own nets, "he" or "torch".

    Raises:
        UsageError: the net is unknown or cannot be made for such images.
    """
    resolved = resolve(name, image_size)
    _check_init(name, resolved, init)
    if is_factory(resolved):
        if pretrained:
            raise UsageError(
                f"--pretrained has no effect on {name}",
                fix="leave it out; the function itself may load weights",
            )
        return load_factory(resolved, num_classes)
    if not len(mean) == len(std) == channels or min(std) <= 0:
        raise UsageError(
            f"mean {list(mean)} and std {list(std)} do not fit {channels} channel(s)",
            fix="give one mean and one positive std for each channel",
        )
    backbone, cfg = create(
        resolved,
        num_classes=num_classes,
        channels=channels,
        image_size=image_size,
        pretrained=pretrained,
        download=download,
        init=init,
    )
    if pretrained:
        mean, std = (
            pretrained_statistics(cfg.mean, channels),
            pretrained_statistics(cfg.std, channels),
        )
    return Normalized(backbone, mean, std)


def _check_init(name: str, resolved: str, init: str) -> None:
    """Raise UsageError where initial weights are asked for of a net that is not ours."""
    if init != "he" and resolved not in SHORT_NAMES.values():
        raise UsageError(
            f"--backbone-init {init} is for our own networks, and {name} is none of them",
            fix=f"leave it out, or choose one of {', '.join(SHORT_NAMES)}",
        )


def unwrap(module: nn.Module) -> nn.Module:
    """The net inside our layer of normalisation; any other module as it is."""
    return module.backbone if isinstance(module, Normalized) else module


def switch_checkpointing(module: nn.Module, on: bool) -> None:
    """Recompute activations in backward passes, or keep them.

    Raises UsageError where a net cannot recompute them.
    """
    net = unwrap(module)
    if any(isinstance(part, BATCH_STATISTICS) for part in net.modules()):
        raise UsageError(
            "--grad-checkpointing: batch norms would count the statistics of each batch twice",
            fix="use --accumulate instead, or choose a net without batch norm",
        )
    try:
        net.set_grad_checkpointing(on)  # type: ignore[operator]
    except (AttributeError, AssertionError) as error:
        raise UsageError(
            f"--grad-checkpointing is not supported by {type(net).__name__}",
            fix="use --accumulate instead, or choose a timm net that supports it",
        ) from error


def last_feature_map(model: nn.Module, channels: int, image_size: int) -> tuple[int, int] | None:
    """Height and width of the last convolutional map before pooling; None where there is none.

    That is the output of the last convolution whose windows overlap: those of patch embeddings do
    not, nor do the 1x1 convolutions that gates and heads use behind a pooling. It is measured
    with one zero image.

    Raises:
        UsageError: the net fails on such an image.
    """
    maps: list[tuple[int, int]] = []

    def note(conv: nn.Conv2d, inputs: tuple[Any, ...], output: Tensor) -> None:
        # a convolution over the whole map is a pooling with weights
        covers_all = conv.padding == (0, 0) and inputs[0].shape[2:] == conv.kernel_size
        if conv.kernel_size > conv.stride and not covers_all:
            maps.append((output.shape[2], output.shape[3]))

    handles = [
        module.register_forward_hook(note)
        for module in model.modules()
        if isinstance(module, nn.Conv2d)
    ]
    like = next(model.parameters(), torch.empty(0))
    try:
        with Net(model).frozen_mode(), torch.no_grad():
            model(like.new_zeros(1, channels, image_size, image_size))
    except Exception as error:
        size = f"{channels}x{image_size}x{image_size}"
        raise UsageError(
            f"the backbone fails on images of {size}: {summarise_error(error)}",
            fix="choose another backbone or larger images",
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return maps[-1] if maps else None


def check_first_pass(forward: Forward, x: Tensor, backbone: str) -> Tensor:
    """The logits (B, K) of some images (B, C, H, W), to find out early what would fail later.

    Raises UsageError where the network fails or does not return such logits.
    """
    try:
        with torch.no_grad():
            logits = forward(x)
    except AbatisError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise UsageError(
            f"backbone {backbone} fails on images {tuple(x.shape)}: "
            f"{type(error).__name__}: {error}",
            where=raised_at(error),
            fix="choose a network for such images or another --image-size",
        ) from error
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(x):
        given = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UsageError(
            f"backbone {backbone} returns {given} for {len(x)} images, not logits of shape (B, K)",
            fix="return one row of logits for each image",
        )
    return logits
