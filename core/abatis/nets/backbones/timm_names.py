"""Older names of tensors, changed to those that timm's networks use now."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from abatis.errors import UsageError
from abatis.nets.weights import Contents

WRAPPERS = ("module.", "_orig_mod.", "model.", "base_model.", "backbone.")
NORMALISING = ("normalize.", "normalizer.", "mean", "std", "mu", "sigma", "0.")


def translate_to_timm(contents: Contents, module: nn.Module) -> Contents:
    """The weights by the names that timm's version of a network uses now.

    timm's own filters also resize tensors for windows and patches of other sizes; such weights
    belong to another network and are refused.

    Args:
        contents: of a weights file.
        module: the network, without a normalisation around it.

    Raises:
        UsageError: a tensor would be resized.
    """
    change: Any = getattr(sys.modules[type(module).__module__], "checkpoint_filter_fn", None)
    if change is None:
        return contents
    own = module.state_dict()
    sets = {}
    for label, tensors in contents.sets.items():
        plain = strip_wrappers(tensors)
        try:
            changed: Mapping[str, Tensor] = change(dict(plain), module)
        except Exception:  # the filter met tensors of something else; what is wrong is said later
            changed = plain
        _check_sizes(contents, plain, changed, own)
        sets[label] = changed
    return replace(contents, sets=sets)


def strip_wrappers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without the prefixes that all of them have but those of a normalisation."""
    found = dict(tensors)
    while True:
        names = [name for name in found if not name.startswith(NORMALISING)]
        prefix = next((one for one in WRAPPERS if all(n.startswith(one) for n in names)), None)
        if prefix is None or not names:
            return found
        found = {name.removeprefix(prefix): value for name, value in found.items()}


def _check_sizes(
    contents: Contents,
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
) -> None:
    """Raise UsageError where a tensor was resized to fit the network.

    A tensor with another name still has the memory of the file's.
    """
    memory = {value.untyped_storage().data_ptr() for value in before.values()}
    for name, value in after.items():
        old = before.get(name)
        if old is None or old.numel() == value.numel():
            continue
        if value.untyped_storage().data_ptr() in memory:
            continue
        if name in own and own[name].shape == value.shape:
            raise UsageError(
                f"{contents.path} is for another size: {name} is {tuple(old.shape)}, and "
                f"{tuple(value.shape)} in the network",
                fix="name the network with the window, patch and image size of the weights",
            )
