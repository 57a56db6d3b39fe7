"""Opens the MODEL that a user named: its network, with its weights, as a function to logits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from abatis.data import DataInfo
from abatis.data.classes import describe_order
from abatis.data.statistics import Statistics
from abatis.errors import DataError, UsageError
from abatis.nets.backbones import Normalized, build, unwrap
from abatis.nets.backbones.from_repository import is_repository, read_repository
from abatis.nets.backbones.from_torchvision import PREFIX as TORCHVISION
from abatis.nets.backbones.from_torchvision import count_outputs
from abatis.nets.backbones.names import is_factory, resolve
from abatis.nets.backbones.timm_names import translate_to_timm
from abatis.nets.backbones.zoo.loading import load_zoo
from abatis.nets.backbones.zoo.table import is_zoo
from abatis.nets.first_pass import try_network
from abatis.nets.normalising import find_statistics
from abatis.nets.outputs import adapt_images, adapt_outputs, unwrap_parallel
from abatis.nets.programs import load_program, load_script
from abatis.nets.weights import Contents, Loaded, load_into, read_contents
from abatis.nets.weights.choosing import WeightsMismatch
from abatis.runs.model_spec import Kind, ModelSpec, Wishes
from abatis.runs.network import CHANGED_BY
from abatis.runs.published import load_onnx, load_published
from abatis.runs.run_folder import load_weights
from abatis.system.timm_import import timm

GUESS = 1000  # outputs of a network whose weights say how many they are when they are loaded
SHOWN = 5  # names in a message


@dataclass(frozen=True)
class Sizes:
    """What a network is opened for.

    Attributes:
        classes: the number of classes; as many as the network has if None.
        channels: of the images.
        image_size: pixels a side.
        statistics: mean and std of the channels, for a network that names none; None if unknown.
        source: where these come from, for notes.
    """

    classes: int | None = None
    channels: int = 3
    image_size: int = 32
    statistics: Statistics | None = None
    source: str = ""

    @classmethod
    def of(cls, info: DataInfo, wishes: Wishes) -> Sizes:
        """What a network is opened for that is judged on data."""
        classes = info.num_classes if wishes.label_map is None else None
        return cls(classes, info.channels, info.image_size, (info.mean, info.std), info.name)

    def find_asked(self, wishes: Wishes) -> Statistics | None:
        """Mean and std that ``--normalize`` asks for; None where it asks for nothing."""
        if wishes.normalize is None:
            return None
        return find_statistics(wishes.normalize, self.statistics, self.channels)

    def describe(self, classes: int) -> dict[str, Any]:
        """The arguments of :func:`~abatis.nets.backbones.build`."""
        mean, std = self.statistics or ((0.0,) * self.channels, (1.0,) * self.channels)
        return {
            "num_classes": classes,
            "channels": self.channels,
            "image_size": self.image_size,
            "mean": mean,
            "std": std,
        }


def open_model(
    spec: ModelSpec, info: DataInfo, device: torch.device, images: Tensor | None = None
) -> tuple[nn.Module, list[str], list[str]]:
    """Load the network and try it on a few images.

    Args:
        spec: what the user named.
        info: the facts of the data that it will be judged on.
        device: where the network will be.
        images: some of the data, (B, C, H, W) in [0, 1]; black ones if None.

    Returns:
        The network in eval mode, on images in [0, 1]; notes for the user; and reasons to doubt
        that it is what its authors judge, or that outputs and labels number the classes alike.

    Raises:
        UsageError: it cannot be loaded, or does not take such images.
        DataError: its classes are not those of the data.
    """
    _check_classes(spec, info)
    mapped = spec.wishes.label_map
    loaded = open_network(spec, Sizes.of(info, spec.wishes), device)
    if images is None:
        images = torch.zeros(2, info.channels, info.image_size, info.image_size, device=device)
    module, notes, outputs = finish(
        loaded, spec, device, images, info.num_classes if mapped is None else None
    )
    if mapped is not None:
        module, note = mapped.apply(module, outputs, spec.name)
        notes.append(note)
        outputs = len(mapped.class_names)
    return module, notes, [*loaded.doubts, *_doubt_labels(spec, info, outputs)]


def finish(
    loaded: Loaded, spec: ModelSpec, device: torch.device, images: Tensor, classes: int | None
) -> tuple[nn.Module, list[str], int]:
    """Bring a network to its device, in eval mode, and make it return logits.

    Returns:
        The network, notes, and the number of its outputs.
    """
    module, notes = unwrap_parallel(loaded.module)
    notes = [*loaded.notes, *notes]
    module = module.to(device).eval()
    adapt_images(unwrap(module), notes)
    output = try_network(module, images, spec.name)
    notes += adapt_outputs(module, output, len(images), classes, spec.wishes.output, spec.name)
    outputs = try_network(module, images, spec.name).shape[1]
    return module, notes, outputs


def open_network(spec: ModelSpec, sizes: Sizes, device: torch.device) -> Loaded:
    """The network with its weights; it is neither moved nor tried.

    Raises:
        UsageError: it cannot be loaded.
    """
    if spec.kind is Kind.WEIGHTS:
        return _open_weights(spec, sizes)
    if spec.kind is Kind.REPOSITORY:
        return _open_repository(spec, sizes)
    if spec.kind is Kind.NAMED:
        return _open_named(spec, sizes)
    if spec.kind is Kind.ZOO:
        return _open_zoo(spec, sizes)
    asked = sizes.find_asked(spec.wishes)
    if asked is not None and spec.kind in (Kind.RUN, Kind.PUBLISHED, Kind.ONNX):
        raise UsageError(
            f"--normalize: {spec.spec} brings its own normalisation", fix="leave --normalize out"
        )
    if spec.kind is Kind.RUN:
        return Loaded(load_weights(spec.path, None), normalised=True)
    if spec.kind is Kind.PUBLISHED:
        return Loaded(load_published(spec.path), normalised=True)
    if spec.kind is Kind.ONNX:
        note = "logits are computed by ONNX Runtime, gradients by the weights beside the file"
        return Loaded(load_onnx(spec.path), [note], normalised=True)
    load = load_program if spec.kind is Kind.PROGRAM else _load_script
    module = load(spec.path, device)
    if asked is not None:
        module = Normalized(module, *asked)
    return Loaded(module, normalised=True)


def _load_script(path: Path, device: torch.device) -> nn.Module:
    return load_script(path)


def _open_weights(spec: ModelSpec, sizes: Sizes) -> Loaded:
    """Weights that are not a run's, in their network.

    Without a normalisation in the file, timm's nets and ours get that of the data.
    """
    contents = read_contents(spec.path, spec.wishes.allow_pickle)
    loaded, module = _load_contents(spec, sizes, contents)
    if loaded.normalised or not isinstance(module, Normalized):
        return loaded
    name = spec.backbone or ""
    if is_zoo(name) or is_repository(name):
        loaded.notes.append(f"normalised as {name} says: the file does not")
        return loaded
    if loaded.family is not None and not loaded.family.normalises:
        raise UsageError(
            f"{spec.path} has the names of {loaded.family.title}, whose networks are normalised in "
            "different ways, and does not say how",
            fix="say it: --normalize none (images in [0, 1], as most take them), cifar10 or MEAN "
            "STD",
        )
    if sizes.statistics is None:
        raise UsageError(
            f"{spec.path} does not say how images are normalised",
            fix="say it: normalize='imagenet', 'cifar10', 'none', or a pair of mean and std",
        )
    loaded.notes.append(
        f"normalised by the mean and standard deviation of {sizes.source}: the file has none; "
        "--normalize says otherwise"
    )
    return loaded


def _load_contents(spec: ModelSpec, sizes: Sizes, contents: Contents) -> tuple[Loaded, nn.Module]:
    """The network with its weights, and the one that was built for them.

    Where the number of classes is not asked for, it is that of the weights.
    """
    if names := contents.facts.get(CHANGED_BY):
        raise UsageError(
            f"the network of these weights was changed by the plugin {', '.join(names)}",
            where=str(spec.path),
            fix="name the run folder, which says with which options",
        )
    name, wishes = spec.backbone or "", spec.wishes
    asked = sizes.find_asked(wishes)
    classes = sizes.classes or contents.facts.get("num_classes") or GUESS
    if sizes.classes is None and is_factory(name):
        module = build(name, **{**sizes.describe(classes), "num_classes": None})
        return load_into(module, contents, name, wishes.weights_key, asked), module
    module = build(name, **sizes.describe(classes))
    try:
        return load_into(module, contents, name, wishes.weights_key, asked), module
    except WeightsMismatch as error:
        if sizes.classes is not None or error.outputs is None:
            raise
        module = build(name, **sizes.describe(error.outputs))
        return load_into(module, contents, name, wishes.weights_key, asked), module


def _open_repository(spec: ModelSpec, sizes: Sizes) -> Loaded:
    repository = read_repository(spec.path)
    _check_outputs(spec, repository.classes, sizes)
    asked = sizes.find_asked(spec.wishes)
    mean, std = asked or repository.statistics
    note = "normalised as asked for" if asked else "normalised as the repository says"
    if not repository.is_timm:
        net = repository.load(repository.classes, spec.wishes.allow_pickle)
        return Loaded(Normalized(net, mean, std), [note], normalised=True)
    module = Normalized(repository.build(repository.classes, sizes.channels), mean, std)
    contents = read_contents(spec.path, spec.wishes.allow_pickle)
    contents = translate_to_timm(contents, module.backbone)
    loaded = load_into(module, contents, f"the network of {spec.spec}", spec.wishes.weights_key)
    loaded.notes.append(note)
    return loaded


def _open_zoo(spec: ModelSpec, sizes: Sizes) -> Loaded:
    """A network of RobustBench, normalised as there."""
    _check_outputs(spec, spec.zoo.classes, sizes)
    if spec.wishes.normalize is not None:
        raise UsageError(
            f"--normalize: {spec.spec} is normalised as RobustBench does it",
            fix="leave --normalize out",
        )
    return load_zoo(spec.zoo, Path(spec.wishes.zoo_dir), spec.wishes.weights_key)


def _open_named(spec: ModelSpec, sizes: Sizes) -> Loaded:
    """A network whose name brings the weights."""
    if is_factory(spec.spec):
        module = build(spec.spec, **{**sizes.describe(GUESS), "num_classes": sizes.classes})
        asked = sizes.find_asked(spec.wishes)
        return Loaded(module if asked is None else Normalized(module, *asked))
    if spec.wishes.normalize is not None:
        raise UsageError(
            f"--normalize: {spec.spec} names weights that are normalised in their own way",
            fix="leave --normalize out; or give the weights as a file, with --backbone",
        )
    if spec.spec.startswith(TORCHVISION):
        outputs = count_outputs(spec.spec)
    else:
        cfg = timm.models.get_pretrained_cfg(resolve(spec.spec, sizes.image_size))
        outputs = getattr(cfg, "num_classes", None) or sizes.classes or GUESS
    _check_outputs(spec, outputs, sizes)
    module = build(spec.spec, **sizes.describe(outputs), pretrained=True)
    return Loaded(module, ["normalisation and weights are those of the name"], normalised=True)


def _check_outputs(spec: ModelSpec, outputs: int, sizes: Sizes) -> None:
    """Raise UsageError where a network has another number of outputs than the data have classes."""
    if sizes.classes not in (None, outputs):
        raise UsageError(
            f"{spec.spec} has {outputs} outputs, but the data have {sizes.classes} classes",
            fix="choose the data set it was trained on; or say which outputs count: --label-map",
        )


def _check_classes(spec: ModelSpec, info: DataInfo) -> None:
    """Raise DataError where the data have classes that the network does not know."""
    own = spec.class_names if info.class_names else ()
    if own and own != info.class_names:
        raise DataError(
            f"the classes of {info.name} are not those of {spec.spec}: {_show(info.class_names)}",
            fix=f"name the class folders as in the training: {_show(own)}; or give --label-map",
        )


def _show(names: tuple[str, ...]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if names[SHOWN:] else "")


def _doubt_labels(spec: ModelSpec, info: DataInfo, outputs: int) -> list[str]:
    """Sentences where labels and outputs are matched by place, and places could differ.

    Raises:
        UsageError: the data have names and fewer classes than the network has outputs.
    """
    own, doubts = spec.class_names, []
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
        text = f"the network has {outputs} outputs and {info.name} {info.num_classes} classes"
        if info.class_names and not own and not all(map(str.isdecimal, info.class_names)):
            raise UsageError(
                f"{text}: which output is {info.class_names[0]!r} is not known",
                fix="say it with --label-map FILE, or imagenet where folders are named by wnids",
            )
        doubts.append(f"{text}: label i is taken as output i")
    return doubts
