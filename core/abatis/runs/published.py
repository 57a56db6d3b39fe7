"""A published network: a folder with model.safetensors and config.json, here or on the Hugging Face hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from abatis.errors import UsageError
from abatis.nets.backbones import Normalized
from abatis.nets.backbones.from_timm import brief
from abatis.nets.digest import weights_digest
from abatis.nets.programs import OnnxValues
from abatis.nets.weights_file import read_weights
from abatis.runs.run_folder import load_weights
from abatis.system.timm_import import timm

HUB = "hf-hub:"
PUBLISHED_WEIGHTS, CONFIG = "model.safetensors", "config.json"


def is_published(folder: Path) -> bool:
    """Does a folder hold an exported network?"""
    return (folder / CONFIG).is_file() and (folder / PUBLISHED_WEIGHTS).is_file()


def from_hub(spec: str) -> Path:
    """The local folder of ``hf-hub:ORG/NAME[@REVISION]``, downloaded where it is not; raises UsageError."""
    import huggingface_hub

    name, _, revision = spec.removeprefix(HUB).partition("@")
    try:
        return Path(
            huggingface_hub.snapshot_download(
                name, revision=revision or None, allow_patterns=[CONFIG, PUBLISHED_WEIGHTS]
            )
        )
    except Exception as error:  # no network, no such name, no right to it: the way out is the same
        raise UsageError(
            f"{spec} could not be had from the hub: {brief(error)}",
            fix="check the name and the network; a private one needs HF_TOKEN",
        ) from error


def about(folder: Path) -> dict[str, Any]:
    """What the exporter wrote of the network; raises UsageError."""
    try:
        found: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["abatis"]
        return found
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UsageError(
            f"{folder / CONFIG} was not written by defense export",
            fix="name a run folder or such a folder",
        ) from error


def load_folder(folder: Path, model: nn.Module | None = None) -> nn.Module:
    """The network of a folder on images in [0, 1], its weights held against their sha256; raises UsageError.

    model: a module of the same kind, for a network that timm does not know.
    """
    told = about(folder)
    if model is not None:
        model.load_state_dict(read_weights(folder / PUBLISHED_WEIGHTS)[0])
    else:
        model = _from_timm(folder, told)
    if weights_digest(model) != told["weights_sha256"]:
        raise UsageError(
            f"{folder / PUBLISHED_WEIGHTS} holds other weights than {CONFIG} tells of",
            fix="export or download it again",
        )
    return model


def _from_timm(folder: Path, told: dict[str, Any]) -> nn.Module:
    if not timm.is_model(told["architecture"]):
        raise UsageError(
            f"{folder} holds the weights of {told['architecture']}, which timm does not know",
            fix="abatis.load(folder, model=your_module); defense eval takes its model.pt2",
        )
    try:
        backbone = timm.create_model(f"local-dir:{folder}", pretrained=True)
    except Exception as error:
        raise UsageError(
            f"timm cannot load {folder}: {brief(error)}", fix="export or download it again"
        ) from error
    return Normalized(backbone, backbone.pretrained_cfg["mean"], backbone.pretrained_cfg["std"])


def load(folder: str | Path, model: nn.Module | None = None) -> nn.Module:
    """A network in eval mode on images in [0, 1]: of a run folder, of what ``defense export`` wrote, or ``hf-hub:ORG/NAME``.

    Of a run the averaged weights come first, else the best ones. model: needed where the run trained a module of yours.
    Raises UsageError.
    """
    path = from_hub(str(folder)) if str(folder).startswith(HUB) else Path(folder)
    return (load_folder if is_published(path) else load_weights)(path, model).eval()


def load_onnx(path: Path) -> nn.Module:
    """An ONNX file beside the folder's own weights, which give the gradients it has not; raises UsageError."""
    if not is_published(path.parent):
        raise UsageError(
            f"{path} has no gradients, which attacks need, and {PUBLISHED_WEIGHTS} is not beside it",
            fix="name an .onnx that lies in a folder of defense export --to onnx",
        )
    return OnnxValues(path, load_folder(path.parent))
