"""What a run must have in common with what lies in its folder, field by field."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Collection, Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from abatis.config import discovery
from abatis.config.run_config import RunConfig
from abatis.config.toml import flat, read_toml
from abatis.data.extra import content_of
from abatis.errors import CheckpointError, UsageError
from abatis.system import distributed
from abatis.system.device import device_name
from abatis.system.environment import provided
from abatis.system.files import digest
from abatis.train.checkpoint import CHECKPOINTS, Loaded, load_checkpoint

FREE = {"out", "workers", "data_dir", "eval", "checkpoint_every", "nproc", "max_restarts", "track"}
"""Options that may change: they change nothing that a step computes."""
ROUNDED = {"device", "threads", "cpu"}
"""What may change, too, though sums are then rounded otherwise."""
LIBRARIES = ("abatis", "torch", "torchvision", "timm")  # whose code makes the numbers of a step


def about_run(config: RunConfig, device: torch.device) -> dict[str, Any]:
    """What a checkpoint says of the run that writes it, in plain types."""
    options = config.to_toml()
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    versions |= {plugin.name: plugin.version for plugin in discovery.load_all(config.plugin)}
    machine = {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }
    content = {} if config.extra.file is None else {"extra.file": content_of(config.extra.file)}
    return {
        "world_size": distributed.world_size(),
        "config_sha256": digest(options),
        "options": options,
        "versions": versions,
        "machine": machine,
        "content": content,
    }


@dataclass(frozen=True)
class Start:
    """Where a training starts: at a checkpoint, or at step 0 (``again`` where it had begun before).

    rejected: checkpoints that are not valid, and why; differing: what is not as in the checkpoint.
    """

    loaded: Loaded | None = None
    again: bool = False
    rejected: tuple[str, ...] = ()
    differing: tuple[str, ...] = ()

    def told(self) -> list[str]:
        """What a reader of the run must know of it; nothing where the run began here."""
        if self.loaded is None and not self.again:
            return []
        where = (
            "begun anew from step 0"
            if self.loaded is None
            else f"resumed after step {self.loaded.step}"
        )
        lines = [where, *(f"checkpoint rejected: {reason}" for reason in self.rejected)]
        return [*lines, f"not bit-exact: {', '.join(self.differing)}"] if self.differing else lines


def find_start(
    config: RunConfig, folder: Path, device: torch.device, judged: bool = False
) -> Start:
    """The newest valid checkpoint of a run folder, if it is one of this run; raises CheckpointError or UsageError.

    judged: is there nothing left to do where the training has ended?
    """
    try:
        loaded = load_checkpoint(folder / CHECKPOINTS)
    except CheckpointError as error:
        if not config.restart:
            raise
        return Start(None, True, error.rejected)
    if loaded is None:
        if not config.restart:
            check_same(
                config, folder, FREE | ROUNDED | {"epochs", *map(_plain, config.allow_mismatch)}
            )
        return Start(None, (folder / "run.toml").exists())
    now, before = about_run(config, device), loaded.about
    with fitting(loaded):
        if is_finished(
            loaded.state, config
        ):  # nothing is trained any more, so it does not matter on what machine
            before = (
                {**now, "options": before["options"]}
                if judged
                else {**before, "machine": now["machine"]}
            )
        return Start(
            loaded, True, loaded.rejected, check_resumable(before, now, config.allow_mismatch)
        )


@contextmanager
def fitting(loaded: Loaded) -> Iterator[None]:
    """Raise CheckpointError where a checkpoint verifies, but does not hold what is looked for in it."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CheckpointError(
            f"the checkpoint of step {loaded.step} does not fit: {type(error).__name__}: {error}",
            fix="begin anew under another --name",
        ) from error


def is_finished(state: Mapping[str, Any], config: RunConfig) -> bool:
    """Has a saved training ended? A longer one may have been asked for since; early stopping stays final."""
    return bool(state["finished"]) and (
        bool(config.early_stop) or state["epochs_ended"] >= config.epochs
    )


def check_resumable(
    before: Mapping[str, Any], now: Mapping[str, Any], allowed: Collection[str]
) -> tuple[str, ...]:
    """What differs between two answers of :func:`about_run` and ends the promise of bit-exactness: ``name was x, now y``.

    Raises UsageError, field by field, for what may not differ unless it is allowed by name.
    """
    named = {_plain(name) for name in allowed}
    old, new = _fields(before), _fields(now)
    found = differences(old, new, FREE)
    longer = (
        {"epochs"} if new["epochs"] > old.get("epochs", 0) else set()
    )  # by the schedule of the new length
    refused = [name for name in found if _plain(name) not in named and name not in ROUNDED | longer]
    if refused:
        flags = " ".join(f"--allow-mismatch {name}" for name in refused)
        raise UsageError(
            f"the checkpoint is of another run: {'; '.join(found[name] for name in refused)}",
            fix=f"give the same again; or {flags}, and the run is not bit-exact",
        )
    return tuple(found.values())


def _fields(about: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that may differ, by the name that allows it. Of device and files, what they are and not their names."""
    fields = {"world_size": about.get("world_size")}
    for table in ("options", "versions", "machine", "content"):
        fields |= dict(flat(about.get(table, {})))
    return fields


def _plain(name: str) -> str:
    return name.replace("-", "_")


def check_same(
    config: RunConfig, folder: Path, free: Container[str], fix: str = "choose another --name"
) -> None:
    """Raise UsageError, option by option, where a folder holds another run than the one that is asked for."""
    path = folder / "run.toml"
    if not path.exists():
        return
    found = differences(dict(flat(read_toml(path))), dict(flat(config.to_toml())), free)
    if found:
        raise UsageError(
            f"{folder} was run with other options: {'; '.join(found.values())}",
            fix=f"give the same options, or {fix}",
        )


def check_files(config: RunConfig, folder: Path, fix: str) -> None:
    """Raise UsageError where a folder's run was made with other contents of a plugin's file than there are now."""
    files = {
        plugin.name: plugin.version for plugin in discovery.load_all(config.plugin) if plugin.file
    }
    before = {name: version for name, version in provided(folder).items() if name in files}
    found = differences(
        before,
        {name: files[name] for name in before},
        {name.replace("_", "-") for name in config.allow_mismatch},
    )
    if found:
        raise UsageError(
            f"{folder} was run with another file: {'; '.join(found.values())}", fix=fix
        )


def differences(
    before: Mapping[str, Any], now: Mapping[str, Any], free: Container[str]
) -> dict[str, str]:
    """``name was x, now y`` of everything that differs and is not free to, by name."""
    return {
        name: f"{name} was {before.get(name)}, now {now.get(name)}"
        for name in sorted(before.keys() | now.keys())
        if name not in free and before.get(name) != now.get(name)
    }
