"""Weights on disk: safetensors files, and the names they have in a run folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from abatis.errors import UsageError
from abatis.system.files import write_bytes

WEIGHTS, WEIGHTS_LAST, WEIGHTS_AVERAGED = (
    "weights.safetensors",
    "weights-last.safetensors",
    "weights-averaged.safetensors",
)


def write_weights(
    path: Path, weights: Mapping[str, Tensor], facts: Mapping[str, Any] | None = None
) -> None:
    """Write a safetensors file whole or not at all.

    It holds no time and no path, so equal weights are equal bytes.

    Args:
        path: the file to write.
        weights: the tensors by name.
        facts: what the file says about them, in plain types.
    """
    # cloned: the format refuses tensors that share memory, as tied weights do
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in weights.items()}
    # one metadata key: the format does not fix the order of several
    metadata = None if facts is None else {"abatis": json.dumps(facts, sort_keys=True)}
    write_bytes(path, save(tensors, metadata))


def find_weights(folder: Path) -> Path:
    """The file of the weights that are judged: averaged ones where a run has them, else the best.

    Raises UsageError where there is neither.
    """
    for name in (WEIGHTS_AVERAGED, WEIGHTS):
        if (folder / name).is_file():
            return folder / name
    raise UsageError(f"no weights in {folder}", fix=f"name a run folder that holds {WEIGHTS}")


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of a safetensors file; raises UsageError where it cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get("abatis", "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118  # no mapping
    except (OSError, SafetensorError, ValueError) as error:
        raise UsageError(
            f"cannot read weights: {error}",
            where=str(path),
            fix="give a .safetensors file or a run folder",
        ) from error
