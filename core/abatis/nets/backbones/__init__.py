"""Every backbone: our nets for small images, all of timm's, or one made by a function in a file.

Timm's nets and ours come from ``timm.create_model`` and are wrapped, so that the normalisation is
inside: outside of a backbone every image is a float in [0, 1].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from abatis.data.info import View
from abatis.errors import UsageError, summarise_error
from abatis.nets.backbones.from_file import load_factory
from abatis.nets.backbones.from_repository import (
    Repository,
    find_folder,
    is_repository,
    read_repository,
)
from abatis.nets.backbones.from_timm import create, pretrained_statistics, timm_view
from abatis.nets.backbones.from_torchvision import PREFIX as TORCHVISION
from abatis.nets.backbones.from_torchvision import (
    build_torchvision,
    statistics_of,
    torchvision_view,
)
from abatis.nets.backbones.names import is_factory, resolve
from abatis.nets.backbones.own_options import check_own_options
from abatis.nets.backbones.timm_names import translate_to_timm
from abatis.nets.backbones.zoo.architectures import build_zoo
from abatis.nets.backbones.zoo.loading import choose_set, read_zoo
from abatis.nets.backbones.zoo.table import PREFIX as ZOO
from abatis.nets.backbones.zoo.table import ZOO_DIR, find_zoo
from abatis.nets.net import BATCH_STATISTICS, Net
from abatis.nets.normalising import Normalized
from abatis.nets.weights import read_contents, start_from

__all__ = [
    "Normalized",
    "build",
    "last_feature_map",
    "resolve",
    "switch_checkpointing",
    "unwrap",
    "view_of",
]


def build(
    name: str,
    *,
    num_classes: int | None,
    channels: int,
    image_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    pretrained: bool = False,
    download: bool = True,
    own: Mapping[str, Any] | None = None,
    zoo_dir: Path | None = ZOO_DIR,
) -> nn.Module:
    """A net from images (B, channels, image_size, image_size) in [0, 1] to logits (B, num_classes).

    Args:
        name: one of our short names, a timm name, ``torchvision:NAME``, ``rb:NAME``,
            ``hf-hub:ORG/NAME``, ``local-dir:PATH``, or ``FILE.py:FUNCTION``.
        num_classes: number of logits; None for the default of a function in a file.
        channels: number of channels of the images.
        image_size: pixels a side.
        mean: one number a channel, for images in [0, 1].
        std: one number a channel, for images in [0, 1].
        pretrained: take timm's weights, with the mean and std that belong to them.
        download: if False, a pretrained net has its shape but random weights, for callers that
            load weights themselves.
        own: options of our own nets, such as {"init": "torch"} or {"activation": "silu"}.
        zoo_dir: where the weights of ``rb:NAME`` lie; None where only the architecture counts.

    Raises:
        UsageError: the net is unknown or cannot be made for such images.
    """
    resolved = resolve(name, image_size)
    own = own or {}
    check_own_options(name, resolved, own)
    if is_factory(resolved):
        _refuse_pretrained(name, pretrained)
        return load_factory(resolved, num_classes)
    assert num_classes is not None
    if is_repository(resolved):
        return _build_from_repository(
            read_repository(find_folder(resolved)), num_classes, channels, pretrained and download
        )
    if resolved.startswith(ZOO):
        return _build_from_zoo(resolved, num_classes, channels, zoo_dir, pretrained and download)
    if not len(mean) == len(std) == channels or min(std) <= 0:
        raise UsageError(
            f"mean {list(mean)} and std {list(std)} do not fit {channels} channel(s)",
            fix="give one mean and one positive std for each channel",
        )
    if resolved.startswith(TORCHVISION):
        net = build_torchvision(resolved, num_classes, channels, pretrained and download)
        return Normalized(net, *(statistics_of(resolved) if pretrained else (mean, std)))
    sizes = {"num_classes": num_classes, "channels": channels, "image_size": image_size}
    backbone, cfg = create(resolved, **sizes, pretrained=pretrained, download=download, own=own)
    if pretrained:
        mean, std = (pretrained_statistics(values, channels) for values in (cfg.mean, cfg.std))
    return Normalized(backbone, mean, std)


def _refuse_pretrained(name: str, pretrained: bool) -> None:
    if pretrained:
        raise UsageError(
            f"--pretrained has no effect on {name}",
            fix="leave it out; the function itself may load weights",
        )


def _build_from_repository(
    repository: Repository, num_classes: int, channels: int, pretrained: bool
) -> nn.Module:
    """The network of a repository, normalised as it says.

    With ``pretrained`` it has its weights, and a new head where the number of classes differs.
    """
    if pretrained and not repository.is_timm:
        return Normalized(repository.load(num_classes), *repository.statistics)
    net = Normalized(repository.build(num_classes, channels), *repository.statistics)
    if pretrained:
        contents = translate_to_timm(read_contents(repository.folder), net.backbone)
        start_from(net, contents, f"the network of {repository.folder}")
    return net


def _build_from_zoo(
    name: str, num_classes: int, channels: int, zoo_dir: Path | None, pretrained: bool
) -> nn.Module:
    """A network of RobustBench, normalised as there; with its weights where they are asked for."""
    network = find_zoo(name, zoo_dir)
    net = build_zoo(network, num_classes, channels)
    if pretrained and zoo_dir is not None:
        contents = read_zoo(network, zoo_dir, net)
        start_from(net, contents, name, choose_set(network, contents))
    return net


def view_of(name: str, zoo_dir: Path | None = None) -> View:
    """How image files become images for a network, where its name tells; else the default."""
    if is_factory(name):
        return View()
    if is_repository(name):
        return read_repository(find_folder(name)).view
    if name.startswith(TORCHVISION):
        return torchvision_view(name)
    if name.startswith(ZOO):
        return find_zoo(name, zoo_dir).seen_as
    return timm_view(name)


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
