"""torchvision and timm, imported when something of them is first used.

``from abatis.system.timm_import import timm`` imports nothing: their thousand modules take as long
as torch, and our own networks need none of them.

A torchvision built for CUDA beside a CPU build of torch fails at import because two operator
schemas are missing, and timm fails with it. Nothing here needs those operators, so declaring
their schemas is enough. This holds for whoever imports torchvision once this module is loaded.
Where torch and torchvision match, nothing is declared.
"""

from __future__ import annotations

import importlib
import random
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from abatis.system import torch_messages

if TYPE_CHECKING:
    import timm
    import timm.optim
    import torchvision

__all__ = ["call_with_timm", "timm", "torchvision"]

TORCHVISION, TIMM = "torchvision", "timm"
OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

_waiting: list[Callable[[], None]] = []  # what is done once timm is there
_kept: list[Any] = []  # a library's schemas live as long as it does


def call_with_timm(action: Callable[[], None]) -> None:
    """Call a function as soon as timm is imported, by whomever; at once where it is already."""
    if TIMM in sys.modules:
        action()
    else:
        _waiting.append(action)


class _Deferred:
    """A package that is imported when one of its names is first asked for."""

    def __init__(self, *modules: str) -> None:
        self._modules = modules

    def __getattr__(self, name: str) -> Any:
        state = random.getstate()
        try:
            found = [importlib.import_module(module) for module in self._modules]
        finally:
            random.setstate(state)  # a run's draws do not depend on when it imports what
        return getattr(found[0], name)


class _Finder(MetaPathFinder):
    """Finds torchvision and timm where the others do, and adds what is done at their import."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of one of the two packages; None for all others."""
        if fullname not in EXECUTE:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        found = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next((one for one in found if one is not None), None)
        if spec is not None and spec.loader is not None:
            execute, plain = EXECUTE[fullname], spec.loader.exec_module
            spec.loader.exec_module = lambda module: execute(plain, module)  # type: ignore[method-assign]
        return spec


def _execute_torchvision(execute: Callable[[ModuleType], None], module: ModuleType) -> None:
    try:
        return execute(module)
    except RuntimeError as error:
        if not torch_messages.lacks_torchvision_operators(error):
            raise
    for name in [name for name in sys.modules if name.startswith(f"{TORCHVISION}.")]:
        del sys.modules[name]
    from torch.library import Library

    library = Library(TORCHVISION, "FRAGMENT")
    for schema in OPERATORS:
        library.define(schema)
    _kept.append(library)
    execute(module)


def _execute_timm(execute: Callable[[ModuleType], None], module: ModuleType) -> None:
    execute(module)
    while _waiting:
        _waiting.pop(0)()


EXECUTE = {TORCHVISION: _execute_torchvision, TIMM: _execute_timm}

if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
    sys.meta_path.insert(0, _Finder())

if not TYPE_CHECKING:
    torchvision = _Deferred(TORCHVISION)
    timm = _Deferred(TIMM, "timm.optim")  # which timm itself leaves out
