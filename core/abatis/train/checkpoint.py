"""Checkpoints that exist only when every byte of them verifies.

A checkpoint is written as ``step-N.tmp``: each file is flushed to disk, a manifest with the sha256
and size of each file comes last, then the folder is renamed. Reading takes the newest checkpoint
that verifies; older ones are removed only after a new one has verified.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from abatis.errors import CheckpointError
from abatis.nets.weights_file import WEIGHTS, write_weights
from abatis.system import torch_messages
from abatis.system.files import (
    digest,
    explain_disk_errors,
    flush,
    flush_folder,
    sha256_of,
    write_text,
)

FORMAT = 3
CHECKPOINTS = "checkpoints"  # their folder in a run folder
KEEP = 3  # the newest ones
ROOM = 2  # times the size of the last checkpoint must be free, before a new one is written
GRACE = 30  # seconds from SIGTERM to SIGKILL under torchrun and most schedulers
MOST_OF_IT = 0.6  # a save that takes this share of them is too slow
MANIFEST = "manifest.json"
STATE = "state.pt"
PIECES = ".metadata"  # instead of WEIGHTS: the index of torch.distributed.checkpoint
PIECE = ".distcp"  # the ending of the other files of a checkpoint in pieces
NAME = re.compile(r"step-([0-9]{1,18})(\.old)?")
"""Folders of finished checkpoints; .old is about to be replaced by another one of its step."""

Weights = Mapping[str, Tensor] | Callable[[Path], None]
"""Tensors of the model, or a function that writes them into a folder, in pieces."""


@dataclass(frozen=True)
class Loaded:
    """A checkpoint that verified.

    Attributes:
        step: After which step it was written.
        weights: Tensors of the model; empty where they are in pieces in ``folder``.
        state: The rest of the training state.
        about: What the manifest says about the run.
        folder: The checkpoint's own.
        rejected: Newer checkpoints that did not verify, and why.
    """

    step: int
    weights: dict[str, Tensor]
    state: dict[str, Any]
    about: dict[str, Any]
    folder: Path
    rejected: tuple[str, ...] = ()


def save_checkpoint(
    folder: Path,
    step: int,
    weights: Weights,
    state: Mapping[str, Any],
    about: Mapping[str, Any] | None = None,
    best: int = 0,
) -> Path:
    """Write ``folder/step-N``, then remove all but the newest ones and that of step ``best``.

    Args:
        folder: Holds the checkpoints.
        step: After which step this one is written.
        weights: Tensors of the model, or a function that writes them in pieces.
        state: The rest of the training state.
        about: Facts about the run, in plain types.
        best: The step of the best weights so far.

    Returns:
        The folder of the checkpoint.

    Raises:
        UsageError: The disk refuses. The older checkpoints are then as they were.
    """
    final = place_of(folder, step)
    partial, replaced = final.with_suffix(".tmp"), final.with_suffix(".old")
    with explain_disk_errors(folder):
        _refuse_link(folder)
        folder.mkdir(exist_ok=True)  # without parents: a run folder that is gone is not made again
        _check_room(folder)
        _make_way(partial)
        try:
            partial.mkdir()
            _write(partial, step, weights, state, about or {})
        except Exception:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        if final.exists():
            _make_way(replaced)
            final.rename(replaced)
        partial.rename(final)
        flush_folder(folder)
        if fault := _find_fault(final):
            raise OSError(f"the checkpoint does not read back: {fault}")
        _refuse_link(folder)
    _prune(folder, final, best)
    return final


def place_of(folder: Path, step: int) -> Path:
    """The folder of the checkpoint of a step."""
    return folder / f"step-{step:08d}"


def _write(
    partial: Path, step: int, weights: Weights, state: Mapping[str, Any], about: Mapping[str, Any]
) -> None:
    if callable(weights):
        weights(partial)
    else:
        write_weights(partial / WEIGHTS, weights)
    with (partial / STATE).open("xb") as file:
        torch.save(dict(state), file)
        file.flush()
        flush(file.fileno())
    files = {
        path.name: {"sha256": sha256_of(path), "size": path.stat().st_size}
        for path in sorted(partial.iterdir())
    }
    manifest = {"format": FORMAT, "step": step, **about, "files": files}
    write_text(
        partial / MANIFEST,
        json.dumps({**manifest, "manifest_sha256": digest(manifest)}, indent=2) + "\n",
    )
    flush_folder(partial)


def describe_slow_save(seconds: float) -> str:
    """A warning, if saving takes most of the time between SIGTERM and SIGKILL; else empty."""
    grace = float(os.environ.get("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", GRACE))
    if seconds <= MOST_OF_IT * grace:
        return ""
    return (
        f"warning: writing a checkpoint took {seconds:.3g} s of the {grace:g} s that a run has"
        " after SIGTERM; allow more time, or set --checkpoint-every"
    )


def _check_room(folder: Path) -> None:
    """Raise OSError where the disk would not hold another checkpoint like the last."""
    finished = _list_finished(folder)
    if not finished:
        return
    needed = ROOM * sum(file.stat().st_size for file in finished[-1].iterdir())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"the disk is nearly full: {free >> 20} MiB are free,"
            f" the next checkpoint needs {needed >> 20} MiB"
        )


def _refuse_link(folder: Path) -> None:
    """Raise OSError where the folder of the checkpoints was replaced by a link: not ours behind."""
    if folder.is_symlink():
        raise OSError(f"{folder.name} is a symbolic link now; what is behind it stays as it is")


def _prune(folder: Path, newest: Path, best: int) -> None:
    """Remove old and replaced checkpoints, and the remains of a save that was killed.

    Links, and folders with anything in them that no checkpoint has, stay.
    """
    there = _list_finished(folder)
    kept = {newest, place_of(folder, best), *[path for path in there if not path.suffix][-KEEP:]}
    for path in {*there, *folder.glob("step-*.tmp")} - kept:
        if _is_own(path):
            shutil.rmtree(path, ignore_errors=True)


def _make_way(path: Path) -> None:
    """Remove a folder of ours that is in the place of a new one.

    Raises:
        OSError: there is something else.
    """
    if not (path.exists() or path.is_symlink()):
        return
    if not _is_own(path):
        raise OSError(f"{path.name} is in the way, and this run did not write it")
    shutil.rmtree(path, ignore_errors=True)


def _is_own(path: Path) -> bool:
    """Is this a folder that holds nothing but files of a checkpoint?"""
    if path.is_symlink() or not path.is_dir():
        return False
    usual = {WEIGHTS, STATE, MANIFEST, PIECES}
    return all(
        file.is_file()
        and not file.is_symlink()
        and (file.name.removesuffix(".partial") in usual or file.suffix == PIECE)
        for file in path.iterdir()
    )


def load_checkpoint(folder: Path) -> Loaded | None:
    """The newest checkpoint that verifies; None where there never was one.

    Raises:
        CheckpointError: There are checkpoints, and none is valid.
    """
    rejected: list[str] = []
    for path in reversed(_list_finished(folder)):
        found = read_checkpoint(path)
        if isinstance(found, Loaded):
            return replace(found, rejected=tuple(rejected))
        rejected.append(f"{path.name}: {found}")
    if not rejected:
        return None
    none_valid = CheckpointError(
        f"no valid checkpoint: {'; '.join(rejected)}",
        where=str(folder),
        fix="restore a valid checkpoint, or start over from step 0 with --restart",
    )
    none_valid.rejected = tuple(rejected)
    raise none_valid


def read_checkpoint(path: Path) -> Loaded | str:
    """One checkpoint, or what is wrong with it."""
    if fault := _find_fault(path):
        return fault
    try:
        state = torch.load(path / STATE, map_location="cpu", weights_only=True)
        about = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        weights = load_file(path / WEIGHTS) if WEIGHTS in about["files"] else {}
        return Loaded(about["step"], weights, dict(state), about, path)
    except Exception as error:  # every reader fails in its own way, and all of them mean the same
        return torch_messages.describe_unreadable(error)


def set_aside(folder: Path, rejected: tuple[str, ...]) -> None:
    """Rename rejected checkpoints, so that they are not read again and new ones have room."""
    with explain_disk_errors(folder):
        for name in (text.partition(":")[0] for text in rejected):
            aside = folder / f"{name}.rejected"
            _make_way(aside)
            (folder / name).rename(aside)


def _find_fault(path: Path) -> str:
    """What is wrong with a checkpoint; empty if it verifies."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            return f"format {manifest['format']}, this version reads {FORMAT}"
        if manifest.pop("manifest_sha256") != digest(manifest) or manifest["step"] != int(
            path.stem[5:]
        ):
            return f"{MANIFEST} does not match its own sha256 or its folder"
        for name, entry in manifest["files"].items():
            file = path / name
            if file.parent != path or file.is_symlink() or not file.is_file():
                return f"{name} is not a file of the checkpoint"
            if file.stat().st_size != entry["size"] or sha256_of(file) != entry["sha256"]:
                return f"{name} does not match its sha256"
        files = manifest["files"].keys()
        complete = STATE in files and (WEIGHTS in files or PIECES in files)
        return "" if complete else "files are missing in the manifest"
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        return f"no readable manifest ({type(error).__name__})"


def _list_finished(folder: Path) -> list[Path]:
    """Folders of finished checkpoints, oldest first; of two for a step, the replaced one first."""
    found = []
    for path in folder.glob("step-*"):
        match = NAME.fullmatch(path.name)
        if match and path.is_dir():
            found.append((int(match[1]), match[2] is None, path))
    return [path for _, _, path in sorted(found)]
