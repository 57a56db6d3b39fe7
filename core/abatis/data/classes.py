"""Which label is which class: by the names of the classes, in both splits and in the network.

Integers in the names of classes sort by value (2 before 10), everything else as text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from abatis.data.info import show_some
from abatis.errors import DataError


def order_classes(names: Sequence[str]) -> list[str]:
    """Names of classes in the order of their labels."""
    return sorted(names, key=lambda name: (_split_numbers(name), name))


def describe_order(names: Sequence[str]) -> str:
    """A note where other libraries give these classes other labels; empty where they do not.

    torchvision sorts folders as text; timm sorts numbers by value and ignores case.
    """
    as_text = sorted(names)
    as_timm = sorted(names, key=lambda name: _split_numbers(name.lower()))
    if as_text == as_timm:
        return ""
    used = order_classes(names)
    others = [
        f"{library} sorts them {show_some(order)}"
        for library, order in (("torchvision", as_text), ("timm", as_timm))
        if order != used
    ]
    return f"labels follow the class folders in the order {show_some(used)}; {'; '.join(others)}"


def _split_numbers(name: str) -> list[str | int]:
    parts = re.split(r"([0-9]+)", name)  # text and digits take turns
    return [int(part) if place % 2 else part for place, part in enumerate(parts)]


def name_classes(found: list[str], wanted: tuple[str, ...]) -> tuple[list[str], str]:
    """The classes in the order of their labels, and a note where that order could be doubted.

    Args:
        found: the classes of class folders, in their own order.
        wanted: the classes of a network; they give the order where they hold all that are found.
    """
    classes, note = follow_network(found, wanted)
    return (classes, note) if classes != found else (found, describe_order(found))


def follow_network(found: list[str], wanted: tuple[str, ...]) -> tuple[list[str], str]:
    """The classes in the order of a network's, where it has all of them, and a note on that.

    Args:
        found: the classes of the data, in their own order.
        wanted: the classes of a network; empty where they are not known.
    """
    if not set(found) <= set(wanted) or len(set(wanted)) < len(wanted) or found == list(wanted):
        return found, ""
    note = "labels are matched by name to the classes of the network"
    if len(found) < len(wanted):
        note += f"; {len(wanted) - len(found)} of its {len(wanted)} classes have no image"
    return list(wanted), note


def match_labels(
    labels: Tensor, named: Sequence[str], classes: Sequence[str], where: str
) -> Tensor:
    """Labels that count places in ``named``, as places in ``classes``; by name.

    Args:
        labels: (n,) int64.
        named: the names that they count.
        classes: the names that the result counts.
        where: what an error calls the images.

    Raises:
        DataError: an image is of a class that is not among ``classes``.
    """
    if list(named) == list(classes):
        return labels
    places = {name: place for place, name in enumerate(classes)}
    used = labels.unique().tolist()
    strange = [named[label] for label in used if named[label] not in places]
    if strange:
        raise DataError(
            f"{len(strange)} classes are not in the training set: {show_some(strange)}",
            where=where,
            fix=f"give both the same classes; the training set has {show_some(classes)}",
        )
    table = torch.tensor([places.get(name, -1) for name in named])
    return table[labels]
