"""``abatis.load``: a network by its name, for use from Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from abatis.errors import UsageError
from abatis.nets.backbones.from_repository import find_folder, is_repository
from abatis.nets.backbones.names import is_factory
from abatis.nets.backbones.zoo.table import ZOO_DIR
from abatis.nets.normalising import read_normalize
from abatis.nets.weights import load_into, read_contents
from abatis.nets.weights_file import find_weights, read_weights
from abatis.runs.model_spec import Kind, ModelSpec, Wishes, find_model
from abatis.runs.open_model import Sizes, finish, open_network
from abatis.runs.published import is_published, load_published, read_description
from abatis.runs.run_folder import load_weights

SIZE = 32  # pixels a side, where nothing says more


def load(
    path: str | Path,
    model: nn.Module | None = None,
    *,
    backbone: str | None = None,
    weights_key: str | None = None,
    allow_pickle: bool = False,
    normalize: str | tuple[Sequence[float], Sequence[float]] | None = None,
    num_classes: int | None = None,
    channels: int = 3,
    image_size: int | None = None,
    zoo_dir: str | Path = ZOO_DIR,
) -> nn.Module:
    """Load a trained network.

    Of a run with ``--ema`` these are the averaged weights, else the best ones.

    Args:
        path: whatever ``defense eval`` takes as MODEL: a run folder, an exported folder, a weights
            file, ``hf-hub:ORG/NAME``, ``local-dir:PATH``, ``torchvision:NAME``, ``rb:NAME``, a timm
            name, or ``FILE.py:FACTORY``.
        model: a module of the same kind, needed where the run trained your own module; for a
            weights file it can stand in place of ``backbone``.
        backbone: of a weights file, the network: a name, or ``FILE.py:FACTORY``.
        weights_key: which set of weights, where a file holds several.
        allow_pickle: accept pickles, of which only tensors are loaded, and programs, which are run.
        normalize: "imagenet", "cifar10", "none", or mean and std for images in [0, 1], where the
            file does not say how images are normalised.
        num_classes: the number of outputs that is needed; as many as the weights have if None.
        channels: of the images.
        image_size: pixels a side of the images; that of the weights file or the network, else 32.
        zoo_dir: the folder with the weights of ``rb:`` networks, as RobustBench keeps them.

    Returns:
        The network in eval mode, on images in [0, 1].

    Raises:
        UsageError: there is no such network, or the weights do not fit it.
    """
    asked = None if normalize is None else read_normalize(normalize)
    wishes = Wishes(weights_key, allow_pickle, asked, zoo_dir=str(zoo_dir))
    if model is not None:
        return _load_into_own(str(path), model, wishes).eval()
    spec = find_model(str(path), backbone, wishes=wishes)
    if spec.kind in (Kind.RUN, Kind.PUBLISHED):
        _check_classes(spec, num_classes)
        return open_network(spec, Sizes(), torch.device("cpu")).module.eval()
    size = image_size or _find_size(spec)
    device = torch.device("cpu")
    loaded = open_network(spec, Sizes(num_classes, channels, size), device)
    images = torch.zeros(2, channels, size, size)
    module, _, outputs = finish(loaded, spec, device, images, num_classes)
    _check_outputs(spec, outputs, num_classes)
    return module


def _check_classes(spec: ModelSpec, asked: int | None) -> None:
    """Raise UsageError where a run or an exported folder has another number of classes."""
    if asked is None:
        return
    if spec.kind is Kind.RUN:
        facts = read_weights(find_weights(spec.path))[1]
    else:
        facts = read_description(spec.path)
    _check_outputs(spec, facts.get("num_classes", asked), asked)


def _check_outputs(spec: ModelSpec, outputs: int, asked: int | None) -> None:
    """Raise UsageError where a network has another number of outputs than was asked for."""
    if asked not in (None, outputs):
        raise UsageError(
            f"{spec.spec} has {outputs} outputs, and {asked} are needed",
            fix="choose a network that was trained for as many classes",
        )


def _find_size(spec: ModelSpec) -> int:
    """Pixels a side of the images that a network is for."""
    if spec.kind is Kind.ZOO:
        return spec.zoo.image_size
    named = spec.kind in (Kind.REPOSITORY, Kind.NAMED) and not is_factory(spec.spec)
    return spec.view.image_size if named else SIZE


def _load_into_own(path: str, model: nn.Module, wishes: Wishes) -> nn.Module:
    """The given module with the weights of a run, an exported folder, or a file or folder."""
    place = find_folder(path) if is_repository(path) else Path(path).expanduser()
    if (place / "run.toml").is_file():
        return load_weights(place, model)
    if is_published(place):
        return load_published(place, model)
    contents = read_contents(place, wishes.allow_pickle)
    name = type(model).__name__
    asked = Sizes().find_asked(wishes)
    return load_into(model, contents, name, wishes.weights_key, asked).module
