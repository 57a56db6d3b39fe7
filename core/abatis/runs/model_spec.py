"""The model that ``defense eval`` is asked about: a run, what was exported, weights, a timm name, a function in a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from abatis.config.run_config import RunConfig
from abatis.config.toml import read_toml
from abatis.data import DataInfo
from abatis.errors import DataError, UsageError, did_you_mean
from abatis.nets.backbones import Normalized, build, first_pass
from abatis.nets.backbones.names import is_factory, resolve
from abatis.nets.programs import load_program
from abatis.nets.weights_file import read_weights, weights_file_of
from abatis.runs.published import HUB, about, from_hub, is_published, load_folder, load_onnx
from abatis.runs.run_folder import load_weights
from abatis.system.timm_import import timm

WEIGHT_FILES = (".safetensors", ".pt", ".pth")
PROGRAMS, ONNX = ".pt2", ".onnx"


@dataclass(frozen=True)
class ModelSpec:
    """What was named, before the data are known; run: the configuration of a run folder, else None."""

    spec: str
    backbone: str | None
    run: RunConfig | None

    @property
    def path(self) -> Path:
        return Path(self.spec).expanduser()

    @property
    def threat(self) -> str | None:
        """What the network was trained against, where that is known."""
        if self.run is not None:
            return self.run.threat
        return str(about(self._folder)["threat"]) if self._exported else None

    def _class_names(self) -> list[str]:
        """In the order of its outputs, where they are known."""
        if self.run is not None or self.path.suffix == ".safetensors":
            file = self.path if self.run is None else weights_file_of(self.path)
            return list(read_weights(file)[1].get("class_names", []))
        return list(about(self._folder).get("class_names", [])) if self._exported else []

    @property
    def _exported(self) -> bool:
        return (self.path.is_dir() or self.path.suffix in (PROGRAMS, ONNX)) and is_published(
            self._folder
        )

    @property
    def _folder(self) -> Path:
        return self.path if self.path.is_dir() else self.path.parent

    def _check_classes(self, info: DataInfo) -> None:
        """Raise DataError where output and label of one number are classes of different names."""
        own = self._class_names() if info.class_names else []
        if own and own != list(info.class_names):
            raise DataError(
                f"the classes of {info.name} are not those of {self.spec}: {', '.join(info.class_names)}",
                fix=f"name the class folders as in the training: {', '.join(own)}",
            )

    def module(self, info: DataInfo, device: torch.device) -> tuple[nn.Module, list[str]]:
        """The network on images in [0, 1], in eval mode on its device, and what to know about it. Raises UsageError."""
        self._check_classes(info)
        module, notes = self._found(info, device)
        module = module.to(device).eval()
        first_pass(
            module,
            torch.zeros(2, info.channels, info.image_size, info.image_size, device=device),
            self.spec,
        )
        return module, notes

    def _found(self, info: DataInfo, device: torch.device) -> tuple[nn.Module, list[str]]:
        if self.run is not None:
            return load_weights(self.path, None), []
        if self.path.is_dir():
            return load_folder(self.path), []
        if self.path.suffix == PROGRAMS:
            return load_program(self.path, device), []
        if self.path.suffix == ONNX:
            return load_onnx(self.path), [
                "the logits are ONNX Runtime's, the gradients those of the weights beside the file"
            ]
        if self.path.suffix in WEIGHT_FILES:
            return _from_file(self.path, self.backbone, info)
        if is_factory(self.spec):
            return build(self.spec, **_shape(info)), []
        return _pretrained(self.spec, info), ["normalisation and weights are timm's own"]


def find_model(spec: str, backbone: str | None, allow_pickle: bool = False) -> ModelSpec:
    """What MODEL means; raises UsageError where it means nothing, or is a pickle and none is allowed."""
    if spec.startswith(HUB):
        return ModelSpec(str(from_hub(spec)), None, None)
    path = Path(spec).expanduser()
    if path.is_dir():
        return ModelSpec(spec, None, _run_of(path))
    if path.suffix in (PROGRAMS, ONNX):
        if not path.is_file():
            raise UsageError(f"no file {spec}", fix="check the path")
        if path.suffix == PROGRAMS and not allow_pickle:
            raise UsageError(
                f"{spec} is a program, and can hold pickles",
                fix="--allow-pickle runs it, if you know where it is from",
            )
        return ModelSpec(spec, None, None)
    if path.suffix in WEIGHT_FILES:
        if not path.is_file():
            raise UsageError(f"no weights file {spec}", fix="check the path")
        if path.suffix != ".safetensors" and not allow_pickle:
            raise UsageError(
                f"{spec} is a pickle, which can hold a program",
                fix="give .safetensors; or --allow-pickle, which loads tensors and runs nothing",
            )
        if backbone is None:
            raise UsageError(
                f"{spec} holds weights, not the network",
                fix="add --backbone NAME or --backbone FILE.py:FACTORY",
            )
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


def _nearest(word: str, known: list[str]) -> str:
    hint = did_you_mean(word, known)
    return hint if hint.startswith("did") else "neither a path nor a timm model"


def _run_of(folder: Path) -> RunConfig | None:
    """The configuration of a run, None for an exported network; raises UsageError for neither, or a plugin that is missing."""
    if (folder / "run.toml").is_file():
        return RunConfig.model_validate(read_toml(folder / "run.toml"))
    if is_published(folder):
        return None
    raise UsageError(
        f"{folder} is no run folder: it holds no run.toml",
        fix="name a folder that defense-run or export wrote",
    )


def _shape(info: DataInfo) -> dict[str, Any]:
    return {
        "num_classes": info.num_classes,
        "channels": info.channels,
        "image_size": info.image_size,
        "mean": info.mean,
        "std": info.std,
    }


def _from_file(path: Path, backbone: str | None, info: DataInfo) -> tuple[nn.Module, list[str]]:
    """Weights of ours (with their normalisation) or of the bare backbone, to which the data's normalisation is added."""
    tensors = read_weights(path)[0] if path.suffix == ".safetensors" else _read_pickled(path)
    module = build(backbone or "", **_shape(info))
    target: nn.Module = module
    notes = []
    if isinstance(module, Normalized) and not any(name.startswith("backbone.") for name in tensors):
        target = module.backbone
        notes.append(f"normalised by the mean and deviation of {info.name}: the file brings none")
    try:
        target.load_state_dict(tensors)
    except RuntimeError as error:
        raise UsageError(
            f"{path} does not fit {backbone}: {str(error).splitlines()[-1].strip()}",
            fix="give the --backbone and --data that the weights were trained with",
        ) from error
    return module, notes


def _read_pickled(path: Path) -> dict[str, Tensor]:
    """The tensors of a .pt or .pth file, unwrapped from the usual dictionaries; code in it is not run."""
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UsageError(
            f"cannot read weights: {str(error).splitlines()[0]}",
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
            f"{path} holds no state_dict", fix="save model.state_dict(), not the model"
        )
    return {name.removeprefix("module."): tensor for name, tensor in found.items()}


def _pretrained(name: str, info: DataInfo) -> nn.Module:
    resolved = resolve(name, info.image_size)
    cfg = timm.models.get_pretrained_cfg(resolved)
    outputs = getattr(cfg, "num_classes", None)
    if outputs not in (None, info.num_classes):
        raise UsageError(
            f"{name} gives {outputs} logits, the data have {info.num_classes} classes",
            fix="choose the data it was trained on, or give a weights file and --backbone",
        )
    return build(name, **_shape(info), pretrained=True)
