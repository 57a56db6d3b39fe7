"""The best weights so far: files of the run folder, which a resumed run does not believe unseen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from abatis.nets.weights_file import write_weights
from abatis.system.files import disk, sha256_of
from abatis.train.checkpoint import read_checkpoint

WEIGHTS, WEIGHTS_LAST, WEIGHTS_AVERAGED = (
    "weights.safetensors",
    "weights-last.safetensors",
    "weights-averaged.safetensors",
)

Join = Callable[[Path], tuple[Mapping[str, Tensor], Mapping[str, Tensor]]]


def best_digests(folder: Path) -> dict[str, str]:
    """The sha256 of each file that holds the best weights, or those averaged along with them."""
    return {
        name: sha256_of(folder / name)
        for name in (WEIGHTS, WEIGHTS_AVERAGED)
        if (folder / name).is_file()
    }


def restore_best(
    folder: Path,
    before: Mapping[str, str],
    checkpoint: Path,
    facts: Mapping[str, Any],
    join: Join | None = None,
) -> bool:
    """Are the files those that were best_digests ``before``? If not, make them again from the checkpoint of their epoch.

    join: reads the weights of a checkpoint in pieces, and the averaged ones.
    Equal weights are equal bytes, so the answer is about what lies there in the end.
    """
    if best_digests(folder) == before:
        return True
    found = read_checkpoint(checkpoint)
    if isinstance(found, str):
        return False
    weights: Mapping[str, Tensor]
    averaged: Mapping[str, Tensor]
    if join is None:
        weights, averaged = (
            found.weights,
            found.state["trainers"].get("averaging", {}).get("averaged", {}),
        )
    else:
        weights, averaged = join(checkpoint)
    with disk(folder):
        write_weights(folder / WEIGHTS, weights, facts)
        if WEIGHTS_AVERAGED in before:
            write_weights(folder / WEIGHTS_AVERAGED, averaged, facts)
    return best_digests(folder) == before
