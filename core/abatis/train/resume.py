"""Resuming: where a training starts, and whether a run folder and its checkpoints are of this run.

Options, versions, machine and files are compared field by field, so that an error names what
differs.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Collection, Container, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from abatis.config import discovery
from abatis.config.option_sets import FREE_ON_RESUME, LONGER_ON_RESUME, ROUNDED_ON_RESUME
from abatis.config.run_config import RunConfig
from abatis.config.toml import flatten, read_toml
from abatis.data import Data
from abatis.data.digest import digest_split
from abatis.data.extra import sha256_of_extra
from abatis.errors import CheckpointError, UsageError
from abatis.system import distributed
from abatis.system.device import device_name
from abatis.system.environment import read_code, read_providers
from abatis.system.files import digest, sha256_of
from abatis.train.checkpoint import CHECKPOINTS, Loaded, load_checkpoint
from abatis.train.code_digests import digest_code

ROUNDED = ROUNDED_ON_RESUME | {"threads", "cpu"}
"""What may differ, though sums are then rounded differently: options, and facts of the machine."""
UNORDERED = "a GPU makes sums in no fixed order without --deterministic"
LIBRARIES = ("abatis", "torch", "torchvision", "timm")  # whose code makes the numbers of a step


def describe_run(
    config: RunConfig,
    device: torch.device,
    code: Mapping[str, str] | None = None,
    content: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What a checkpoint records about the run that writes it, in plain types.

    Args:
        config: The run.
        device: The device that it uses.
        code: What :func:`abatis.train.code_digests.digest_code` found when the run started.
        content: What :func:`describe_content` said of its images.
    """
    options = config.to_toml()
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    versions |= {plugin.name: plugin.version for plugin in discovery.load_plugins(config.plugin)}
    machine = {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }
    return {
        "world_size": distributed.world_size(),
        "config_sha256": digest(options),
        "options": options,
        "versions": versions,
        "machine": machine,
        "content": dict(content or {}),
        "code": dict(code or {}),
    }


def describe_content(config: RunConfig, data: Data, start: Start) -> dict[str, str]:
    """The digests of what a run reads from outside its options.

    These are the images that it trains on and chooses its weights by, and the files that options of
    plugins name, such as the weights of a teacher. A file that was not there when the training
    began is one that the run writes, and does not count.
    """
    extra = config.extra.file
    before = {} if start.loaded is None else start.loaded.about["content"]
    return {
        "data.train": digest_split(data.train),
        **({} if data.val is None else {"data.val": digest_split(data.val)}),
        **({} if extra is None else {"extra.file": sha256_of_extra(extra)}),
        **{
            name: f"sha256:{sha256_of(path)}"
            for plugin, options in config.options.items()
            for name, path in _find_files(plugin, options.model_dump())
            if not before or name in before
        },
    }


def _find_files(name: str, value: object) -> Iterator[tuple[str, Path]]:
    """The existing files that an option, or an option in a table of options, names."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _find_files(f"{name}.{key}", part)
    elif isinstance(value, Path) or (isinstance(value, str) and Path(value).suffix):
        path = Path(value).expanduser()
        with suppress(OSError, ValueError):  # a text that cannot be a path
            if path.is_file():
                yield name, path


@dataclass(frozen=True)
class Start:
    """Where a training starts: at a checkpoint, or at step 0.

    Args:
        loaded: The checkpoint; None to start at step 0.
        again: Had the training begun before?
        rejected: Checkpoints that are not valid, and why.
        differing: What differs from the checkpoint, or may differ bit by bit without it.
    """

    loaded: Loaded | None = None
    again: bool = False
    rejected: tuple[str, ...] = ()
    differing: tuple[str, ...] = ()

    def describe(self) -> list[str]:
        """What a reader of the run must know about its start; empty for a new training."""
        if self.loaded is None and not self.again:
            return []
        where = (
            "restarted from step 0"
            if self.loaded is None
            else f"resumed after step {self.loaded.step}"
        )
        lines = [where, *(f"checkpoint rejected: {reason}" for reason in self.rejected)]
        return [*lines, f"not bit-exact: {', '.join(self.differing)}"] if self.differing else lines


def find_start(
    config: RunConfig,
    folder: Path,
    device: torch.device,
    judged: bool = False,
    code: Mapping[str, str] | None = None,
) -> Start:
    """The newest valid checkpoint of a run folder, if it is of this run.

    Its images are compared by :func:`check_content`, once they are open.

    Args:
        config: The run that is asked for.
        folder: Its folder.
        device: The device that it will use.
        judged: Is it evaluated already, so that nothing is left to do once the training has ended?
        code: The digests of the code that it will use.

    Raises:
        CheckpointError: where no checkpoint is valid, and ``--restart`` is not given.
        UsageError: where the folder holds another run.
    """
    try:
        loaded = load_checkpoint(folder / CHECKPOINTS)
    except CheckpointError as error:
        if not config.restart:
            raise
        return Start(None, True, error.rejected)
    if loaded is None:
        if not config.restart:
            free = FREE_ON_RESUME | ROUNDED | LONGER_ON_RESUME | list_allowed(config)
            check_same(config, folder, free)
        return Start(None, (folder / "run.toml").exists())
    now, before = describe_run(config, device, code), loaded.about
    with check_fit(loaded):
        finished = is_finished(loaded.state, config)
        if finished:  # no step is left that another machine could change
            before = (
                {**now, "options": before["options"], "code": before.get("code", now["code"])}
                if judged
                else {**before, "machine": now["machine"]}
            )
        differing = check_resumable(before, now, config.allow_mismatch)
        unordered = device.type == "cuda" and not (config.deterministic or finished)
        inexact = (*differing, UNORDERED) if unordered else differing
        return Start(loaded, True, loaded.rejected, inexact)


def check_content(start: Start, content: Mapping[str, str], config: RunConfig) -> Start:
    """Compare the images of a checkpoint with those of the run that is to continue.

    Args:
        start: The answer of :func:`find_start`.
        content: That of :func:`describe_content`.
        config: The run.

    Returns:
        The start, with what differs and was allowed to.

    Raises:
        UsageError: The images differ.
    """
    if start.loaded is None:
        return start
    with check_fit(start.loaded):
        before = dict(start.loaded.about["content"])
        # checkpoints of earlier versions hold no digests of images
        unrecorded = () if "data.train" in before else ("data.train",)
        found = _refuse_differences(before, content, config.allow_mismatch, unrecorded, ())
    return replace(start, differing=(*start.differing, *found.values()))


@contextmanager
def check_fit(loaded: Loaded) -> Iterator[None]:
    """Raise CheckpointError where a checkpoint is intact, but lacks what is read from it inside."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CheckpointError(
            f"the checkpoint of step {loaded.step} does not fit: {type(error).__name__}: {error}",
            fix="start again with another --name",
        ) from error


def is_finished(state: Mapping[str, Any], config: RunConfig) -> bool:
    """Has a saved training ended? It has not where more epochs are asked for now.

    An early stop is final.
    """
    ended = int(state["epochs_ended"])
    return bool(state["finished"]) and (
        ended >= config.epochs or stops_early(ended, state.get("best", {}), config)
    )


def stops_early(epochs_ended: int, best: Mapping[str, float], config: RunConfig) -> bool:
    """Does early stopping end a training after this epoch?

    Args:
        epochs_ended: How many epochs are done.
        best: The best of them, under ``epoch``; empty where there is none.
        config: The run.
    """
    since_best = epochs_ended - int(best.get("epoch", 0))
    return bool(config.early_stop) and since_best >= config.early_stop


def describe_early_stop(epochs_ended: int, best: Mapping[str, float], config: RunConfig) -> str:
    """That early stopping ended a finished training; empty where it did not."""
    if not stops_early(epochs_ended, best, config):
        return ""
    return (
        f"early stopping ended this run after epoch {epochs_ended}: the best epoch was"
        f" {int(best.get('epoch', 0))}"
    )


def check_resumable(
    before: Mapping[str, Any], now: Mapping[str, Any], allowed: Collection[str]
) -> tuple[str, ...]:
    """Compare two answers of :func:`describe_run`.

    Args:
        before: That of the checkpoint.
        now: That of the run which is to continue.
        allowed: Names that may differ.

    Returns:
        What differs and ends the promise of bit-exactness, each as ``name was x, now y``.

    Raises:
        UsageError: where something differs that may not; it names every field.
    """
    old, new = _list_fields(before), _list_fields(now)
    longer = {  # the schedule is then that of the new length
        name for name in LONGER_ON_RESUME if new[name] > old.get(name, 0)
    }
    # checkpoints of earlier versions hold no digests of code
    unrecorded = sorted(now.get("code", {})) if "code" not in before else []
    return tuple(_refuse_differences(old, new, allowed, unrecorded, ROUNDED | longer).values())


def _refuse_differences(
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    allowed: Collection[str],
    unrecorded: Collection[str],
    free: Collection[str],
) -> dict[str, str]:
    """What differs and may, by name; raises UsageError that names all that may not.

    Args:
        before: Everything that may differ, as the checkpoint has it.
        now: The same of the run which is to continue.
        allowed: Names that the user allows to differ.
        unrecorded: Names that the checkpoint cannot know.
        free: Names that may always differ.
    """
    found = find_differences(before, now, FREE_ON_RESUME)
    found |= {name: f"{name} was not recorded" for name in unrecorded}
    named = {_underscore(name) for name in (*allowed, *unrecorded)}
    refused = [name for name in found if _underscore(name) not in named and name not in free]
    if refused:
        flags = " ".join(f"--allow-mismatch {name}" for name in refused)
        raise UsageError(
            f"the checkpoint is from another run: {'; '.join(found[name] for name in refused)}",
            fix=f"give the same options again; or {flags}, and the run is not bit-exact",
        )
    return found


def _list_fields(about: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that may differ, by the name that allows it.

    A device counts by what it is, not by its name.
    """
    fields = {"world_size": about.get("world_size")}
    for table in ("options", "versions", "machine", "code"):
        fields |= dict(flatten(about.get(table, {})))
    fields.pop("extra.file", None)  # its content counts, see describe_content
    return fields


def list_allowed(config: RunConfig) -> frozenset[str]:
    """What ``--allow-mismatch`` names, in every spelling."""
    given = config.allow_mismatch
    return frozenset(
        spelled for name in given for spelled in (name, _underscore(name), name.replace("_", "-"))
    )


def _underscore(name: str) -> str:
    return name.replace("-", "_")


def check_same(
    config: RunConfig, folder: Path, free: Container[str], fix: str = "choose another --name"
) -> None:
    """Raise UsageError where a folder holds a run with other options; it names them all."""
    path = folder / "run.toml"
    if not path.exists():
        return
    found = find_differences(dict(flatten(read_toml(path))), dict(flatten(config.to_toml())), free)
    if found:
        raise UsageError(
            f"{folder} was run with other options: {'; '.join(found.values())}",
            fix=f"give the same options, or {fix}",
        )


def check_files(config: RunConfig, folder: Path, fix: str) -> None:
    """Raise UsageError where code has changed since the run in a folder was made.

    That is the file of a plugin, or what :func:`abatis.train.code_digests.digest_code` finds.
    """
    plugins = discovery.load_plugins(config.plugin)
    files = {plugin.name: plugin.version for plugin in plugins if plugin.file}
    before = {name: version for name, version in read_providers(folder).items() if name in files}
    now = {name: files[name] for name in before}
    code = read_code(folder)
    if code is not None:  # runs of earlier versions recorded none
        before, now = {**before, **code}, {**now, **digest_code(config)}
    found = find_differences(before, now, list_allowed(config))
    if found:
        raise UsageError(
            f"{folder} was run with another version of a file: {'; '.join(found.values())}", fix=fix
        )


def find_differences(
    before: Mapping[str, Any], now: Mapping[str, Any], free: Container[str]
) -> dict[str, str]:
    """Everything that differs and may not, by name: each as ``name was x, now y``."""
    return {
        name: f"{name} was {before.get(name)}, now {now.get(name)}"
        for name in sorted(before.keys() | now.keys())
        if name not in free and before.get(name) != now.get(name)
    }
