"""What a run knows of its own network that a stranger does not: its training images, an undefended twin, its selection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from abatis.config.run_config import RunConfig
from abatis.data import Data
from abatis.evaluate.masking import Training
from abatis.nets.weights_file import weights_file_of
from abatis.runs.undefended_twin import undefended_twin

TWIN_SHARE, TWIN_EPOCHS = (
    0.2,
    5,
)  # the twin trains for this share of the run's epochs, at most this many
TWIN_RATE = 0.05  # learning rate, where the run's own optimizer is no SGD
DIAGNOSED = 256  # training images


def training_of(config: RunConfig, module: nn.Module, images: Data) -> Training:
    """For the diagnostics that look at the training. The twin is trained only when one of them asks for it."""

    def twin() -> nn.Module:
        return undefended_twin(
            module,
            images.train,
            seed=config.seed,
            epochs=max(1, min(TWIN_EPOCHS, round(TWIN_SHARE * config.epochs))),
            batch_size=config.batch_size,
            lr=config.optim.lr if config.optim.name == "sgd" else TWIN_RATE,
        )

    some = images.train.subset(torch.arange(min(DIAGNOSED, len(images.train))))
    return Training(some, twin, config.threat_model, attacked=config.use.get("attacker") != "none")


def selection(images: Data, folder: Path, epoch: int) -> dict[str, Any]:
    """How the weights that are judged were chosen: those of an epoch, counted from 1."""
    return {
        "weights": weights_file_of(folder).name,
        "selected_at_epoch": epoch,
        "selected_on": "held-out robust accuracy"
        if images.val is not None
        else "nothing: no images were held out",
    }
