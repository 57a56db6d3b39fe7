"""The MODEL that a user names: what it is, before the data are known."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from abatis.config.run_config import RunConfig
from abatis.config.toml import read_toml
from abatis.data.info import View
from abatis.errors import UsageError, did_you_mean
from abatis.nets.backbones import view_of
from abatis.nets.backbones.cifar_preact import is_model
from abatis.nets.backbones.from_repository import (
    CONFIG,
    LOCAL,
    find_folder,
    is_repository,
    read_repository,
)
from abatis.nets.backbones.names import SMALL_IMAGE, is_factory, resolve
from abatis.nets.backbones.zoo.table import ZOO_DIR, ZooNetwork, find_zoo, is_zoo
from abatis.nets.label_map import LabelMap
from abatis.nets.weights import refuse_pickle
from abatis.nets.weights.file_kinds import PROGRAM, SAFETENSORS, SCRIPT, find_kind
from abatis.nets.weights_file import find_weights, parse_class_names, read_class_names
from abatis.runs.published import is_published, read_description
from abatis.system.timm_import import timm

ONNX, EXPORTED = ".onnx", ".pt2"
SUFFIXES = (".safetensors", ".pt", ".pth", ".tar", ".ckpt", ".bin", EXPORTED, ONNX)


class Kind(Enum):
    """What a MODEL can be."""

    RUN = "a run folder"
    PUBLISHED = "a folder that defense export wrote"
    WEIGHTS = "weights and the network they belong to"
    REPOSITORY = "a repository of timm or transformers"
    PROGRAM = "a torch.export program"
    SCRIPT = "a TorchScript program"
    ONNX = "an ONNX file"
    NAMED = "a network with its own weights"
    ZOO = "a network of RobustBench"


EXPORTS = (Kind.PUBLISHED, Kind.PROGRAM, Kind.SCRIPT, Kind.ONNX)
"""What defense export writes."""


@dataclass(frozen=True)
class Wishes:
    """How a user wants a network to be opened.

    Attributes:
        weights_key: which set of weights of a file; the usual one if None.
        allow_pickle: may a file be loaded that can hold pickles?
        normalize: how images are normalised, as ``--normalize`` says it; the network's own way if
            None.
        output: which of its outputs are the logits: a key, a place or "sigmoid".
        label_map: which output is which class; label i is output i if None.
        zoo_dir: the folder with the weights of RobustBench's networks.
    """

    weights_key: str | None = None
    allow_pickle: bool = False
    normalize: str | None = None
    output: str | None = None
    label_map: LabelMap | None = None
    zoo_dir: str = str(ZOO_DIR)


@dataclass(frozen=True)
class ModelSpec:
    """A model as the user named it; it is opened when the data are known.

    Attributes:
        spec: the name, path or folder.
        kind: what it is.
        path: of the file or folder; of a name, the name.
        backbone: of weights, the architecture they belong to.
        run: of a run folder, its configuration.
        wishes: how it is to be opened.
    """

    spec: str
    kind: Kind
    path: Path
    backbone: str | None = None
    run: RunConfig | None = None
    wishes: Wishes = Wishes()

    @property
    def name(self) -> str:
        """Of the network, for messages."""
        return self.backbone or self.spec

    @property
    def view(self) -> View:
        """How image files become images for the network."""
        if self.run is not None:
            return view_of(self.run.backbone, self.run.zoo_dir)
        if self.kind is Kind.ZOO:
            return self.zoo.seen_as
        if self.kind is Kind.REPOSITORY:
            return read_repository(self.path).view
        named = self.backbone if self.kind is Kind.WEIGHTS else self.spec
        return (
            view_of(named or "", Path(self.wishes.zoo_dir))
            if self.kind in (Kind.WEIGHTS, Kind.NAMED)
            else View()
        )

    @property
    def zoo(self) -> ZooNetwork:
        """The row of RobustBench's table that the name means; raises UsageError."""
        return find_zoo(self.spec, Path(self.wishes.zoo_dir))

    @property
    def threat(self) -> str | None:
        """The threat that the network was trained against, where it is known."""
        if self.run is not None:
            return self.run.threat
        if self.kind is Kind.ZOO:
            return self.zoo.threat_model
        return str(read_description(self._folder)["threat"]) if self._is_exported else None

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in the order of the outputs; empty where they are not known."""
        if self.wishes.label_map is not None:
            return self.wishes.label_map.class_names
        if self.kind is Kind.RUN:
            with suppress(UsageError):  # a run without weights is refused when it is loaded
                return read_class_names(find_weights(self.path))
        if self.kind is Kind.WEIGHTS and self.path.is_file():
            return read_class_names(self.path) if find_kind(self.path) == SAFETENSORS else ()
        if self.kind is Kind.REPOSITORY:
            return read_repository(self.path).class_names
        if self._is_exported:
            return parse_class_names(read_description(self._folder))
        return ()

    @property
    def _is_exported(self) -> bool:
        return self.kind in EXPORTS and is_published(self._folder)

    @property
    def _folder(self) -> Path:
        return self.path if self.path.is_dir() else self.path.parent


def find_model(
    spec: str,
    backbone: str | None = None,
    allow_pickle: bool = False,
    weights: str | None = None,
    wishes: Wishes | None = None,
) -> ModelSpec:
    """Find what MODEL means.

    Args:
        spec: the name, path or folder that the user gave.
        backbone: the architecture of a weights file.
        allow_pickle: may a file be loaded that can hold pickles?
        weights: a weights file or folder; ``spec`` is then the architecture.
        wishes: how the network is to be opened; they say themselves whether pickles are allowed.

    Raises:
        UsageError: there is no such model, or it can hold pickles and none are allowed.
    """
    wishes = wishes or Wishes(allow_pickle=allow_pickle)
    if weights is not None:
        if backbone is not None:
            raise UsageError(
                "--weights and --backbone both say what belongs to MODEL",
                fix=f"write: defense eval {backbone} --weights {weights}",
            )
        spec, backbone = weights, spec
    if is_zoo(spec):
        return _find_zoo(spec, backbone, wishes)
    if is_repository(spec):
        return _find_folder(spec, find_folder(spec), backbone, wishes)
    path = Path(spec).expanduser()
    if path.is_dir():
        return _find_folder(spec, path, backbone, wishes)
    if path.is_file() or path.suffix in SUFFIXES:
        return _find_file(spec, path, backbone, wishes)
    if backbone is None and _is_known(spec):
        return ModelSpec(spec, Kind.NAMED, path, wishes=wishes)
    known = [
        *(str(one) for one in Path().glob("runs/*") if one.is_dir()),
        *timm.list_models(pretrained=True),
    ]
    raise UsageError(
        f"no model '{spec}': {_nearest(spec, known)}",
        fix="name a run folder, a weights file (with --backbone), a timm model, torchvision:NAME, "
        "rb:NAME, hf-hub:ORG/NAME, local-dir:PATH, or FILE.py:FACTORY",
    )


def _is_known(name: str) -> bool:
    return is_factory(name) or name.startswith("torchvision:") or is_model(name)


def _find_zoo(spec: str, backbone: str | None, wishes: Wishes) -> ModelSpec:
    """A network of RobustBench whose weights are there; raises UsageError where they are not."""
    if backbone is not None:
        raise UsageError(
            f"{spec} names a network with its weights, and --backbone another network",
            fix="leave --backbone out; or name the file of the weights",
        )
    folder = Path(wishes.zoo_dir)
    path = find_zoo(spec, folder).require_file(folder)
    return ModelSpec(spec, Kind.ZOO, path, wishes=wishes)


def _find_folder(spec: str, path: Path, backbone: str | None, wishes: Wishes) -> ModelSpec:
    """What a folder is.

    Raises:
        UsageError: it holds no network, or a plugin of the run is not installed.
    """
    if (path / "run.toml").is_file():
        run = RunConfig.model_validate(read_toml(path / "run.toml"))
        return ModelSpec(spec, Kind.RUN, path, run=run, wishes=wishes)
    if is_published(path):
        return ModelSpec(spec, Kind.PUBLISHED, path, wishes=wishes)
    if backbone is not None:
        return ModelSpec(spec, Kind.WEIGHTS, path, backbone, wishes=wishes)
    if (path / CONFIG).is_file():
        read_repository(path)
        return ModelSpec(spec, Kind.REPOSITORY, path, wishes=wishes)
    where = path if path.is_dir() or not spec.startswith(LOCAL) else f"{path} (there is none)"
    raise UsageError(
        f"{where} is not a run folder: it has no run.toml",
        fix="name a folder that defense-run or defense export wrote, one of timm or transformers "
        f"with {CONFIG}, or add --backbone for a folder of weights",
    )


def _find_file(spec: str, path: Path, backbone: str | None, wishes: Wishes) -> ModelSpec:
    """What a file is: its content decides, not its name."""
    if not path.is_file():
        raise UsageError(f"no weights file {spec}", fix="check the path")
    if path.suffix == ONNX:
        return ModelSpec(spec, Kind.ONNX, path, wishes=wishes)
    kind = PROGRAM if path.suffix == EXPORTED else find_kind(path)
    if kind in (PROGRAM, SCRIPT) and backbone is None:
        if not wishes.allow_pickle:
            raise UsageError(
                f"{spec} is a program and can contain pickles",
                fix="add --allow-pickle if you trust where it comes from; it is then run",
            )
        found = Kind.PROGRAM if kind == PROGRAM else Kind.SCRIPT
        return ModelSpec(spec, found, path, wishes=wishes)
    refuse_pickle(path, wishes.allow_pickle)
    if backbone is None:
        raise UsageError(
            f"{spec} holds weights without the network",
            fix="add --backbone NAME or --backbone FILE.py:FACTORY",
        )
    resolve(backbone, SMALL_IMAGE)
    return ModelSpec(spec, Kind.WEIGHTS, path, backbone, wishes=wishes)


def _nearest(word: str, known: list[str]) -> str:
    hint = did_you_mean(word, known)
    return hint if hint.startswith("did") else "neither a path nor a timm model"
