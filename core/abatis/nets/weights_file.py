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
from abatis.nets.digest import tensors_digest
from abatis.system.files import digest, write_bytes

WEIGHTS, WEIGHTS_LAST, WEIGHTS_AVERAGED = (
    "weights.safetensors",
    "weights-last.safetensors",
    "weights-averaged.safetensors",
)

CHECKSUM = "content_sha256"  # among the facts of a file: the sha256 of its tensors and facts


def write_weights(
    path: Path, weights: Mapping[str, Tensor], facts: Mapping[str, Any] | None = None
) -> None:
    """Write a safetensors file whole or not at all.

    It holds no time and no path, so equal weights are equal bytes. With facts it also holds the
    sha256 of its tensors and facts.

    Args:
        path: the file to write.
        weights: the tensors by name.
        facts: what the file says about them, in plain types.
    """
    # cloned: the format refuses tensors that share memory, as tied weights do
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in weights.items()}
    # one metadata key: the format does not fix the order of several
    metadata = None
    if facts is not None:
        sealed = {**facts, CHECKSUM: _digest_content(tensors, facts)}
        metadata = {"abatis": json.dumps(sealed, sort_keys=True)}
    write_bytes(path, save(tensors, metadata))


def is_sealed(path: Path) -> bool:
    """Does a safetensors file carry a sha256 of its content? Older versions wrote none."""
    with safe_open(path, framework="pt") as file:
        return f'"{CHECKSUM}"' in (file.metadata() or {}).get("abatis", "")


def _digest_content(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> str:
    return digest({"tensors": tensors_digest(tensors), "facts": facts})


def find_weights(folder: Path) -> Path:
    """The file of the weights that are judged: averaged ones where a run has them, else the best.

    Raises UsageError where there is neither.
    """
    for name in (WEIGHTS_AVERAGED, WEIGHTS):
        if (folder / name).is_file():
            return folder / name
    raise UsageError(f"no weights in {folder}", fix=f"name a run folder that holds {WEIGHTS}")


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of a safetensors file.

    Raises:
        UsageError: it cannot be read, or does not match the sha256 that it carries.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get("abatis", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
        expected = facts.pop(CHECKSUM, None) if isinstance(facts, dict) else None
        if expected not in (None, _digest_content(tensors, facts)):
            raise ValueError("the file does not match its own sha256: it is damaged")
    except (OSError, SafetensorError, ValueError, RecursionError, RuntimeError) as error:
        raise UsageError(
            f"cannot read weights: {error}",
            where=str(path),
            fix="give a .safetensors file or a run folder; restore a damaged file from a backup",
        ) from error
    return tensors, facts if isinstance(facts, dict) else {}


def read_class_names(path: Path) -> tuple[str, ...]:
    """The classes that a safetensors file names, in the order of the outputs; raises UsageError."""
    return parse_class_names(read_weights(path)[1])


def parse_class_names(facts: object) -> tuple[str, ...]:
    """The names of classes among the facts of a network; empty where there are none."""
    found = facts.get("class_names") if isinstance(facts, Mapping) else None
    named = isinstance(found, list) and all(isinstance(name, str) for name in found)
    return tuple(found) if named and found else ()
