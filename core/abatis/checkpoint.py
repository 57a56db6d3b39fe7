"""Checkpoints that exist only when every byte of them verifies.

A checkpoint is written as ``step-N.tmp``, each file flushed to disk, a manifest with the sha256 and size of each file last,
then the folder is renamed. Reading takes the newest one whose manifest verifies; older ones go only after the new one did.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from abatis.errors import CheckpointError, UsageError

FORMAT = 1
KEEP = 3
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Loaded:
    """A checkpoint that verified: tensors of the model, the rest of the training state, and what was rejected before it."""

    step: int
    weights: dict[str, Tensor]
    state: dict[str, Any]
    rejected: tuple[str, ...]


def save_checkpoint(folder: Path, step: int, weights: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
    """Write ``folder/step-N`` and prune the oldest; raises UsageError where the disk refuses."""
    final = folder / f"step-{step:08d}"
    partial = final.with_suffix(".tmp")
    with disk(folder):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write_weights(partial / "weights.safetensors", weights)
        with (partial / "state.pt").open("wb") as file:
            torch.save(dict(state), file)
            _flush(file.fileno())
        entries = {path.name: {"sha256": _sha256(path), "size": path.stat().st_size} for path in sorted(partial.iterdir())}
        write_text(partial / MANIFEST, json.dumps({"format": FORMAT, "step": step, "files": entries}, indent=2) + "\n")
        _flush_folder(partial)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        _flush_folder(folder)
    if not _complaint(final):
        for old in _steps(folder)[:-KEEP]:
            shutil.rmtree(old, ignore_errors=True)
    return final


def load_checkpoint(folder: Path) -> Loaded | None:
    """The newest checkpoint that verifies; None where there never was one; raises CheckpointError where none is valid."""
    rejected: list[str] = []
    for path in reversed(_steps(folder)):
        complaint = _complaint(path)
        if not complaint:
            try:
                state = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
                return Loaded(int(path.name[5:]), load_file(path / "weights.safetensors"), state, tuple(rejected))
            except Exception as error:  # every reader fails in its own way, and all of them mean the same
                complaint = f"{type(error).__name__}: {error}"
        rejected.append(f"{path.name}: {complaint}")
    if rejected:
        raise CheckpointError(f"no valid checkpoint: {'; '.join(rejected)}", where=str(folder),
                              fix="start anew under another --name, or put a valid checkpoint back")  # fmt: skip
    return None


def _complaint(path: Path) -> str:
    """What is wrong with a checkpoint; empty where nothing is."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            return f"format {manifest['format']}, this version reads {FORMAT}"
        for name, entry in manifest["files"].items():
            if (path / name).stat().st_size != entry["size"] or _sha256(path / name) != entry["sha256"]:
                return f"{name} does not match its sha256"
        return "" if {"weights.safetensors", "state.pt"} <= manifest["files"].keys() else "files are missing in the manifest"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"no readable manifest ({type(error).__name__})"


def _steps(folder: Path) -> list[Path]:
    """Folders of finished checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.name[5:].isdigit() and path.is_dir())


def write_weights(path: Path, weights: Mapping[str, Tensor], facts: Mapping[str, Any] | None = None) -> None:
    """A safetensors file, written whole or not at all. It holds no time and no path, so equal weights are equal bytes."""
    # cloned: the format refuses tensors that share memory, as tied weights do
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in weights.items()}
    # one metadata key: the format does not fix the order of several
    metadata = None if facts is None else {"abatis": json.dumps(facts, sort_keys=True)}
    write_bytes(path, save(tensors, metadata))


def write_text(path: Path, text: str) -> None:
    """A text file, written whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """A file that is complete under its name or not there."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        _flush(file.fileno())
    partial.replace(path)


@contextmanager
def disk(path: Path) -> Iterator[None]:
    """Turn the errors of a full, missing or read-only disk into one that says so."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "write" not in str(error) and "enforce fail" not in str(error):
            raise
        raise UsageError(
            f"cannot write: {error}", where=str(path), fix="free or unlock the disk, or choose another --out"
        ) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(descriptor: int) -> None:
    os.fsync(descriptor)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _flush(descriptor)
    finally:
        os.close(descriptor)
