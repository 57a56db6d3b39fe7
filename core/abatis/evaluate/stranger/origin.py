"""How another process gets the network: built again from where it came from, or copied."""

from __future__ import annotations

import importlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Origin:
    """A function that builds the network anew, for another process.

    Args:
        function: ``MODULE:NAME``; it returns the module, on the CPU or on its device.
        arguments: its keyword arguments, in the types of JSON.
    """

    function: str
    arguments: Mapping[str, object] = field(default_factory=dict)

    def build(self) -> nn.Module:
        """Build the network; raises whatever its code raises."""
        place, _, name = self.function.partition(":")
        function: Any = getattr(importlib.import_module(place), name)
        module: nn.Module = function(**self.arguments)
        return module


def pickle_module(module: nn.Module) -> bytes | None:
    """The module as another process can load it; None where it cannot be pickled.

    A class of ``__main__`` counts as one that cannot: the other process has another ``__main__``.
    """
    if any(type(part).__module__ == "__main__" for part in module.modules()):
        return None
    buffer = io.BytesIO()
    try:
        torch.save(module, buffer)
    except Exception:  # whatever in the network cannot be pickled
        return None
    return buffer.getvalue()


def unpickle_module(data: bytes) -> nn.Module:
    """The module of :func:`pickle_module`, on the CPU."""
    module: nn.Module = torch.load(io.BytesIO(data), map_location="cpu", weights_only=False)
    return module
