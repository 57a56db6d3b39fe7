"""Networks of the Hugging Face Hub: ``hf-hub:ORG/NAME[@REVISION]`` and ``local-dir:PATH``.

A repository is a folder with config.json and weights, of timm or of transformers.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from abatis.data.info import View
from abatis.data.statistics import IMAGENET_MEAN, IMAGENET_STD, Statistics
from abatis.errors import UsageError, summarise_error
from abatis.nets.backbones.cifar_preact import is_model
from abatis.system.timm_import import timm

HUB, LOCAL = "hf-hub:", "local-dir:"
CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
PATTERNS = ("*.json", "*.safetensors", "pytorch_model*.bin")
INTERPOLATIONS = {0: "nearest", 2: "bilinear", 3: "bicubic"}
SMALL = 384  # pixels; below, transformers' ConvNeXt processor resizes to size / crop_pct


def is_repository(name: str) -> bool:
    """Is it ``hf-hub:...`` or ``local-dir:...``?"""
    return name.startswith((HUB, LOCAL))


def find_folder(name: str) -> Path:
    """The local folder of a repository, downloaded if need be; raises UsageError."""
    return fetch_from_hub(name) if name.startswith(HUB) else Path(name[len(LOCAL) :]).expanduser()


def fetch_from_hub(spec: str) -> Path:
    """Download ``hf-hub:ORG/NAME[@REVISION]`` where it is not cached yet.

    Returns:
        The local folder.

    Raises:
        UsageError: it could not be downloaded.
    """
    import huggingface_hub

    name, _, revision = spec.removeprefix(HUB).partition("@")
    try:
        return Path(
            huggingface_hub.snapshot_download(
                name, revision=revision or None, allow_patterns=list(PATTERNS)
            )
        )
    except Exception as error:  # no connection, no such name, no permission: the fix is the same
        raise UsageError(
            f"{spec} could not be downloaded from the Hugging Face Hub: {summarise_error(error)}",
            fix="check the name and the connection; a private repository needs HF_TOKEN",
        ) from error


@dataclass(frozen=True)
class Repository:
    """What a repository says of its network.

    Attributes:
        folder: it holds config.json.
        config: the content of config.json.
    """

    folder: Path
    config: Mapping[str, Any]

    @property
    def is_timm(self) -> bool:
        """Is it of timm? Else it is of transformers."""
        return isinstance(self.config.get("architecture"), str)

    @property
    def classes(self) -> int:
        """The number of outputs."""
        if self.is_timm:
            inner = self._timm_config.get("num_classes")
            return int(self.config.get("num_classes") or inner or 1000)
        labels = self.config.get("id2label")
        return len(labels) if labels else int(self.config.get("num_labels", 2))

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in the order of the outputs; empty where they have no names."""
        if self.is_timm:
            found = self.config.get("label_names")
            named = isinstance(found, list) and all(isinstance(name, str) for name in found)
            return tuple(found) if named and found else ()
        labels = self.config.get("id2label") or {}
        if set(labels) != {str(place) for place in range(len(labels))}:
            return ()
        names = tuple(str(labels[str(place)]) for place in range(len(labels)))
        made_up = all(name == f"LABEL_{place}" for place, name in enumerate(names))
        return () if made_up else names

    @property
    def statistics(self) -> Statistics:
        """Mean and std of the channels; raises UsageError where images are not in [0, 1]."""
        if self.is_timm:
            found = self._timm_config
            return tuple(found.get("mean") or IMAGENET_MEAN), tuple(
                found.get("std") or IMAGENET_STD
            )
        found = self._processor
        if not found.get("do_normalize", True):
            mean, std = (0.0,) * 3, (1.0,) * 3
        else:
            mean, std = (tuple(found[f"image_{name}"]) for name in ("mean", "std"))
        factor = found.get("rescale_factor", 1 / 255)
        if not found.get("do_rescale", True) or abs(factor - 1 / 255) > 1e-6:
            raise UsageError(
                f"{self.folder / PROCESSOR}: images are not scaled to [0, 1]",
                fix="say how they are normalised with --normalize MEAN STD, for images in [0, 1]",
            )
        return mean, std

    @property
    def view(self) -> View:
        """How image files become images for the network."""
        if self.is_timm:
            config = timm.data.resolve_data_config(pretrained_cfg=dict(self._timm_config))
            return View(config["input_size"][-1], config["interpolation"], config["crop_pct"])
        found = self._processor
        kind = INTERPOLATIONS.get(found.get("resample", 2), "bilinear")
        size = found.get("size", 224)
        if isinstance(size, dict):
            size = size.get("shortest_edge") or size.get("height") or 224
        edge = int(size)
        if found.get("do_center_crop") and isinstance(crop := found.get("crop_size"), dict):
            return View(crop["height"], kind, crop["height"] / edge)
        return View(edge, kind, found.get("crop_pct", 1.0) if edge < SMALL else 1.0)

    @cached_property
    def _timm_config(self) -> Mapping[str, Any]:
        inner = self.config.get("pretrained_cfg")
        return inner if isinstance(inner, dict) else self.config

    @cached_property
    def _processor(self) -> Mapping[str, Any]:
        found = _read_json(self.folder / PROCESSOR)
        if found.get("do_normalize", True) and not {"image_mean", "image_std"} <= set(found):
            raise UsageError(
                f"{self.folder / PROCESSOR} does not say how images are normalised",
                fix="say it with --normalize MEAN STD",
            )
        return found

    def build(self, num_classes: int, channels: int) -> nn.Module:
        """The network with new random weights, without its normalisation; raises UsageError."""
        if self.is_timm:
            return self._build_timm(num_classes, channels)
        transformers = _import_transformers()
        try:
            config = transformers.AutoConfig.from_pretrained(
                self.folder, num_labels=num_classes, local_files_only=True
            )
            net: nn.Module = transformers.AutoModelForImageClassification.from_config(config)
        except Exception as error:
            raise UsageError(
                f"transformers cannot build the network of {self.folder}: {summarise_error(error)}",
                fix="name a repository for image classification",
            ) from error
        return net

    def load(self, classes: int, allow_pickle: bool = False) -> nn.Module:
        """The network of transformers with its weights, without its normalisation.

        transformers loads them itself, because it changes the names of older files.

        Args:
            classes: the number of outputs; another one than the repository's gets a new head.
            allow_pickle: may the weights be a pickle? Only tensors are loaded.

        Raises:
            UsageError: it cannot be loaded, or weights are missing.
        """
        transformers = _import_transformers()
        if not allow_pickle and not any(self.folder.glob("*.safetensors")):
            raise UsageError(
                f"the weights in {self.folder} are a pickle, which can contain a program",
                fix="add --allow-pickle (in Python allow_pickle=True), which loads tensors only",
            )
        try:
            net, told = transformers.AutoModelForImageClassification.from_pretrained(
                self.folder,
                num_labels=classes,
                local_files_only=True,
                ignore_mismatched_sizes=classes != self.classes,
                use_safetensors=None if allow_pickle else True,
                output_loading_info=True,
            )
        except Exception as error:
            raise UsageError(
                f"transformers cannot load {self.folder}: {summarise_error(error)}",
                fix="download the repository again",
            ) from error
        odd = sorted({*told["missing_keys"], *told["unexpected_keys"]})
        if odd:
            raise UsageError(
                f"{self.folder}: {len(odd)} weights are missing or not expected, such as {odd[0]}",
                fix="download the repository again, or name one for image classification",
            )
        network: nn.Module = net.float()
        return network

    def _build_timm(self, num_classes: int, channels: int) -> nn.Module:
        architecture = str(self.config["architecture"])
        if not is_model(architecture):
            raise UsageError(
                f"{self.folder} is for {architecture}, which timm does not know",
                fix="add --backbone FILE.py:FACTORY, which makes the network",
            )
        try:
            net: nn.Module = timm.create_model(
                f"{LOCAL}{self.folder}",
                pretrained=False,
                num_classes=num_classes,
                in_chans=channels,
            )
        except Exception as error:
            raise UsageError(
                f"timm cannot build the network of {self.folder}: {summarise_error(error)}",
                fix="download the repository again",
            ) from error
        return net


def read_repository(folder: Path) -> Repository:
    """Read the config.json of a repository.

    Raises:
        UsageError: there is none, or it is not of an image classifier.
    """
    config = _read_json(folder / CONFIG)
    found = Repository(folder, config)
    if not found.is_timm and not any(
        "ImageClassification" in str(name) for name in config.get("architectures") or ()
    ):
        raise UsageError(
            f"{folder / CONFIG} names no image classifier of timm or transformers",
            fix="name another repository, or add --backbone FILE.py:FACTORY",
        )
    return found


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(
            f"cannot read {path} ({type(error).__name__})",
            fix="name a folder of timm or transformers, with config.json and weights",
        ) from error
    if not isinstance(found, dict):
        raise UsageError(f"{path} holds no table", fix="download the repository again")
    return found


def _import_transformers() -> ModuleType:
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise UsageError(
            "this repository needs transformers, which is not installed",
            fix="pip install 'abatis[hub]'",
        ) from error
