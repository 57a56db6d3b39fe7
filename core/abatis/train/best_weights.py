"""The best weights so far: files in the run folder, checked before a resumed run uses them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from abatis.errors import CheckpointError
from abatis.nets.weights_file import WEIGHTS, WEIGHTS_AVERAGED, write_weights
from abatis.system import distributed
from abatis.system.files import explain_disk_errors, sha256_of
from abatis.train.checkpoint import CHECKPOINTS, Loaded, place_of, read_checkpoint
from abatis.train.training import Progress, Training

Weights = Mapping[str, Tensor]


def keep_best(
    training: Training,
    progress: Progress,
    accuracies: Mapping[str, float],
    judged: nn.Module | None = None,
) -> None:
    """Write the weights of the epoch that has just ended, if they are the best so far.

    Robust accuracy counts, then clean accuracy. Without held-out images the last epoch is the best.

    Args:
        training: What is trained.
        progress: Remembers the best epoch and its files.
        accuracies: ``val_robust_acc`` and ``val_clean_acc``; empty without held-out images.
        judged: The network that holds the judged weights, where they have a file of their own.
    """
    best = progress.best
    robust = accuracies.get("val_robust_acc", 0.0)
    clean = accuracies.get("val_clean_acc", 0.0)
    if best and accuracies and (robust, clean) <= (best["val_robust_acc"], best["val_clean_acc"]):
        return
    progress.best = {
        "epoch": progress.epochs_ended,
        "val_robust_acc": robust,
        "val_clean_acc": clean,
    }
    training.write_weights(WEIGHTS, training.net.module)
    if judged is not None:
        training.write_weights(WEIGHTS_AVERAGED, judged)
    progress.best_files = hash_best(training.folder)


def find_best_step(training: Training, progress: Progress) -> int:
    """After which step the weights were the best."""
    return int(progress.best.get("epoch", 0)) * training.steps_per_epoch


def restore_best(training: Training, progress: Progress) -> None:
    """Check the best weights of an earlier process; rewrite them from their checkpoint if needed.

    If that is gone too, best-epoch selection starts over.

    Raises:
        CheckpointError: They are damaged, and the training is finished.
    """
    checkpoint = place_of(training.folder / CHECKPOINTS, find_best_step(training, progress))
    first = distributed.rank() == 0
    if distributed.first_says(not first or _rewrite_best(training, progress, checkpoint)):
        return
    if progress.finished:
        raise CheckpointError(
            "the best weights are damaged, and the checkpoint of their epoch is missing",
            where=str(training.folder),
            fix="restore the files from a backup, or start over under another --name",
        )
    progress.best = {}
    progress.best_files = {}


def hash_best(folder: Path) -> dict[str, str]:
    """The sha256 of each file that holds the best weights, or the averages that go with them."""
    names = [name for name in (WEIGHTS, WEIGHTS_AVERAGED) if (folder / name).is_file()]
    return {name: sha256_of(folder / name) for name in names}


def _rewrite_best(training: Training, progress: Progress, checkpoint: Path) -> bool:
    """Are the files the best weights, if need be written again? Equal weights are equal bytes."""
    folder = training.folder
    if hash_best(folder) == progress.best_files:
        return True
    loaded = read_checkpoint(checkpoint)
    if isinstance(loaded, str):
        return False
    weights, averaged = _read_weights(training, loaded)
    with explain_disk_errors(folder):
        facts = training.describe_weights(loaded.state.get("extra_state", {}))
        write_weights(folder / WEIGHTS, weights, facts)
        if WEIGHTS_AVERAGED in progress.best_files:
            write_weights(folder / WEIGHTS_AVERAGED, *_split(training, averaged))
    return hash_best(folder) == progress.best_files


def _split(training: Training, state: Mapping[str, Any]) -> tuple[Weights, dict[str, Any]]:
    """Tensors of a network's state, and the facts of their file, which hold the rest."""
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    extra = {name: value for name, value in state.items() if name not in tensors}
    return tensors, training.describe_weights(extra)


def _read_weights(training: Training, loaded: Loaded) -> tuple[Weights, Mapping[str, Any]]:
    """The weights of a checkpoint, and those that were judged."""
    if training.net.sharding is not None:
        return training.net.sharding.join(loaded.folder, twin=training.twin is not None)
    if training.averaging is not None and training.plan.judged_by == "averaging":
        return loaded.weights, loaded.state["trainers"].get("averaging", {}).get("averaged", {})
    trained = {**loaded.weights, **loaded.state.get("extra_state", {})}
    return loaded.weights, loaded.state.get("judged") or trained
