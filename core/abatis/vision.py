"""The one door to torchvision and timm.

A torchvision wheel built for CUDA beside a CPU build of torch dies at import, because two operator schemas are missing,
and timm dies with it. Nothing here needs those operators: declaring their schemas is enough for everything else to work.
Where torch and torchvision match, the cure never fires.
"""

from __future__ import annotations

import functools
import importlib
import sys
from types import ModuleType

import torch

_MISSING = "operator torchvision::nms does not exist"


@functools.cache
def torchvision() -> ModuleType:
    """The torchvision package."""
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if _MISSING not in str(error):
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    _declare_operators()
    return importlib.import_module("torchvision")


@functools.cache
def timm() -> ModuleType:
    """The timm package, with torchvision made importable first."""
    torchvision()
    return importlib.import_module("timm")


@functools.cache
def _declare_operators() -> torch.library.Library:
    """Declare the two schemas; the cache keeps the library referenced, which keeps them alive."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library
