"""Pre-activation nets for small images: wide ResNets and PreActResNet-18.

Zagoruyko and Komodakis, 2016; He et al., 2016. They are one design: basic blocks, a convolution as
shortcut where the shape changes, a last batch norm and activation. Published networks differ in a
few options of it, see :class:`Design`.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from abatis.nets.backbones.own_nets import OWN_NETS, SHORT_NAMES, register
from abatis.nets.backbones.pooled import PooledNet, conv3x3
from abatis.system.timm_import import timm

ACTIVATIONS = ("relu", "silu")
PADDINGS = ("symmetric", "same")
SHORTCUTS = ("activated", "raw", "raw-3x3")
SIZES = (
    (16, 8),
    (28, 4),
    (28, 10),
    (34, 10),
    (34, 15),
    (34, 20),
    (40, 2),
    (70, 16),
    (82, 8),
    (94, 16),
    (106, 16),
)
"""Depth and factor of the wide ResNets that lists name; others are made when they are asked for."""
SIZED = re.compile(r"(?:cifar_)?wrn(\d+)[-_](\d+)([-_]silu)?")
USUAL = {28: 10, 34: 10, 70: 16}  # factors that a name may leave out


@dataclass(frozen=True)
class Design:
    """What networks of one shape differ in. All but the activation change no number of parameters.

    Args:
        activation: "relu", or "silu", which is swish: x sigmoid(x).
        padding: of 3x3 convolutions with stride 2. "symmetric": one pixel on every side. "same":
            one pixel right and below, as TensorFlow pads. With stride 1 both are alike.
        shortcut: where the shape changes. "activated": a 1x1 convolution of the activated input;
            "raw": of the input itself; "raw-3x3": a 3x3 convolution of the input itself.
        momentum: of the batch norms: the share of a batch in the running statistics.
        last_norm: a batch norm and activation before the pooling?
    """

    activation: str = "relu"
    padding: str = "symmetric"
    shortcut: str = "activated"
    momentum: float = 0.1
    last_norm: bool = True

    def __post_init__(self) -> None:
        for value, known in (
            (self.activation, ACTIVATIONS),
            (self.padding, PADDINGS),
            (self.shortcut, SHORTCUTS),
        ):
            if value not in known:
                raise ValueError(f"{value!r}: these nets have {', '.join(known)}")

    def activate(self, channels: int) -> nn.Sequential:
        """A batch norm and the activation."""
        norm = nn.BatchNorm2d(channels, momentum=self.momentum)
        return nn.Sequential(
            norm, nn.ReLU(inplace=True) if self.activation == "relu" else nn.SiLU()
        )

    def convolve(self, channels: int, width: int, stride: int) -> nn.Module:
        """A 3x3 convolution. With other padding its tensors have another name.

        So weights for one padding never load into a network with the other.
        """
        if self.padding == "symmetric" or stride == 1:
            return conv3x3(channels, width, stride)
        left_right_top_bottom = (0, 1, 0, 1)
        return nn.Sequential(
            nn.ZeroPad2d(left_right_top_bottom),
            nn.Conv2d(channels, width, 3, stride, bias=False),
        )

    def make_shortcut(self, channels: int, width: int, stride: int) -> nn.Module | None:
        """What brings the input of a block to the shape of its output; None where it has it."""
        if stride == 1 and channels == width:
            return None
        if self.shortcut == "raw-3x3":
            return self.convolve(channels, width, stride)
        return nn.Conv2d(channels, width, 1, stride, bias=False)


EDM = {"activation": "silu", "padding": "same", "momentum": 0.01}
"""The design of Gowal et al., 2020, used by Rebuffi, Wang, Bartoldson and others after them."""


class PreActBlock(nn.Module):
    """BN, ReLU, conv, BN, ReLU, conv: (B, channels, H, W) -> (B, width, H / stride, W / stride)."""

    def __init__(
        self, channels: int, width: int, stride: int, design: Design | None = None
    ) -> None:
        super().__init__()
        design = design or Design()
        self.activate1 = design.activate(channels)
        self.conv1 = design.convolve(channels, width, stride)
        self.activate2 = design.activate(width)
        self.conv2 = conv3x3(width, width)
        self.shortcut = design.make_shortcut(channels, width, stride)
        self.raw = design.shortcut != "activated"

    def forward(self, x: Tensor) -> Tensor:
        activated = self.activate1(x)
        kept = x if self.shortcut is None else self.shortcut(x if self.raw else activated)
        added: Tensor = kept + self.conv2(self.activate2(self.conv1(activated)))
        return added


def preact_trunk(
    stem: int, widths: Sequence[int], blocks: int, in_chans: int, design: Design | None = None
) -> nn.Sequential:
    """A stem of ``stem`` channels, then ``blocks`` blocks for each width.

    All stages but the first halve the map.
    """
    design = design or Design()
    layers: OrderedDict[str, nn.Module] = OrderedDict(stem=conv3x3(in_chans, stem))
    channels = stem
    for stage, width in enumerate(widths, start=1):
        for block in range(blocks):
            stride = 2 if stage > 1 and block == 0 else 1
            layers[f"stage{stage}_{block}"] = PreActBlock(channels, width, stride, design)
            channels = width
    if design.last_norm:
        layers["norm"], layers["relu"] = design.activate(channels)
    return nn.Sequential(layers)


def build_preact(stem: int, widths: Sequence[int], blocks: int, **options: Any) -> PooledNet:
    """A net of this form; the fields of :class:`Design` are options of each."""
    given = {key: options.pop(key) for key in Design.__dataclass_fields__ if key in options}
    design, usual = Design(**given), Design()
    trunk = partial(preact_trunk, stem, widths, blocks, design=design)
    net = PooledNet(trunk, width=widths[-1], **options)
    net.design = {
        key: value
        for key, value in vars(design).items()
        if key != "momentum" and value != getattr(usual, key)
    }
    return net


def _add_wide_resnet(depth: int, factor: int, silu: bool) -> None:
    """Make WRN-depth-factor known; its authors count ``depth = 6 * blocks + 4``."""
    name = f"cifar_wrn{depth}_{factor}" + "_silu" * silu
    widths = [16 * factor, 32 * factor, 64 * factor]
    design = EDM if silu else {}

    def build(**options: Any) -> PooledNet:
        return build_preact(16, widths, (depth - 4) // 6, **{**design, **options})

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"WRN-{depth}-{factor}{' with SiLU' * silu}."
    register(f"wrn{depth}-{factor}" + "-silu" * silu)(build)
    if USUAL.get(depth) == factor:
        SHORT_NAMES[f"wrn{depth}" + "-silu" * silu] = name


for _depth, _factor in SIZES:
    _add_wide_resnet(_depth, _factor, silu=False)
    _add_wide_resnet(_depth, _factor, silu=True)


def add_sized(name: str) -> None:
    """Make a wide ResNet of any size known by its name; other names change nothing."""
    sized = SIZED.fullmatch(name)
    if sized and name not in SHORT_NAMES and name not in OWN_NETS:
        depth, factor = int(sized[1]), int(sized[2])
        if depth >= 10 and depth % 6 == 4 and factor >= 1:
            _add_wide_resnet(depth, factor, silu=sized[3] is not None)


def is_model(name: str) -> bool:
    """Is it a network of ours or of timm's, by timm's name?"""
    add_sized(name)
    return name in OWN_NETS or bool(timm.is_model(name))


@register("wrn34-r")
def cifar_wrn34_r(**options: Any) -> PooledNet:
    """WRN-34-R (Huang et al., 2021): a narrower last stage."""
    return build_preact(16, [320, 640, 512], 5, **options)


@register("preactresnet18")
def cifar_preactresnet18(**options: Any) -> PooledNet:
    """PreActResNet-18, with the batch norm and ReLU before pooling."""
    widths = [64, 128, 256, 512]
    return build_preact(64, widths, 2, **options)


@register("preactresnet18-silu")
def cifar_preactresnet18_silu(**options: Any) -> PooledNet:
    """PreActResNet-18 with SiLU and 3x3 shortcuts (Gowal et al., 2020)."""
    widths = [64, 128, 256, 512]
    options = {**EDM, "shortcut": "raw-3x3", **options}
    return build_preact(64, widths, 2, **options)
