"""Reads the weights of RobustBench's networks. No code of a file is run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import nn

from abatis.errors import UsageError
from abatis.nets.backbones.timm_names import translate_to_timm
from abatis.nets.backbones.zoo.architectures import build_zoo
from abatis.nets.backbones.zoo.table import (
    EACH_IMAGE,
    IN_FILE,
    NONE,
    PREFIX,
    ZooNetwork,
    find_zoo,
)
from abatis.nets.normalising import Normalized
from abatis.nets.weights import Contents, Loaded, load_into, read_contents, start_from

STATE = "state_dict"  # the set that RobustBench takes where a file has it


def read_zoo(network: ZooNetwork, zoo_dir: Path, module: nn.Module) -> Contents:
    """The weights of a network, by the names that ours or timm's version of it uses.

    Raises:
        UsageError: they are not there or cannot be read.
    """
    path = network.require_file(zoo_dir)
    contents = read_contents(path, allow_pickle=True)
    net = getattr(module, "backbone", module)
    return translate_to_timm(contents, net)


def load_zoo(network: ZooNetwork, zoo_dir: Path, weights_key: str | None = None) -> Loaded:
    """A network of the zoo with its weights.

    Args:
        network: a row of the table.
        zoo_dir: the folder that holds ``cifar10/Linf/NAME.pt`` and so on.
        weights_key: the set of weights; the one that RobustBench takes if None.

    Raises:
        UsageError: the weights are not there, do not fit, or are normalised otherwise.
    """
    module = build_zoo(network)
    contents = read_zoo(network, zoo_dir, module)
    name = f"{PREFIX}{network.key}"
    loaded = load_into(module, contents, name, weights_key or choose_set(network, contents))
    _check_normalisation(network, loaded, contents)
    notes = [*loaded.notes, describe(network)]
    return replace(loaded, notes=notes, normalised=True)


def start_from_zoo(
    module: nn.Module, spec: str, zoo_dir: Path, name: str, weights_key: str | None = None
) -> str:
    """Load weights of the zoo into a network to train on; only the head may be missing.

    Args:
        module: the network, which is changed.
        spec: ``rb:NAME``.
        zoo_dir: the folder of the weights.
        name: of the network, for messages.
        weights_key: the set of weights; the one that RobustBench takes if None.

    Returns:
        What was done, in words.

    Raises:
        UsageError: the weights are not there or do not fit.
    """
    network = find_zoo(spec, zoo_dir)
    contents = read_zoo(network, zoo_dir, module)
    if network.normalize == EACH_IMAGE:
        raise UsageError(
            f"{spec} standardises each image, and {name} does not",
            fix=f"--backbone {spec} --pretrained",
        )
    statistics = None if network.normalize == IN_FILE else network.statistics
    key = weights_key or choose_set(network, contents)
    done = start_from(module, contents, name, key, statistics)
    return f"{done}; {describe(network)}"


def choose_set(network: ZooNetwork, contents: Contents) -> str | None:
    """The set of weights that RobustBench takes; None for the only or usual one."""
    if network.set:
        return network.set
    takes_state = not network.is_asset and STATE in contents.sets
    return STATE if takes_state else None


def _check_normalisation(network: ZooNetwork, loaded: Loaded, contents: Contents) -> None:
    """Compare the normalisation of the file with the table; the file's has been loaded.

    Raises:
        UsageError: there is none where it must be, or one where there must be none.
    """
    name = f"{PREFIX}{network.key}"
    if network.normalize == IN_FILE and not loaded.normalised:
        raise UsageError(
            f"{contents.path} does not say how images are normalised, as that of {name} must",
            fix="download the file again",
        )
    if network.normalize == NONE and loaded.normalised:
        raise UsageError(
            f"{contents.path} holds a normalisation, and {name} takes images as they are",
            fix="it is another network's file; or judge it with --backbone FILE.py:FACTORY",
        )
    module = loaded.module
    if loaded.normalised and network.normalize != IN_FILE and isinstance(module, Normalized):
        own = [buffer.flatten().tolist() for buffer in module.normalize.buffers()]
        pairs = zip(own, network.statistics, strict=True)
        if any(abs(a - b) > 1e-3 for got, want in pairs for a, b in zip(got, want, strict=True)):
            loaded.doubts.append(
                f"the file normalises otherwise than RobustBench does: by {own[0]} and {own[1]}"
            )


def describe(network: ZooNetwork) -> str:
    """A sentence with the published accuracies and the licence."""
    text = f"{network.key} of RobustBench, weights under {network.licence}"
    if network.clean:
        under = network.threat_model or "corruptions"
        text += f"; published: clean {network.clean} %, {under} {network.robust} %"
    return text
