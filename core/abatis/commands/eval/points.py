"""Which test images are evaluated: all, a fixed choice of some, or those that a file lists."""

from __future__ import annotations

import argparse
import hashlib
import re
from pathlib import Path, PurePath
from typing import Any

import torch
from torch import Tensor

from abatis.data import Data, Split
from abatis.data.order import choose_some
from abatis.errors import DataError, UsageError
from abatis.evaluate.record import describe_choice

FORM = "write one index a line, counted from 0 in the order of the test set, or a name like "
FORM += "n01440764/ILSVRC2012_val_00000293.JPEG where images are files"
IMAGENET = re.compile(r"(n[0-9]{8}) ([0-9]+)")  # a class and the number of a validation image
MISSING, SEVERAL = -1, -2  # in place of an index


def choose_points(asked: argparse.Namespace, data: Data) -> Split:
    """The test images of ``--points`` or ``--subset``, in the order of the test set.

    Raises:
        UsageError: both options are given.
        DataError: the file of ``--points`` does not list images of this test set.
    """
    test = data.test
    if asked.points is not None and asked.subset is not None:
        raise UsageError(
            "--points and --subset both choose test images", fix="leave out one of them"
        )
    if asked.points is not None:
        return test.subset(find_positions(asked.points, data))
    return choose_some(test, asked.subset)


def describe_points(asked: argparse.Namespace, points: Split, test: Split) -> dict[str, Any]:
    """What eval.json says of the choice: indices in the test set; empty if these are all."""
    chosen = describe_choice(points, test)
    if asked.points is None or not chosen:
        return chosen
    digest = hashlib.sha256(asked.points.expanduser().read_bytes()).hexdigest()
    return {**chosen, "points_file": {"name": asked.points.name, "sha256": digest}}


def find_positions(path: Path, data: Data) -> Tensor:
    """The positions in the test set, (n,) int64 ascending, of the images that a file lists.

    Raises:
        DataError: a line names no test image, or two lines name the same.
    """
    test = data.test
    places = {index: place for place, index in enumerate(test.index.tolist())}
    names = _list_names(data)
    positions: list[int] = []
    for number, text in _read_lines(path):
        if text.isascii() and text.isdecimal() and len(text) < 19:
            index = int(text)
        else:
            index = names.get(IMAGENET.sub(_write_name, text), MISSING)
        if index not in places:
            raise DataError(
                _explain(text, index, test),
                where=f"{path}, line {number}",
                fix=FORM,
            )
        positions.append(places[index])
    if not positions:
        raise DataError("the file lists no test images", where=str(path), fix=FORM)
    chosen = torch.tensor(positions).sort().values
    twice = chosen[1:][chosen[1:] == chosen[:-1]]
    if len(twice):
        raise DataError(
            f"{len(twice)} indices are listed twice, such as {int(test.index[twice[0]])}",
            where=str(path),
            fix="list every test image once",
        )
    return chosen


def _list_names(data: Data) -> dict[str, int]:
    """The index of a test image by its path, its folder and file, its file, and its stem."""
    found: dict[str, int] = {}
    for index, name in enumerate(data.test_names() if data.test_names is not None else ()):
        path = PurePath(name)
        for alias in {name, f"{path.parent.name}/{path.name}", path.name, path.stem}:
            found[alias] = SEVERAL if alias in found else index
    return found


def _write_name(found: re.Match[str]) -> str:
    """The published name of a validation image of ImageNet."""
    return f"{found[1]}/ILSVRC2012_val_{int(found[2]):08d}.JPEG"


def _explain(text: str, index: int, test: Split) -> str:
    """What is wrong with a line of the file."""
    if index == SEVERAL:
        return f"{text[:60]!r} is the name of several test images"
    if index == MISSING:
        return f"{text[:60]!r} is no test image; there are {len(test)} of them"
    return (
        f"{text[:40]!r} is not the index of a test image; there are {len(test)} of them"
        f"{_show_indices(test)}"
    )


def _show_indices(test: Split) -> str:
    """The first indices where only some of the test set is used, as with ``--limit``."""
    first = test.index[:3].tolist()
    if int(test.index[-1]) == len(test) - 1:
        return ""
    return f", {', '.join(map(str, first))} and so on, counted in the whole test set"


def _read_lines(path: Path) -> list[tuple[int, str]]:
    """The lines that are not empty, with their numbers counted from 1."""
    try:
        lines = path.expanduser().read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(
            f"the list of points cannot be read ({type(error).__name__})",
            where=str(path),
            fix=FORM,
        ) from error
    stripped = ((number, line.strip()) for number, line in enumerate(lines, 1))
    return [(number, text) for number, text in stripped if text]
