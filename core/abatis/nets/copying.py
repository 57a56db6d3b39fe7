"""Copies of networks, also of those that hold what cannot be copied: locks, files, sessions."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import Tensor, nn

OF_TORCH = frozenset(vars(nn.Module()))  # the tables that every module has
Module = TypeVar("Module", bound=nn.Module)


def copy_module(module: Module) -> Module:
    """A copy with own parameters and buffers.

    Attributes that cannot be copied are shared with the original: they hold no parameters. Tensors
    that hooks compute, as those of weight norm, are copied as they are now.
    """
    try:
        return copy.deepcopy(module)
    except Exception:  # every class refuses in its own way
        return copy.deepcopy(module, _share_uncopied(module))


def _share_uncopied(module: nn.Module) -> dict[int, object]:
    """The memo of a copy: attributes that cannot be copied, as what they are to be."""
    memo: dict[int, object] = {}
    for part in module.modules():
        for name, value in vars(part).items():
            if name in OF_TORCH:
                continue
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
            elif not _can_copy(value):
                memo[id(value)] = value
    return memo


def _can_copy(value: object) -> bool:
    """Plain values, tensors and networks can be copied; the others are tried."""
    if value is None or isinstance(value, bool | int | float | str | Tensor | nn.Module):
        return True
    try:
        copy.deepcopy(value)
    except Exception:  # every class refuses in its own way
        return False
    return True
