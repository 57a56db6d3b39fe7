"""What the values of weights can be: numbers that a network can compute with."""

from __future__ import annotations

from torch import Tensor

from abatis.errors import UsageError
from abatis.nets.weights.contents import Contents
from abatis.nets.weights.leftovers import show_names
from abatis.nets.weights.matching import Fit, Target


def check_values(target: Target, fit: Fit, contents: Contents) -> None:
    """Raise UsageError where tensors hold no weights: codes of quantised ones, NaN or infinity.

    Args:
        target: what the network wants.
        fit: the tensors to be loaded.
        contents: of the weights file.
    """
    odd = [name for name, value in fit.taken.items() if not _is_alike(target.tensors[name], value)]
    if odd:
        kind = str(fit.taken[odd[0]].dtype).removeprefix("torch.")
        raise UsageError(
            f"{contents.path} holds {kind} in place of floating-point weights: {len(odd)} tensors "
            f"({show_names(odd)})",
            fix="give floating-point weights, such as those before a quantisation",
        )
    broken = [
        name
        for name, value in fit.taken.items()
        if name not in target.never_run and _is_broken(value, name in target.parameters)
    ]
    if broken:
        raise UsageError(
            f"{contents.path} holds NaN or infinity in {len(broken)} of {len(fit.taken)} tensors "
            f"({show_names(broken)})",
            fix="the training diverged, or the file is damaged: take an earlier checkpoint",
        )


def _is_alike(own: Tensor, value: Tensor) -> bool:
    """Are both numbers of one kind? A counter may be written as a float."""
    if own.is_floating_point():
        return value.is_floating_point()
    return value.is_complex() == own.is_complex()


def _is_broken(value: Tensor, is_parameter: bool) -> bool:
    """Does it hold NaN, or infinity where it is learnt? A mask may hold infinity."""
    if not value.is_floating_point():
        return False
    numbers = value.float()
    return bool(numbers.isnan().any() or (is_parameter and numbers.isinf().any()))
