"""Options for classes with unequal numbers of images: what they change in a run, and say of it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from abatis.config.plan_row import BUILT_IN, PlanRow
from abatis.config.run_config import RunConfig
from abatis.data import Data, DataInfo
from abatis.train.builtin.class_weights import BALANCED, ClassWeighted, find_class_weights
from abatis.train.plan import Plan

NAME = "class-weights"


def with_class_weights(
    plan: Plan, config: RunConfig, info: DataInfo, images: Data | None, device: torch.device
) -> Plan:
    """The plan whose loss is weighted by class, where that is asked for.

    Args:
        plan: the plan.
        config: the options of the run.
        info: the facts of the data.
        images: the data, where they were opened.
        device: of the batches.

    Raises:
        UsageError: there is not one number for each class.
    """
    asked = config.class_weights
    if asked == "none":
        return plan
    row = PlanRow("loss wrapper", NAME, BUILT_IN, {"weights": asked})
    if asked != BALANCED or images is not None:
        labels = images.train.labels if images is not None else torch.zeros(1, dtype=torch.int64)
        weights = find_class_weights(asked, labels, info.num_classes)
        plan = replace(plan, loss=ClassWeighted(plan.loss, weights.to(device)))
    return replace(plan, rows=(*plan.rows, row))


def describe_balance(config: RunConfig, images: Data) -> list[str]:
    """Notes on what the options change; accuracies count every image once in any case."""
    labels, info = images.train.labels, images.info
    counts = torch.bincount(labels, minlength=info.num_classes)
    few, many = _find_ends(counts)
    ends = [
        f"class {info.class_names[label] if info.class_names else label}" for label in (few, many)
    ]
    notes = []
    if config.order == "balanced":
        each = len(labels) / int((counts > 0).sum())
        times = [f"{each / int(counts[label]):.3g}" for label in (few, many)]
        notes.append(
            f"--order balanced: an epoch has {each:.4g} places for every class: an image of"
            f" {ends[0]} comes {times[0]} times on average, one of {ends[1]} {times[1]} times"
        )
    if config.class_weights == BALANCED:
        weights = find_class_weights(BALANCED, labels, info.num_classes)
        notes.append(
            f"--class-weights balanced: the loss of {ends[0]} is weighted by"
            f" {weights[few]:.4g}, that of {ends[1]} by {weights[many]:.4g}"
        )
    return notes


def _find_ends(counts: Tensor) -> tuple[int, int]:
    """The classes with the fewest and the most images, of those that have any."""
    present = counts.masked_fill(counts == 0, int(counts.max()) + 1)
    return int(present.argmin()), int(counts.argmax())
