"""torchvision and timm: ``from abatis.system.timm_import import timm``.

A torchvision built for CUDA beside a CPU build of torch fails at import because two operator
schemas are missing, and timm fails with it. Nothing here needs those operators, so declaring
their schemas is enough. Where torch and torchvision match, nothing is declared.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import torch

from abatis.system import torch_messages

__all__ = ["timm", "torchvision"]

_kept: list[torch.library.Library] = []  # a library's schemas live as long as it does


def _import_torchvision() -> ModuleType:
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if not torch_messages.lacks_torchvision_operators(error):
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _kept.append(library)
    return importlib.import_module("torchvision")


torchvision = _import_torchvision()

import timm  # noqa: E402  # after torchvision, which it imports
import timm.optim  # noqa: E402  # which timm itself leaves out
