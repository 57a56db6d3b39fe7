"""The run folder OUT/NAME: who may write into it, what describes the run, and the way back to a network."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tomli_w
from torch import nn

from abatis.config.run_config import RunConfig
from abatis.config.toml import read_toml
from abatis.errors import UsageError
from abatis.nets.backbones import build
from abatis.nets.weights_file import read_weights, weights_file_of
from abatis.runs.run_name import made_up_name
from abatis.system.files import disk, write_text
from abatis.system.folder_lock import LOCK, locked

OF_THIS_MACHINE = ("out", "data_dir", "device", "workers")
RATIO = re.compile(r"(\w+:)?[\d.]+/[\d.]+")  # an option with a slash that is no path
PYTHON = "python:"  # marks what was handed over from Python and cannot be named in a file


@contextmanager
def claimed(config: RunConfig) -> Iterator[Path]:
    """The folder of this run, made and locked; raises UsageError where it exists and is not to be resumed, or is in use."""
    folder = config.out / (config.name or made_up_name(config))
    if not folder.resolve().is_relative_to(config.out.resolve()):
        raise UsageError(
            f"run folder {folder} leads out of {config.out}",
            fix="remove the link, or choose another --name",
        )
    with disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        there = [path for path in folder.iterdir() if path.name != LOCK]
        if there and not config.resumes:
            raise UsageError(
                f"run folder {folder} exists", fix="go on with --resume, or choose another --name"
            )
        links = [path.name for path in there if path.is_symlink()]
        if links:
            raise UsageError(
                f"run folder {folder} holds links: {', '.join(links)}",
                fix="put the files themselves there",
            )
        yield folder


def write_run_toml(folder: Path, config: RunConfig) -> None:
    """The resolved configuration; ``defense-run --config run.toml`` repeats the run."""
    with disk(folder):
        write_text(folder / "run.toml", tomli_w.dumps(config.to_toml()))


def recipe(table: Mapping[str, Any]) -> dict[str, Any]:
    """The run's options without what belongs to this machine; paths become the names of their files."""
    return {key: bare(value) for key, value in table.items() if key not in OF_THIS_MACHINE}


def bare(value: Any) -> Any:
    """Without the folders that lead to a file: of a text, or of every text in a table."""
    if isinstance(value, Mapping):
        return {key: bare(part) for key, part in value.items()}
    if isinstance(value, list):
        return [bare(part) for part in value]
    if not isinstance(value, str) or RATIO.fullmatch(value):
        return value
    return re.sub(r"[^:]*[/\\]", "", value)


def load_weights(folder: Path, model: nn.Module | None) -> nn.Module:
    """A run's network with its weights; built from run.toml and the file's own facts where no model is given."""
    path = weights_file_of(folder)
    tensors, facts = read_weights(path)
    if model is None:
        table = read_toml(folder / "run.toml")
        backbone = str(table["backbone"])
        if backbone.startswith(PYTHON):
            raise UsageError(
                f"the run trained a module of yours, {backbone[len(PYTHON) :]}",
                fix="abatis.load(folder, model=your_module)",
            )
        channels = int(facts["channels"])
        model = build(
            backbone,
            num_classes=int(facts["num_classes"]),
            channels=channels,
            image_size=int(facts["image_size"]),
            mean=[0.0] * channels,
            std=[1.0] * channels,
            pretrained=bool(table["pretrained"]),
            download=False,
        )
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise UsageError(
            f"{path} does not fit the network: {str(error).splitlines()[-1].strip()}"
        ) from error
    return model


def start_from(model: nn.Module, path: Path) -> str:
    """Load weights to fine-tune from; a head of another size keeps its new values. Returns what was done."""
    source = weights_file_of(path) if path.is_dir() else path
    tensors, _ = read_weights(source)
    own = model.state_dict()
    fitting = {
        name: tensor
        for name, tensor in tensors.items()
        if name in own and own[name].shape == tensor.shape
    }
    left = [name for name in own if name not in fitting]
    others = [name for name in left if name not in tensors]
    if others or not fitting or len(left) > 2:
        raise UsageError(
            f"{source} does not fit this backbone: {len(left)} of {len(own)} tensors differ, such as {left[0]}",
            fix="give the --backbone that the weights were trained with",
        )
    model.load_state_dict(fitting, strict=False)
    return f"weights from {source}" + (f", new head ({', '.join(left)})" if left else "")
