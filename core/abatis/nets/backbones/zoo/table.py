"""The table of RobustBench's networks, and where their weights lie.

The rows of ``robustbench.csv`` are facts of RobustBench 1.1.1 (Croce et al., NeurIPS 2021): names,
architectures, normalisation, sources, and the accuracies that it publishes.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from abatis.data.info import View
from abatis.data.statistics import Statistics
from abatis.errors import UsageError, did_you_mean

PREFIX = "rb:"
ZOO_DIR = Path("models")  # RobustBench's default
TABLE = Path(__file__).with_name("robustbench.csv")
NONE, EACH_IMAGE, IN_FILE = "none", "image", "file"
"""Ways of normalisation that are not numbers: none, each image by itself, as the file says."""
CLASSES = {"cifar10": 10, "cifar100": 100, "imagenet": 1000}
SIZES = {"cifar10": 32, "cifar100": 32, "imagenet": 224}
EPS = {
    ("cifar10", "Linf"): "Linf:8/255",
    ("cifar100", "Linf"): "Linf:8/255",
    ("imagenet", "Linf"): "Linf:4/255",
    ("cifar10", "L2"): "L2:0.5",
}
VIEWS = {
    "": View(),
    "Res256Crop224": View(224, "bilinear", 224 / 256),
    "BicubicRes256Crop224": View(224, "bicubic", 224 / 256),
    "Bicubic224": View(224, "bicubic", 1.0),
    "Res224": View(224, "bilinear", 1.0, resize="squash"),
    "Crop288": View(288, "bilinear", 1.0, resize="none"),
}
"""RobustBench's names of how image files become images."""
FLOAT = 4  # bytes


def is_zoo(name: str) -> bool:
    """Is it ``rb:NAME``?"""
    return name.startswith(PREFIX)


@dataclass(frozen=True)
class ZooNetwork:
    """One row of the table.

    Attributes:
        dataset: cifar10, cifar100 or imagenet.
        threat: Linf, L2 or corruptions.
        name: as RobustBench has it.
        architecture: see :mod:`abatis.nets.backbones.zoo.architectures`; empty where it is not
            covered.
        normalize: mean and standard deviation as numbers, or one of three words.
        view: a key of ``VIEWS``.
        set: which set of weights of the file is meant; empty for the usual one.
        parameters: their number, without tensors that are never used.
        source: the identifiers of Google Drive, or the name of a released file.
        licence: of the weights.
        clean: published clean accuracy in percent, as text; may be empty.
        robust: published robust accuracy in percent, as text; may be empty.
        left_out: why it is not covered.
    """

    dataset: str
    threat: str
    name: str
    architecture: str
    normalize: str
    view: str
    set: str
    parameters: int
    source: str
    licence: str
    clean: str
    robust: str
    left_out: str

    @property
    def key(self) -> str:
        """DATASET/THREAT/NAME, which no other network has."""
        return f"{self.dataset}/{self.threat}/{self.name}"

    @property
    def classes(self) -> int:
        """The number of outputs."""
        return CLASSES[self.dataset]

    @property
    def image_size(self) -> int:
        """Pixels a side."""
        return VIEWS[self.view].image_size if self.view else SIZES[self.dataset]

    @property
    def threat_model(self) -> str | None:
        """The threat with the radius of its leaderboard; None for corruptions."""
        return EPS.get((self.dataset, self.threat))

    @property
    def seen_as(self) -> View:
        """How image files become images for it."""
        return VIEWS[self.view]

    @property
    def statistics(self) -> Statistics:
        """Mean and standard deviation; 0 and 1 where images are taken as they are."""
        if self.normalize in (NONE, IN_FILE, EACH_IMAGE):
            return (0.0,) * 3, (1.0,) * 3
        mean, std = (tuple(map(float, part.split())) for part in self.normalize.split("/"))
        return mean, std

    @property
    def is_asset(self) -> bool:
        """Is the source a released file, which torch keeps in its own cache?"""
        return "." in self.source

    def places(self, zoo_dir: Path) -> list[Path]:
        """Where the weights may lie, the usual place first."""
        found = [zoo_dir.expanduser() / self.dataset / self.threat / f"{self.name}.pt"]
        if self.is_asset:
            found.append(Path(torch.hub.get_dir()) / "checkpoints" / self.source)
        return found

    def find_file(self, zoo_dir: Path) -> Path | None:
        """The file of the weights; None where there is none."""
        return next((path for path in self.places(zoo_dir) if path.is_file()), None)

    def require_file(self, zoo_dir: Path) -> Path:
        """The file of the weights; raises UsageError where there is none."""
        if found := self.find_file(zoo_dir):
            return found
        places = " nor ".join(map(str, self.places(zoo_dir)))
        size = self.parameters * FLOAT / 1e6
        host = "RobustBench's or torchvision's release" if self.is_asset else "Google Drive"
        raise UsageError(
            f"the weights of {PREFIX}{self.key} are not at {places}",
            where=f"source: {self.source} of {host}, about {size:,.0f} MB, {self.licence}",
            fix="put the file there (RobustBench downloads it, too), or name the folder with "
            "--zoo-dir",
        )

    def is_same(self, other: ZooNetwork) -> bool:
        """Is it the same network with the same weights, in another table?"""
        return (self.architecture, self.normalize, self.source) == (
            other.architecture,
            other.normalize,
            other.source,
        )


@functools.cache
def read_table() -> tuple[ZooNetwork, ...]:
    """All networks of the zoo."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))
    return tuple(ZooNetwork(**{**row, "parameters": int(row["parameters"] or 0)}) for row in rows)


def find_zoo(spec: str, zoo_dir: Path | None = None) -> ZooNetwork:
    """The network that ``rb:[DATASET/][THREAT/]NAME`` names.

    Args:
        spec: as the user wrote it.
        zoo_dir: where several have the name, the one whose weights lie here is meant. If None,
            the weights do not matter, and any with the same architecture will do.

    Raises:
        UsageError: there is none, several are meant, or it is not covered.
    """
    *where, name = spec.removeprefix(PREFIX).split("/")
    found = [
        one
        for one in read_table()
        if one.name == name and all(part in (one.dataset, one.threat) for part in where)
    ]
    if not found:
        known = (
            [one.name for one in read_table()] if not where else [one.key for one in read_table()]
        )
        raise UsageError(
            f"RobustBench has no network '{spec.removeprefix(PREFIX)}': "
            f"{did_you_mean('/'.join([*where, name]), known)}",
            fix=f"write {PREFIX}NAME or {PREFIX}DATASET/THREAT/NAME; the page on RobustBench's "
            "networks lists them",
        )
    chosen = _choose(spec, found, zoo_dir)
    if not chosen.architecture:
        raise UsageError(
            f"{PREFIX}{chosen.key} is not covered: {chosen.left_out}",
            fix="write its network as FILE.py:FACTORY, and give its file with --weights",
        )
    return chosen


def _choose(spec: str, found: Sequence[ZooNetwork], zoo_dir: Path | None) -> ZooNetwork:
    """The only one, the only one with weights, or one of several that are the same."""
    if zoo_dir is not None and len(found) > 1:
        found = [one for one in found if one.find_file(zoo_dir)] or found
    first = found[0]
    if all(one.is_same(first) for one in found):
        return first
    if zoo_dir is None and all(one.architecture == first.architecture for one in found):
        return first
    raise UsageError(
        f"several networks are called {spec.removeprefix(PREFIX)}: "
        f"{', '.join(one.key for one in found)}",
        fix=f"write {PREFIX}{first.key}, for example",
    )
