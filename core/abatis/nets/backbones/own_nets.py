"""Our own nets by their names. timm learns of them when it is imported, and not before."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any, TypeVar

from torch import nn

from abatis.data.statistics import CIFAR10_MEAN, CIFAR10_STD
from abatis.system.timm_import import call_with_timm, timm

Build = TypeVar("Build", bound=Callable[..., nn.Module])


@dataclass(frozen=True)
class OwnNet:
    """One of our nets.

    Attributes:
        build: makes it, from num_classes, in_chans and options of its own.
        facts: what timm is told about it.
    """

    build: Callable[..., nn.Module]
    facts: Mapping[str, Any]

    def size_options(self, image_size: int) -> dict[str, int]:
        """``img_size`` for a net that is made for one size."""
        return {"img_size": image_size} if self.facts.get("fixed_input_size") else {}


OWN_NETS: dict[str, OwnNet] = {}
"""By the names that timm knows them by."""

SHORT_NAMES: dict[str, str] = {}
"""The names that users write, to the names that timm knows; see :func:`register`."""


def register(short_name: str, **other: Any) -> Callable[[Build], Build]:
    """Make a net known: to users under ``short_name``, to timm under the name of its function.

    Args:
        short_name: What users write.
        other: Facts for timm in place of those of a net for CIFAR-10 with a stem.
    """

    def add(build: Build) -> Build:
        name = build.__name__
        facts = {
            "num_classes": 10,
            "input_size": (3, 32, 32),
            "mean": CIFAR10_MEAN,
            "std": CIFAR10_STD,
            "first_conv": "features.stem",
            "classifier": "fc",
            **other,
        }
        OWN_NETS[name] = OwnNet(build, facts)
        SHORT_NAMES[short_name] = name
        call_with_timm(partial(_tell_timm, name))
        return build

    return add


def make_net(name: str, **options: Any) -> nn.Module:
    """One of our nets or of timm's with random weights, by the name that timm knows it by."""
    own = OWN_NETS.get(name)
    net: nn.Module = timm.create_model(name, **options) if own is None else own.build(**options)
    return net


def _tell_timm(name: str) -> None:
    """Register one of our nets, so that ``timm.create_model`` makes it; it has no weights there."""
    own = OWN_NETS[name]

    @wraps(own.build)
    def entrypoint(pretrained: bool = False, **options: Any) -> nn.Module:
        net: nn.Module = timm.models.build_model_with_cfg(own.build, name, pretrained, **options)
        return net

    # timm reads the facts from a table of the function's module
    table = sys.modules[own.build.__module__].__dict__.setdefault("default_cfgs", {})
    table.update(timm.models.generate_default_cfgs({name: dict(own.facts)}))
    timm.models.register_model(entrypoint)
