"""What only a network's own run knows: its training images, an undefended twin, its epoch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from abatis.api.threat import Threat
from abatis.config.plan_row import PlanRow
from abatis.config.run_config import RunConfig
from abatis.data import Data, DataInfo
from abatis.data.order import choose_stratified
from abatis.evaluate.examination import DIAGNOSED
from abatis.evaluate.masking.training import TrainingFacts
from abatis.nets.backbones import build
from abatis.nets.weights import DESIGN, read_design
from abatis.nets.weights_file import find_weights
from abatis.runs.network import CHANGED_BY
from abatis.runs.undefended_twin import train_undefended_twin

TWIN_SHARE = 0.2  # of the run's epochs, for which the twin trains
TWIN_EPOCHS = 5  # at most
TWIN_RATE = 0.05  # learning rate, where the run's own optimizer is not SGD
OTHER = "cifar_cnn"  # what is trained to attack a network from elsewhere
OTHER_IMAGES = 10_000  # training images of it, at most
OTHER_SEEN = 30_000  # in all its epochs
OTHER_EPOCHS = 20  # at most
OTHER_BATCH = 64


def describe_training(config: RunConfig, module: nn.Module, images: Data) -> TrainingFacts:
    """Return what the diagnostics of the training need; the twin is trained when one asks for it.

    Args:
        config: the options of the run.
        module: its network.
        images: its data.
    """

    def twin() -> nn.Module:
        return train_undefended_twin(
            module,
            images.train,
            seed=config.seed,
            epochs=max(1, min(TWIN_EPOCHS, round(TWIN_SHARE * config.epochs))),
            batch_size=config.batch_size,
            lr=config.optim.lr if config.optim.name == "sgd" else TWIN_RATE,
        )

    few = images.train.subset(choose_stratified(images.train.labels, DIAGNOSED))
    return TrainingFacts(
        few, twin, config.threat_model, attacked=config.use.get("attacker") != "none"
    )


def describe_data(images: Data, threat: Threat, device: torch.device) -> TrainingFacts:
    """Return what the diagnostics need of the training images of a network from elsewhere.

    Whether it was trained on them is not known. In place of a twin, attacks are transferred from a
    small network that is trained on them when one asks for it.

    Args:
        images: the data that it is judged on.
        threat: of the evaluation.
        device: of the network.
    """

    def other() -> nn.Module:
        info = images.info
        module = build(
            OTHER,
            num_classes=info.num_classes,
            channels=info.channels,
            image_size=info.image_size,
            mean=info.mean,
            std=info.std,
        )
        count = min(len(images.train), OTHER_IMAGES)
        some = images.train.subset(choose_stratified(images.train.labels, count))
        epochs = min(OTHER_EPOCHS, max(1, OTHER_SEEN // count))
        return train_undefended_twin(
            module.to(device), some, seed=0, epochs=epochs, batch_size=OTHER_BATCH, lr=TWIN_RATE
        )

    few = images.train.subset(choose_stratified(images.train.labels, DIAGNOSED))
    return TrainingFacts(few, other, threat, attacked=None, twin_kind="a small undefended network")


def describe_plugins(rows: Sequence[PlanRow]) -> dict[str, object]:
    """Version and options of the plugins that bring an adaptive attack, by plugin."""
    return {
        row.provider: [row.version, dict(row.options)]
        for row in rows
        if row.role == "adaptive attack"
    }


def describe_selection(images: Data, folder: Path, epoch: int) -> dict[str, Any]:
    """Return how the weights that are judged were chosen: those of an epoch, counted from 1."""
    return {
        "weights": find_weights(folder).name,
        "selected_at_epoch": epoch,
        "selected_on": "held-out robust accuracy"
        if images.val is not None
        else "nothing: no images were held out",
    }


def describe_weights(
    config: RunConfig, info: DataInfo, module: nn.Module, networks: Sequence[str]
) -> dict[str, Any]:
    """Return what a weights file says of its network: enough to build it again.

    Args:
        config: the options of the run.
        info: the facts of its data.
        module: its network.
        networks: the plugins that changed it.
    """
    design = read_design(module)
    return {
        **({DESIGN: design} if design else {}),
        "backbone": config.backbone if ":" not in config.backbone else "factory",
        "num_classes": info.num_classes,
        "channels": info.channels,
        "image_size": info.image_size,
        **({"class_names": info.class_names} if info.class_names else {}),
        **({CHANGED_BY: list(networks)} if networks else {}),
    }
