"""Checkpoints that exist only when every byte of them verifies.

A checkpoint is written as ``step-N.tmp``, each file flushed to disk, a manifest with the sha256 and size of each file last,
then the folder is renamed. Reading takes the newest one whose manifest verifies; older ones go only after the new one did.
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
from abatis.system.files import digest, disk, flush, flush_folder, sha256_of, write_text

FORMAT = 3
CHECKPOINTS = "checkpoints"  # their folder in a run folder
KEEP = 3  # the newest ones
ROOM = 2  # times the last checkpoint must be free on the disk: the new one, before an old one goes
GRACE, MOST_OF_IT = 30, 0.6  # seconds from SIGTERM to SIGKILL under torchrun and most schedulers
MANIFEST, STATE = "manifest.json", "state.pt"
PIECES = (
    ".metadata"  # the index of torch.distributed.checkpoint, beside its pieces: instead of WEIGHTS
)
NAME = re.compile(
    r"step-([0-9]{1,18})(\.old)?"
)  # .old: finished, and about to be replaced by another of the same step


Weights = Mapping[str, Tensor] | Callable[[Path], None]


@dataclass(frozen=True)
class Loaded:
    """A checkpoint that verified.

    weights, state: tensors of the model, none where they lie in pieces in ``folder``, and the rest of the training state;
    about: what the manifest says of the run; rejected: the newer ones that did not verify, and why.
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
    """Write ``folder/step-N``, then prune: the newest ones stay, and that of step ``best``.

    weights: tensors of the model, or what writes them in pieces into a folder; about: of the run, in plain types.
    Raises UsageError where the disk refuses; the older ones are then as they were.
    """
    final = place_of(folder, step)
    partial, replaced = final.with_suffix(".tmp"), final.with_suffix(".old")
    with disk(folder):
        folder.mkdir(exist_ok=True)  # without parents: a run folder that is gone is not made again
        _check_room(folder)
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir()
            _write(partial, step, weights, state, about or {})
        except Exception:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        if final.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            final.rename(replaced)
        partial.rename(final)
        flush_folder(folder)
        if complaint := _complaint(final):
            raise OSError(f"what was written does not read back: {complaint}")
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


def too_slow(seconds: float) -> str:
    """A warning where writing a checkpoint takes most of the time between SIGTERM and SIGKILL; else nothing."""
    grace = float(os.environ.get("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", GRACE))
    if seconds <= MOST_OF_IT * grace:
        return ""
    return (
        f"warning: writing a checkpoint took {seconds:.3g} s of the {grace:g} s that are given after SIGTERM; "
        "give more time, or set --checkpoint-every"
    )


def _check_room(folder: Path) -> None:
    """Raise OSError where the disk would not hold another one like the last."""
    needed = ROOM * sum(
        file.stat().st_size for last in _finished(folder)[-1:] for file in last.iterdir()
    )
    if (free := shutil.disk_usage(folder).free) < needed:
        raise OSError(
            f"the disk is nearly full: {free >> 20} MiB are free, the next checkpoint wants {needed >> 20} MiB"
        )


def _prune(folder: Path, newest: Path, best: int) -> None:
    """Remove what a checkpoint that verified makes superfluous: old ones, replaced ones, and what a killed save left."""
    there = _finished(folder)
    kept = {newest, place_of(folder, best), *[path for path in there if not path.suffix][-KEEP:]}
    for path in {*there, *folder.glob("step-*.tmp")} - kept:
        shutil.rmtree(path, ignore_errors=True)


def load_checkpoint(folder: Path) -> Loaded | None:
    """The newest checkpoint that verifies; None where there never was one; raises CheckpointError where none is valid."""
    rejected: list[str] = []
    for path in reversed(_finished(folder)):
        found = read_checkpoint(path)
        if isinstance(found, Loaded):
            return replace(found, rejected=tuple(rejected))
        rejected.append(f"{path.name}: {found}")
    if not rejected:
        return None
    none_valid = CheckpointError(
        f"no valid checkpoint: {'; '.join(rejected)}",
        where=str(folder),
        fix="put a valid checkpoint back, or begin anew from step 0 with --restart",
    )
    none_valid.rejected = tuple(rejected)
    raise none_valid


def read_checkpoint(path: Path) -> Loaded | str:
    """One checkpoint, or what is wrong with it."""
    if complaint := _complaint(path):
        return complaint
    try:
        state = torch.load(path / STATE, map_location="cpu", weights_only=True)
        about = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        weights = load_file(path / WEIGHTS) if WEIGHTS in about["files"] else {}
        return Loaded(about["step"], weights, dict(state), about, path)
    except Exception as error:  # every reader fails in its own way, and all of them mean the same
        return f"{type(error).__name__}: {error}"


def set_aside(folder: Path, rejected: tuple[str, ...]) -> None:
    """Rename what was rejected, so that it neither counts as a checkpoint again nor takes the place of one."""
    with disk(folder):
        for name in (text.partition(":")[0] for text in rejected):
            aside = folder / f"{name}.rejected"
            shutil.rmtree(aside, ignore_errors=True)
            (folder / name).rename(aside)


def _complaint(path: Path) -> str:
    """What is wrong with a checkpoint; empty where nothing is."""
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
                return f"{name} is no file of the checkpoint"
            if file.stat().st_size != entry["size"] or sha256_of(file) != entry["sha256"]:
                return f"{name} does not match its sha256"
        files = manifest["files"].keys()
        return (
            ""
            if STATE in files and (WEIGHTS in files or PIECES in files)
            else "files are missing in the manifest"
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        return f"no readable manifest ({type(error).__name__})"


def _finished(folder: Path) -> list[Path]:
    """Folders of finished checkpoints, oldest first; of two for one step, the one that was replaced first."""
    found = [
        (int(match[1]), match[2] is None, path)
        for path in folder.glob("step-*")
        if (match := NAME.fullmatch(path.name))
    ]
    return [path for _, _, path in sorted(found) if path.is_dir()]
