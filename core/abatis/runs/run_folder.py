"""The run folder OUT/NAME: claiming it, its options, and loading its network again."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import tomli_w
from torch import Tensor, nn

from abatis.config.option_sets import OF_THIS_MACHINE
from abatis.config.run_config import RunConfig
from abatis.config.toml import read_toml
from abatis.errors import UsageError
from abatis.nets.backbones import build
from abatis.nets.backbones.from_repository import find_folder, is_repository
from abatis.nets.backbones.names import is_factory
from abatis.nets.backbones.own_options import DESIGN
from abatis.nets.backbones.zoo.loading import start_from_zoo
from abatis.nets.backbones.zoo.table import find_zoo, is_zoo
from abatis.nets.digest import tensors_digest
from abatis.nets.normalising import UNWRAPPED, Normalized
from abatis.nets.weights import Contents, load_into, read_contents, start_from
from abatis.nets.weights.contents import WHOLE
from abatis.nets.weights_file import find_weights, is_sealed, read_weights
from abatis.report.eval_record import RECORD, read_record
from abatis.runs.network import change_again
from abatis.runs.run_name import make_up_name
from abatis.system.files import explain_disk_errors, sha256_of, write_text
from abatis.system.folder_lock import LOCK, lock_folder

RATIO = re.compile(r"(\w+:)?[\d.]+/[\d.]+")  # an option with a slash that is no path
LARGEST = 10**6  # classes, channels or pixels of a side that a weights file may name
SIZES = ("num_classes", "channels", "image_size")  # facts in a weights file
PYTHON = "python:"  # marks a network or data set that was given from Python


@contextmanager
def claim_folder(config: RunConfig) -> Iterator[Path]:
    """Make and lock the folder of this run.

    Folders that this made are removed again where nothing was written into them.

    Yields:
        The folder.

    Raises:
        UsageError: it exists and the run does not resume, or another process uses it.
    """
    folder = config.out / (config.name or make_up_name(config))
    if not folder.resolve().is_relative_to(config.out.resolve()):
        raise UsageError(
            f"run folder {folder} leads out of {config.out}",
            fix="remove the link, or choose another --name",
        )
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        with explain_disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with lock_folder(folder):
            _check_content(folder, config.resumes)
            yield folder
    finally:
        with suppress(OSError):  # the first that is not empty, or not there
            for path in missing:
                path.rmdir()


def _check_content(folder: Path, resumes: bool) -> None:
    """Raise UsageError where a folder holds a run that does not resume, or links."""
    found = [path for path in folder.iterdir() if path.name != LOCK]
    if found and not resumes:
        raise UsageError(
            f"run folder {folder} already exists",
            fix="continue that run with --resume, or choose another --name",
        )
    links = [path.name for path in found if path.is_symlink()]
    if links:
        raise UsageError(
            f"run folder {folder} contains symbolic links: {', '.join(links)}",
            fix="replace them by the files themselves",
        )


def write_run_toml(folder: Path, config: RunConfig) -> None:
    """Write the resolved options; ``defense-run --config run.toml`` repeats the run."""
    with explain_disk_errors(folder):
        write_text(folder / "run.toml", tomli_w.dumps(config.to_toml()))


def portable_options(table: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a run without those of this machine; paths become names of files."""
    return {key: strip_folders(value) for key, value in table.items() if key not in OF_THIS_MACHINE}


def strip_folders(value: Any) -> Any:
    """A text, or every text in a table, without the folders that lead to a file."""
    if isinstance(value, Mapping):
        return {key: strip_folders(part) for key, part in value.items()}
    if isinstance(value, list):
        return [strip_folders(part) for part in value]
    if not isinstance(value, str) or RATIO.fullmatch(value):
        return value
    return re.sub(r"[^:]*[/\\]", "", value)


def load_weights(folder: Path, model: nn.Module | None) -> nn.Module:
    """Load the weights of a run into a network.

    Args:
        folder: the run folder.
        model: a network of the same kind, as the run was given it; if None, it is built from
            run.toml and what the weights file says. The run's plugins change it as in the run.

    Raises:
        UsageError: there are no weights, or they do not fit the network.
    """
    path = find_weights(folder)
    tensors, facts = _read_checked(folder, path)
    options = folder / "run.toml"
    if model is None:
        model = _build_again(options, path, facts)
    model = change_again(options, facts, model)
    return load_into(model, Contents(path, {WHOLE: tensors}, facts), "the network").module


def load_into_network(folder: Path, model: nn.Module) -> nn.Module:
    """Load the weights of a run into its own network, as its plugins changed it.

    Raises:
        UsageError: there are no weights, or they do not fit the network.
    """
    path = find_weights(folder)
    tensors, facts = _read_checked(folder, path)
    return load_into(model, Contents(path, {WHOLE: tensors}, facts), "the network").module


def _read_checked(folder: Path, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of a weights file; raises UsageError where they are not the run's."""
    tensors, facts = read_weights(path)
    if not is_sealed(path):
        _check_unsealed(path, facts)
        _compare_with_record(folder, path, tensors)
    return tensors, facts


def _check_unsealed(path: Path, facts: Mapping[str, Any]) -> None:
    """Raise UsageError where weights have no sha256 because their header is damaged.

    Those of older versions have none, but all facts, and no others.
    """
    if not facts or set(facts) - {"backbone", *SIZES, "class_names"}:
        raise UsageError(
            "cannot read weights: the header of the file is damaged",
            where=str(path),
            fix="restore the file from a backup",
        )


def _compare_with_record(folder: Path, path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise UsageError where weights without a sha256 are not those that were evaluated."""
    record = read_record(folder)
    if record.get("weights") != path.name or record.get("weights_sha256") is None:
        return
    if record["weights_sha256"] != tensors_digest(tensors):
        raise UsageError(
            f"the weights in {folder} are not the ones that were evaluated",
            where=str(path),
            fix="restore the file from a backup; if it is right, delete eval.json",
        )


def _build_again(options: Path, weights: Path, facts: Mapping[str, Any]) -> nn.Module:
    """Build the network of a run from its run.toml and the facts of its weights file."""
    table = read_toml(options)
    backbone = table.get("backbone")
    if not isinstance(backbone, str) or not isinstance(table.get("pretrained", False), bool):
        raise UsageError(
            f"{options} is damaged: it names no backbone", fix="restore it from a backup"
        )
    if backbone.startswith(PYTHON):
        raise UsageError(
            f"the network of this run was given from Python: {backbone.removeprefix(PYTHON)}",
            fix="give it again: abatis.load(folder, model=your_module)",
        )
    sizes = [facts.get(name) for name in SIZES]
    whole = [size for size in sizes if type(size) is int and 0 < size < LARGEST]
    if len(whole) < len(sizes):
        raise UsageError(
            "the weights file does not say how many classes, channels and pixels it is for",
            where=str(weights),
            fix="restore the file from a backup, or give the network: abatis.load(folder, model=)",
        )
    classes, channels, image_size = whole
    mean, std = [0.0] * channels, [1.0] * channels  # the weights bring their own
    net = build(
        backbone,
        num_classes=classes,
        channels=channels,
        image_size=image_size,
        mean=mean,
        std=std,
        pretrained=table.get("pretrained", False),
        download=False,
        own=_read_own_options(table),
        zoo_dir=None,  # the weights of the run are loaded next
    )
    wraps = is_factory(backbone) and table.get("normalize", "data") not in UNWRAPPED
    return Normalized(net, mean, std) if wraps else net


def _read_own_options(table: Mapping[str, Any]) -> dict[str, str]:
    """The options of our own networks that a run.toml has and that change what a network is."""
    given = {name: table.get(f"backbone_{name}") for name in DESIGN}
    return {name: value for name, value in given.items() if isinstance(value, str)}


def check_weights(folder: Path, expected: Mapping[str, str]) -> None:
    """Check the weights of a finished run.

    Args:
        folder: the run folder.
        expected: the sha256 of each file, as the last checkpoint has it.

    Raises:
        UsageError: a file is missing, or is not as the training left it.
    """
    for name, sha256 in expected.items():
        path = folder / name
        if not path.is_file() or sha256_of(path) != sha256:
            raise UsageError(
                f"{name} of this finished run is damaged or missing",
                where=str(path),
                fix=f"restore it from a backup; or delete {name} and {RECORD}, and resume again "
                "to make it from its checkpoint",
            )


def find_start(config: RunConfig) -> Path:
    """The file or folder that ``--init`` names; a repository is downloaded where it must be."""
    name = str(config.init)
    if is_zoo(name):
        return find_zoo(name, config.zoo_dir).require_file(config.zoo_dir)
    return find_folder(name) if is_repository(name) else Path(name).expanduser()


def initialise(model: nn.Module, config: RunConfig, name: str) -> str:
    """Load the weights of ``--init``; a head of another size keeps its new random values.

    Args:
        model: the network, which is changed.
        config: says which weights.
        name: of the network, for messages.

    Returns:
        What was done, in words.

    Raises:
        UsageError: the weights do not fit the network, or bring another normalisation than the one
            that was asked for.
    """
    asked = _read_normalisation(model)
    done = _start_from_init(model, config, name)
    if config.normalize != "data" and _read_normalisation(model) != asked:
        raise UsageError(
            f"--normalize {config.normalize}: the weights of --init bring another normalisation",
            fix="leave --normalize out",
        )
    return done


def _read_normalisation(model: nn.Module) -> list[list[float]]:
    """Mean and standard deviation of the layer before a network; empty where there is none."""
    if not isinstance(model, Normalized):
        return []
    return [buffer.flatten().tolist() for buffer in model.normalize.buffers()]


def _start_from_init(model: nn.Module, config: RunConfig, name: str) -> str:
    if is_zoo(str(config.init)):
        return start_from_zoo(model, str(config.init), config.zoo_dir, name, config.weights_key)
    path = find_start(config)
    if not (path / "run.toml").is_file():
        return start_from(model, read_contents(path, config.allow_pickle), name, config.weights_key)
    source = find_weights(path)
    tensors, facts = read_weights(source)
    if not is_sealed(source):
        _compare_with_record(path, source, tensors)
    return start_from(model, Contents(source, {WHOLE: tensors}, facts), name)
