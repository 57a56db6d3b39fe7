"""Weights of the classes in the loss, for data whose classes have unequal numbers of images."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from abatis.api.context import Loss, StepContext
from abatis.api.term import Terms
from abatis.errors import PluginConflict, UsageError

BALANCED = "balanced"


def find_class_weights(asked: str, labels: Tensor, num_classes: int) -> Tensor:
    """The weight of each class, (K,) float32.

    ``balanced`` is ``n / (K' n_k)`` for a class with n_k of n images, where K' classes have
    images: the mean weight of the training images is 1. Numbers are taken as they are.

    Args:
        asked: "balanced", or numbers with commas in between.
        labels: (n,) int64, of the training images.
        num_classes: K.

    Raises:
        UsageError: there is not one number for each class.
    """
    if asked != BALANCED:
        weights = [float(number) for number in asked.split(",")]
        if len(weights) != num_classes:
            raise UsageError(
                f"--class-weights has {len(weights)} numbers for {num_classes} classes",
                fix="give one for each class, in the order of the labels, or balanced",
            )
        return torch.tensor(weights)
    counts = torch.bincount(labels, minlength=num_classes).double()
    present = int((counts > 0).sum())
    return (len(labels) / (present * counts.clamp(min=1))).float()


class ClassWeighted:
    """A loss whose terms marked ``reweight`` are multiplied by the weight of each label.

    Soft labels have the mean weight of their classes.

    Args:
        inner: the loss.
        weights: (K,).
    """

    def __init__(self, inner: Loss, weights: Tensor) -> None:
        self.inner, self.weights = inner, weights

    def __call__(self, ctx: StepContext) -> Terms:
        """The terms, weighted; raises PluginConflict where none may be."""
        terms = self.inner(ctx)
        if not any(term.reweight for term in terms.values()):
            raise PluginConflict(
                "--class-weights has nothing to weight: no term of the loss may be reweighted",
                fix="use --order balanced, or another loss",
            )
        batch = ctx.batch
        soft = batch.y_soft
        own = self.weights[batch.y] if soft is None else soft @ self.weights.to(soft.dtype)  # (B,)
        return {
            name: replace(term, value=term.value * own) if term.reweight else term
            for name, term in terms.items()
        }
