"""What a run needs no plugin for, by name: one line here, and the file it names, add another.

Only names and places are kept here, so that options, their help and their errors need no torch.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from typing import Any

ATTACKS: Mapping[str, str] = {
    "pgd": "abatis.train.builtin.pgd:PGDAttacker",
    "none": "abatis.train.builtin.none:NoAttacker",
    "apgd": "abatis.train.builtin.apgd:APGDAttacker",
}
"""Attacks of ``--use attacker=NAME``; each is called with the Run. The first is the default."""

LOSSES: Mapping[str, str] = {
    "cross-entropy": "abatis.train.builtin.cross_entropy:make_cross_entropy",
}
"""Losses of ``--use loss=NAME``; each is called with the Run. The first is the default."""

TRACKERS: Mapping[str, str] = {
    "tensorboard": "abatis.train.trackers.to_tensorboard:Recorder",
    "mlflow": "abatis.train.trackers.to_mlflow:Recorder",
    "wandb": "abatis.train.trackers.to_wandb:Recorder",
}
"""Trackers of ``--track NAME``; each is called with the run folder and the run's options."""

DATA_SOURCES: Mapping[str, str] = {
    "digits": "abatis.data.sources.digits:DIGITS",
    "cifar10": "abatis.data.sources.cifar:CIFAR10",
    "cifar100": "abatis.data.sources.cifar:CIFAR100",
    "svhn": "abatis.data.sources.svhn:SVHN",
    "mnist": "abatis.data.sources.mnist:MNIST",
    "npz:PATH": "abatis.data.sources.npz:NPZ",
    "folder:PATH": "abatis.data.sources.folder:FOLDER",
    "csv:FILE": "abatis.data.sources.from_csv:CSV",
    "imagenet:PATH": "abatis.data.sources.imagenet:IMAGENET",
    "tiny-imagenet:PATH": "abatis.data.sources.imagenet:TINY",
    "webdataset:PATH": "abatis.data.sources.from_shards:SHARDS",
    "torchvision:NAME": "abatis.data.sources.from_torchvision:TORCHVISION",
    "hf:NAME": "abatis.data.sources.from_hub:HUB",
}
"""Sources of ``--data NAME`` and ``--data PREFIX:PATH``, each a ``DataSource``."""

PROVIDERS: Mapping[str, Mapping[str, str]] = {"attacker": ATTACKS, "loss": LOSSES}
"""The roles that exactly one provider has, and what may have them without a plugin."""

SHARDING = "abatis.nets.sharding:Sharding"
"""Imported for ``--shard`` alone: what it takes of torch costs nearly as much as torch itself."""

TRAINED = "trained"
"""``--use weights=trained``: judge the weights that are trained, whatever trainer hooks provide."""

JUDGED: tuple[str, ...] = (TRAINED, "averaging")
"""Who may provide the weights that are judged without a plugin; ``averaging`` is ``--ema``."""


def load_built_in(place: str) -> Any:
    """Import what a line of these tables names; raises ImportError where its library is missing."""
    return pkgutil.resolve_name(place)
