"""The best weights so far: files of the run folder, which a resumed run does not believe unseen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from abatis.checkpoint import disk, read_checkpoint, sha256_of, write_weights

WEIGHTS, WEIGHTS_LAST, WEIGHTS_AVERAGED = "weights.safetensors", "weights-last.safetensors", "weights-averaged.safetensors"


def written(folder: Path) -> dict[str, str]:
    """The sha256 of each file that holds the best weights, or those averaged along with them."""
    return {name: sha256_of(folder / name) for name in (WEIGHTS, WEIGHTS_AVERAGED) if (folder / name).is_file()}


def mend(folder: Path, before: Mapping[str, str], checkpoint: Path, facts: Mapping[str, Any]) -> bool:
    """Are the files those that were written ``before``? If not, make them again from the checkpoint of their epoch.

    Equal weights are equal bytes, so the answer is about what lies there in the end.
    """
    if written(folder) == before:
        return True
    found = read_checkpoint(checkpoint)
    if isinstance(found, str) or not found.weights:  # none where they lie in pieces
        return False
    with disk(folder):
        write_weights(folder / WEIGHTS, found.weights, facts)
        if WEIGHTS_AVERAGED in before:
            write_weights(folder / WEIGHTS_AVERAGED, found.state["trainers"]["averaging"]["averaged"], facts)
    return written(folder) == before
