"""Loads weights into a network, to judge it or to start a training from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from abatis.errors import UsageError
from abatis.nets.module_state import EXTRA, load_state, read_tensors
from abatis.nets.normalising import Normalized
from abatis.nets.weights.choosing import OPTION, Choice, choose_weights, is_average
from abatis.nets.weights.contents import WHOLE, Contents
from abatis.nets.weights.leftovers import describe_dropped, show_names, sort_leftovers
from abatis.nets.weights.matching import Fit, Target
from abatis.nets.weights.pairs import LARGEST, Pair, find_pairs
from abatis.nets.weights.released_names import Family, translate_released
from abatis.nets.weights.values import check_values

SINGLE = 4  # bytes of a float32
DESIGN = "design"  # among the facts of a file: options that its tensors do not show


@dataclass(frozen=True)
class Loaded:
    """A network with its weights.

    Attributes:
        module: the network; inside a layer of normalisation where the file brings one.
        notes: what was done, for the user.
        doubts: why the network may not be the one that its authors judged.
        normalised: does the file say how images are normalised?
        family: of a released network whose tensors were renamed; else None.
    """

    module: nn.Module
    notes: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    normalised: bool = False
    family: Family | None = None


def load_into(
    module: nn.Module,
    contents: Contents,
    name: str,
    key: str | None = None,
    statistics: tuple[Sequence[float], Sequence[float]] | None = None,
) -> Loaded:
    """Load weights to judge the network. Every tensor must be there.

    Args:
        module: the network, which is changed.
        contents: of the weights file.
        name: of the network, for messages.
        key: the set of weights; the usual one if None.
        statistics: mean and std of the channels to normalise by, whatever the file says.

    Raises:
        UsageError: the weights do not fit, or hold tensors that the network does not know.
    """
    target = Target(module)
    check_design(contents, module, name)
    contents, family = translate_released(contents, module)
    choice = choose_weights(target, contents, key, name, lambda fit: fit.is_complete)
    pairs = _find_pairs(choice)
    dropped, unknown = sort_leftovers(choice.tensors, _list_rest(choice))
    if unknown:
        raise UsageError(
            f"{contents.path} holds {len(unknown)} tensors that {name} does not have: "
            f"{show_names(unknown)}",
            fix="give the --backbone of all of them; or save the state_dict of the network alone",
        )
    check_values(target, choice.fit, contents)
    _load(module, choice.fit, contents)
    notes = _describe(contents, choice, family)
    if unused := sorted(target.never_run.intersection(choice.fit.spared)):
        _spoil(module, unused)
        notes.append(
            f"{len(unused)} tensors of layers that are never run are not in the file ("
            f"{show_names(unused)}): a network that runs them has no finite logits"
        )
    notes += [f"not part of the network: {describe_dropped(dropped)}"] if dropped else []
    doubts = []
    in_file = bool(pairs) or bool({*target.normalisation} - {*choice.fit.spared})
    if statistics is not None:
        module = _set_statistics(module, target, *statistics, name)
    elif pairs:
        module, note = _take_statistics(module, target, pairs, contents)
        notes.append(note)
    elif not in_file and (doubt := _doubt_prefix(choice)):
        doubts.append(doubt)
    return Loaded(module, notes, doubts, in_file or statistics is not None, family)


def start_from(
    module: nn.Module,
    contents: Contents,
    name: str,
    key: str | None = None,
    statistics: tuple[Sequence[float], Sequence[float]] | None = None,
) -> str:
    """Load weights to train on. Only the head may be missing; it keeps its new random values.

    Args:
        module: the network, which is changed.
        contents: of the weights file.
        name: of the network, for messages.
        key: the set of weights; the usual one if None.
        statistics: mean and std of the channels that the weights were trained with, where the file
            does not say.

    Returns:
        What was done, in words.

    Raises:
        UsageError: the weights do not fit.
    """
    target = Target(module)
    check_design(contents, module, name)
    contents, family = translate_released(contents, module)
    choice = choose_weights(target, contents, key, name, lambda fit: fit.lacks_only(target.head))
    pairs = _find_pairs(choice)
    wanted = pairs[0] if pairs else statistics and Pair(("", ""), *map(tuple, statistics))
    if wanted and not wanted.changes_nothing and not target.normalisation:
        raise UsageError(
            f"{contents.path} normalises images by {wanted}, and {name} does not",
            fix="add --normalize MEAN STD, or put a layer with buffers mean and std before it",
        )
    check_values(target, choice.fit, contents)
    _load(module, choice.fit, contents)
    new = [*choice.fit.missing, *choice.fit.reshaped]
    parts = [f"weights from {contents.path}"]
    parts += [f"new head ({', '.join(new)})"] if new else []
    parts += _describe(contents, choice, family)
    if pairs:
        parts.append(_take_statistics(module, target, pairs, contents)[1])
    elif statistics is not None:
        _set_statistics(module, target, *statistics, name)
        parts.append(f"normalised by mean {tuple(statistics[0])}, std {tuple(statistics[1])}")
    elif family is not None and not family.normalises:
        parts.append("the file does not say how its images were normalised: --normalize none?")
    rest = _list_rest(choice)
    parts += [f"{len(rest)} other tensors not used ({show_names(rest)})"] if rest else []
    return "; ".join(parts)


def read_design(module: nn.Module) -> dict[str, Any]:
    """The options of one of our nets that its tensors do not show; empty for others."""
    return dict(getattr(getattr(module, "backbone", module), "design", {}))


def check_design(contents: Contents, module: nn.Module, name: str) -> None:
    """Raise UsageError where the weights of a run are of a net that computes something else."""
    if "backbone" not in contents.facts:
        return
    written, own = contents.facts.get(DESIGN, {}), read_design(module)
    if written != own:
        raise UsageError(
            f"{contents.path} is of a network with {_show_design(written)}, and {name} has "
            f"{_show_design(own)}",
            fix="name the run folder, or the network with these options, such as wrn28-silu",
        )


def _show_design(design: object) -> str:
    pairs = design.items() if isinstance(design, dict) else ()
    return ", ".join(f"{key} {value}" for key, value in pairs) or "the usual options"


def _find_pairs(choice: Choice) -> list[Pair]:
    """The normalisations of a file that the network did not take.

    One that does nothing counts where there is no other.
    """
    pairs = find_pairs(choice.tensors, choice.left)
    return [pair for pair in pairs if not pair.changes_nothing] or pairs


def _list_rest(choice: Choice) -> list[str]:
    """The names of what the network did not take and that are not those of a normalisation."""
    pairs = find_pairs(choice.tensors, choice.left)
    known = {key for pair in pairs for key in pair.keys}
    return [name for name in choice.left if name not in known]


@torch.no_grad()
def _load(module: nn.Module, fit: Fit, contents: Contents) -> None:
    """Copy the tensors into the network; what it has besides stays as it is."""
    own = read_tensors(module)
    load_state(module, {**own, **fit.taken}, contents.facts.get(EXTRA))


@torch.no_grad()
def _spoil(module: nn.Module, names: Sequence[str]) -> None:
    """Make tensors unusable that nothing may read."""
    tensors = module.state_dict()
    for name in names:
        if tensors[name].is_floating_point():
            tensors[name].fill_(torch.nan)


def _describe(contents: Contents, choice: Choice, family: Family | None) -> list[str]:
    """What was done, for the user: the set, its names, its precision, and what was not read."""
    fit, notes = choice.fit, []
    if family is not None:
        notes.append(f"the tensors have the names of {family.title}")
    if choice.others:
        notes.append(
            f"weights '{choice.label}', an average, which its authors evaluate; "
            f"{', '.join(choice.others)} would fit too: {OPTION}"
            if is_average(choice.label)
            else f"weights '{choice.label}'; {', '.join(choice.others)} would fit too: {OPTION}"
        )
    elif choice.label != WHOLE:
        notes.append(f"weights '{choice.label}'")
    if fit.prefix:
        notes.append(f"the names in the file begin with '{fit.prefix}'")
    values = [value for value in fit.taken.values() if value.is_floating_point()]
    if low := sorted({str(value.dtype) for value in values if value.itemsize < SINGLE}):
        notes.append(f"the weights in the file are {low[0].removeprefix('torch.')}")
    if choice.unfit:
        notes.append(f"not used, for it does not fit: {show_names(choice.unfit)}")
    if contents.others:
        notes.append(f"not read from the file: {show_names(contents.others, 12)}")
    return notes


def _take_statistics(
    module: nn.Module, target: Target, pairs: Sequence[Pair], contents: Contents
) -> tuple[nn.Module, str]:
    """The network with the normalisation of the file, and a note.

    Raises:
        UsageError: the file has several, or one for images in [0, 255].
    """
    first = pairs[0]
    if any(not pair.equals(first) for pair in pairs):
        raise UsageError(
            f"{contents.path} holds several normalisations: {'; '.join(map(str, pairs))}",
            fix="say which one counts with --normalize MEAN STD",
        )
    if max(*first.mean, *first.std) > LARGEST:
        raise UsageError(
            f"{contents.path} normalises by {first}, which is not for images in [0, 1]",
            fix="divide by the largest pixel value, and give both with --normalize MEAN STD",
        )
    note = f"normalised as the file says: {first}"
    if not target.normalisation:
        inside = module if first.changes_nothing else Normalized(module, first.mean, first.std)
        return inside, note
    _fill(module, target, first.mean, first.std)
    return module, note


def _set_statistics(
    module: nn.Module, target: Target, mean: Sequence[float], std: Sequence[float], name: str
) -> nn.Module:
    """The network with the normalisation that the user asked for.

    Raises:
        UsageError: it has one of its own.
    """
    if not target.normalisation:
        return Normalized(module, mean, std)
    if not isinstance(module, Normalized):
        raise UsageError(
            f"--normalize: {name} has a normalisation of its own ({target.normalisation[0]})",
            fix="leave --normalize out, or remove the layer from the network",
        )
    _fill(module, target, mean, std)
    return module


@torch.no_grad()
def _fill(module: nn.Module, target: Target, mean: Sequence[float], std: Sequence[float]) -> None:
    """Write the statistics into the network's own normalisation."""
    buffers = dict(module.named_buffers())
    for name, values in zip(target.normalisation, (mean, std), strict=True):
        buffer = buffers[name]
        if buffer.numel() != len(values):
            raise UsageError(
                f"the normalisation has {len(values)} channels, and the images {buffer.numel()}",
                fix="give one mean and one std for each channel",
            )
        buffer.copy_(torch.tensor(values, dtype=buffer.dtype).view(buffer.shape))


def _doubt_prefix(choice: Choice) -> str:
    """A sentence where a layer without tensors stood before the network: perhaps a normalisation.

    ``1.`` with no ``0.`` is what a Sequential of both leaves behind.
    """
    parts = choice.fit.prefix.strip(".").split(".")
    places = [place for place, part in enumerate(parts) if part.isdecimal() and int(part) > 0]
    if not places:
        return ""
    return (
        f"the names in the file begin with '{choice.fit.prefix}': a layer without tensors came "
        "before the network, perhaps a normalisation; --normalize says which"
    )
