"""Exported networks: a folder with model.safetensors and config.json, local or on the Hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from abatis.errors import UsageError, summarise_error
from abatis.nets.backbones import build
from abatis.nets.backbones.cifar_preact import is_model
from abatis.nets.backbones.from_repository import CONFIG
from abatis.nets.backbones.from_torchvision import PREFIX as TORCHVISION
from abatis.nets.backbones.own_nets import OWN_NETS
from abatis.nets.backbones.zoo.table import PREFIX as ZOO
from abatis.nets.digest import weights_digest
from abatis.nets.normalising import Normalized
from abatis.nets.programs import OnnxValues
from abatis.nets.weights import load_into, read_contents
from abatis.nets.weights_file import read_weights
from abatis.report.sealed_json import parse_json
from abatis.system.timm_import import timm

PUBLISHED_WEIGHTS = "model.safetensors"
DESCRIBED = ("architecture", "threat", "weights_sha256")  # what every description says in texts


def is_published(folder: Path) -> bool:
    """Does a folder hold a network that ``defense export`` wrote?"""
    if not (folder / CONFIG).is_file() or not (folder / PUBLISHED_WEIGHTS).is_file():
        return False
    try:
        return '"abatis"' in (folder / CONFIG).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False


def read_description(folder: Path) -> dict[str, Any]:
    """Read what ``defense export`` wrote about the network; raises UsageError."""
    try:
        found: dict[str, Any] = parse_json((folder / CONFIG).read_text(encoding="utf-8"))["abatis"]
        if not all(isinstance(found[key], str) for key in DESCRIBED):
            raise TypeError(f"not all of {', '.join(DESCRIBED)} are texts")
        return found
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UsageError(
            f"{folder / CONFIG} was not written by defense export, or is damaged",
            fix="name a run folder, or a folder that defense export wrote",
        ) from error


def load_published(folder: Path, model: nn.Module | None = None) -> nn.Module:
    """Load the network of a published folder and compare its weights with their sha256.

    Args:
        folder: a folder that ``defense export`` wrote.
        model: a module of the same kind, for a network that timm does not know.

    Returns:
        The network on images in [0, 1].

    Raises:
        UsageError: it cannot be loaded, or the weights are not the published ones.
    """
    description = read_description(folder)
    if model is not None:
        contents = read_contents(folder / PUBLISHED_WEIGHTS)
        model = load_into(model, contents, "the network").module
    elif can_rebuild(str(description.get("backbone", ""))):
        contents = read_contents(folder / PUBLISHED_WEIGHTS)
        model = load_into(_build_named(folder, description), contents, "the network").module
    else:
        model = _load_with_timm(folder, description["architecture"])
    if weights_digest(model) != description["weights_sha256"]:
        raise UsageError(
            f"the weights in {folder / PUBLISHED_WEIGHTS} are not those that {CONFIG} describes",
            fix="export or download them again",
        )
    return model


def can_rebuild(backbone: str) -> bool:
    """Is it a name by which a network that timm does not know can be built anywhere?"""
    return backbone.startswith((TORCHVISION, ZOO))


def _build_named(folder: Path, description: Mapping[str, Any]) -> nn.Module:
    sizes = {name: description.get(name) for name in ("num_classes", "channels", "image_size")}
    if not all(type(size) is int and size > 0 for size in sizes.values()):
        raise UsageError(
            f"{folder / CONFIG} does not say how many classes, channels and pixels the network has",
            fix="export or download it again",
        )
    channels = description["channels"]
    shape: dict[str, Any] = {**sizes, "mean": [0.0] * channels, "std": [1.0] * channels}
    return build(str(description["backbone"]), **shape)


def _load_with_timm(folder: Path, architecture: str) -> nn.Module:
    if not is_model(architecture):
        raise UsageError(
            f"{folder} holds the weights of {architecture}, which timm does not know",
            fix="abatis.load(folder, model=your_module); or give its model.pt2 to defense eval",
        )
    weights, _ = read_weights(folder / PUBLISHED_WEIGHTS)
    try:
        if architecture in OWN_NETS:
            return _make_own(folder, architecture, weights)
        backbone = timm.create_model(f"local-dir:{folder}", pretrained=True)
        return Normalized(backbone, backbone.pretrained_cfg["mean"], backbone.pretrained_cfg["std"])
    except Exception as error:
        raise UsageError(
            f"timm cannot load {folder}: {summarise_error(error)}",
            fix="export or download it again",
        ) from error


def _make_own(folder: Path, architecture: str, weights: Mapping[str, Tensor]) -> nn.Module:
    """One of our networks as timm would load it from the folder, without importing timm."""
    config = parse_json((folder / CONFIG).read_text(encoding="utf-8"))
    options = {**config.get("model_args", {}), "num_classes": config["num_classes"]}
    backbone = OWN_NETS[architecture].build(**options)
    backbone.load_state_dict(weights)
    facts = config["pretrained_cfg"]
    return Normalized(backbone, facts["mean"], facts["std"])


def load_onnx(path: Path) -> nn.Module:
    """Load an ONNX file together with the weights beside it, which give the gradients.

    Raises:
        UsageError: there are no weights beside it.
    """
    if not is_published(path.parent):
        raise UsageError(
            f"{path} has no gradients, which attacks need, and there is no {PUBLISHED_WEIGHTS} "
            "beside it",
            fix="name the .onnx file in a folder that defense export --to onnx wrote",
        )
    return OnnxValues(path, load_published(path.parent))
