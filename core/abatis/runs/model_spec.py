"""The MODEL that a user names: a run, an export, a weights file, a timm name or a function."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from abatis.config.run_config import RunConfig
from abatis.config.toml import read_toml
from abatis.data import DataInfo
from abatis.data.sources.class_folders import describe_order
from abatis.errors import DataError, UsageError, did_you_mean
from abatis.nets.backbones import Normalized, build, check_first_pass
from abatis.nets.backbones.names import is_factory, resolve
from abatis.nets.programs import load_program
from abatis.nets.weights_file import (
    find_weights,
    parse_class_names,
    read_class_names,
    read_weights,
)
from abatis.runs.published import (
    HUB,
    fetch_from_hub,
    is_published,
    load_onnx,
    load_published,
    read_description,
)
from abatis.runs.run_folder import load_weights
from abatis.system import torch_messages
from abatis.system.timm_import import timm

WEIGHT_FILES = (".safetensors", ".pt", ".pth")
PROGRAM = ".pt2"
ONNX = ".onnx"


@dataclass(frozen=True)
class ModelSpec:
    """A model as the user named it; it is loaded when the data are known.

    Args:
        spec: the name, path or folder.
        backbone: of a weights file, the architecture it belongs to.
        run: of a run folder, its configuration.
    """

    spec: str
    backbone: str | None
    run: RunConfig | None

    @property
    def path(self) -> Path:
        return Path(self.spec).expanduser()

    @property
    def threat(self) -> str | None:
        """The threat that the network was trained against, where it is known."""
        if self.run is not None:
            return self.run.threat
        return str(read_description(self._folder)["threat"]) if self._exported else None

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in the order of the outputs; empty where they are not known."""
        if self.run is not None or self.path.suffix == ".safetensors":
            if self.run is None:
                return read_class_names(self.path)
            with suppress(UsageError):  # a run without weights is refused when it is loaded
                return read_class_names(find_weights(self.path))
        if self._exported:
            return parse_class_names(read_description(self._folder))
        return ()

    @property
    def _exported(self) -> bool:
        return (self.path.is_dir() or self.path.suffix in (PROGRAM, ONNX)) and is_published(
            self._folder
        )

    @property
    def _folder(self) -> Path:
        return self.path if self.path.is_dir() else self.path.parent

    def _check_classes(self, info: DataInfo) -> None:
        """Raise DataError where the data have classes that the network does not know."""
        own = self.class_names if info.class_names else ()
        if own and own != info.class_names:
            raise DataError(
                f"the classes of {info.name} are not those of {self.spec}: "
                f"{', '.join(info.class_names)}",
                fix=f"name the class folders as in the training: {', '.join(own)}",
            )

    def module(
        self, info: DataInfo, device: torch.device
    ) -> tuple[nn.Module, list[str], list[str]]:
        """Load the network and try it on one batch.

        Args:
            info: the facts of the data that it will be judged on.
            device: where the network will be.

        Returns:
            The network in eval mode, on images in [0, 1]; notes for the user; and reasons to doubt
            that its outputs and the labels number the classes alike.

        Raises:
            UsageError: it cannot be loaded, or does not take such images.
            DataError: its classes are not those of the data.
        """
        self._check_classes(info)
        module, notes = self.load(info, device)
        module = module.to(device).eval()
        logits = check_first_pass(
            module,
            torch.zeros(2, info.channels, info.image_size, info.image_size, device=device),
            self.spec,
        )
        return module, notes, self._doubt_labels(info, logits.shape[1])

    def _doubt_labels(self, info: DataInfo, outputs: int) -> list[str]:
        """Sentences where labels and outputs are matched by place, and places could differ."""
        own, doubts = self.class_names, []
        if info.class_names and not own and describe_order(info.class_names):
            doubts.append(
                f"the weights carry no class names: output 0 is taken as {info.class_names[0]!r}, "
                f"and so on; {info.note}"
            )
        if own and not info.class_names and describe_order(own):
            doubts.append(
                f"{info.name} has no class names: label 0 is taken as {own[0]!r}, and so on; "
                f"{describe_order(own)}"
            )
        if outputs > info.num_classes:
            doubts.append(
                f"the network has {outputs} outputs and {info.name} {info.num_classes} classes: "
                f"label i is taken as output i"
            )
        return doubts

    def load(self, info: DataInfo, device: torch.device) -> tuple[nn.Module, list[str]]:
        """Load the network, and ask it nothing.

        Args:
            info: the facts of the data that it will be judged on.
            device: for a program, which belongs to one.

        Returns:
            The network and notes for the user.

        Raises:
            UsageError: it cannot be loaded.
        """
        if self.run is not None:
            return load_weights(self.path, None), []
        if self.path.is_dir():
            return load_published(self.path), []
        if self.path.suffix == PROGRAM:
            return load_program(self.path, device), []
        if self.path.suffix == ONNX:
            return load_onnx(self.path), [
                "logits are computed by ONNX Runtime, gradients by the weights beside the file"
            ]
        if self.path.suffix in WEIGHT_FILES:
            return _load_weights_file(self.path, self.backbone, info)
        if is_factory(self.spec):
            return build(self.spec, **_describe_images(info)), []
        return _build_pretrained(self.spec, info), ["normalisation and weights are timm's own"]


def find_model(spec: str, backbone: str | None, allow_pickle: bool = False) -> ModelSpec:
    """Find what MODEL means.

    Args:
        spec: the name, path or folder that the user gave.
        backbone: the architecture of a weights file.
        allow_pickle: may a file be loaded that can hold pickles?

    Raises:
        UsageError: there is no such model, or it can hold pickles and none are allowed.
    """
    if spec.startswith(HUB):
        return ModelSpec(str(fetch_from_hub(spec)), None, None)
    path = Path(spec).expanduser()
    if path.is_dir():
        return ModelSpec(spec, None, _read_run_config(path))
    if path.suffix in (PROGRAM, ONNX):
        _check_program(path, spec, allow_pickle)
        return ModelSpec(spec, None, None)
    if path.suffix in WEIGHT_FILES:
        _check_weights_file(path, spec, backbone, allow_pickle)
        return ModelSpec(spec, backbone, None)
    if is_factory(spec) or timm.is_model(spec):
        return ModelSpec(spec, None, None)
    known = [
        *(str(one) for one in Path().glob("runs/*") if one.is_dir()),
        *timm.list_models(pretrained=True),
    ]
    raise UsageError(
        f"no model '{spec}': {_nearest(spec, known)}",
        fix="name a run folder, a weights file (with --backbone), a timm model, or FILE.py:FACTORY",
    )


def _check_program(path: Path, spec: str, allow_pickle: bool) -> None:
    if not path.is_file():
        raise UsageError(f"no file {spec}", fix="check the path")
    if path.suffix == PROGRAM and not allow_pickle:
        raise UsageError(
            f"{spec} is a program and can contain pickles",
            fix="add --allow-pickle if you trust where it comes from; it is then run",
        )


def _check_weights_file(path: Path, spec: str, backbone: str | None, allow_pickle: bool) -> None:
    if not path.is_file():
        raise UsageError(f"no weights file {spec}", fix="check the path")
    if path.suffix != ".safetensors" and not allow_pickle:
        raise UsageError(
            f"{spec} is a pickle, which can contain a program",
            fix="give .safetensors; or --allow-pickle, which loads tensors and runs no code",
        )
    if backbone is None:
        raise UsageError(
            f"{spec} holds weights without the network",
            fix="add --backbone NAME or --backbone FILE.py:FACTORY",
        )


def _nearest(word: str, known: list[str]) -> str:
    hint = did_you_mean(word, known)
    return hint if hint.startswith("did") else "neither a path nor a timm model"


def _read_run_config(folder: Path) -> RunConfig | None:
    """Return the configuration of a run folder, None for an exported network.

    Raises:
        UsageError: the folder is neither, or a plugin of the run is not installed.
    """
    if (folder / "run.toml").is_file():
        return RunConfig.model_validate(read_toml(folder / "run.toml"))
    if is_published(folder):
        return None
    raise UsageError(
        f"{folder} is not a run folder: it has no run.toml",
        fix="name a folder that defense-run or defense export wrote",
    )


def _describe_images(info: DataInfo) -> dict[str, Any]:
    """The arguments of :func:`build` that depend on the data."""
    return {
        "num_classes": info.num_classes,
        "channels": info.channels,
        "image_size": info.image_size,
        "mean": info.mean,
        "std": info.std,
    }


def _load_weights_file(
    path: Path, backbone: str | None, info: DataInfo
) -> tuple[nn.Module, list[str]]:
    """Load our weights, which have the normalisation, or those of the backbone alone.

    The latter get the normalisation of the data.
    """
    tensors = read_weights(path)[0] if path.suffix == ".safetensors" else _read_pickled(path)
    module = build(backbone or "", **_describe_images(info))
    target: nn.Module = module
    notes = []
    if isinstance(module, Normalized) and not any(name.startswith("backbone.") for name in tensors):
        target = module.backbone
        notes.append(
            f"normalised by the mean and standard deviation of {info.name}: the file has none"
        )
    try:
        target.load_state_dict(tensors)
    except RuntimeError as error:
        raise UsageError(
            f"{path} does not fit {backbone}: {str(error).splitlines()[-1].strip()}",
            fix="give the --backbone and --data that the weights were trained with",
        ) from error
    return module, notes


def _read_pickled(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a .pt or .pth file or of the usual dictionaries in it; runs no code."""
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UsageError(
            f"cannot read weights: {torch_messages.describe_unreadable(error)}",
            where=str(path),
            fix="save a plain state_dict, or a .safetensors file",
        ) from error
    for key in ("state_dict", "model", "net"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not all(
        isinstance(value, Tensor) for value in found.values()
    ):
        raise UsageError(
            f"{path} does not hold a state_dict", fix="save model.state_dict(), not the model"
        )
    return {name.removeprefix("module."): tensor for name, tensor in found.items()}


def _build_pretrained(name: str, info: DataInfo) -> nn.Module:
    resolved = resolve(name, info.image_size)
    cfg = timm.models.get_pretrained_cfg(resolved)
    outputs = getattr(cfg, "num_classes", None)
    if outputs not in (None, info.num_classes):
        raise UsageError(
            f"{name} has {outputs} outputs, but the data have {info.num_classes} classes",
            fix="choose the data set it was trained on, or give a weights file and --backbone",
        )
    return build(name, **_describe_images(info), pretrained=True)
