"""Which tensors of a file are those of a network: prefixes are found by matching, not by a list."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from abatis.errors import UsageError
from abatis.nets.weights.pairs import find_pairs

COMPUTED = (
    "num_batches_tracked",
    "relative_position_index",
    "relative_coords_table",
    "attn_mask",
    "position_ids",
)
"""Last names of tensors that a network computes itself: a file may lack them or have them."""
NEVER_RUN = "sub_block1"
"""Part of the names of layers that released wide ResNets have and never run."""


class Target:
    """The tensors that a network wants.

    Attributes:
        tensors: by name, as they are now.
        normalisation: the names of its own mean and std of the channels; empty if it has none.
        head: the names of the classifier's tensors.
        parameters: the names of what is learnt; the rest are buffers.
    """

    def __init__(self, module: nn.Module) -> None:
        state = module.state_dict()
        self.tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
        lazy = [name for name, value in self.tensors.items() if is_lazy(value)]
        if lazy:
            raise UsageError(
                f"the network has tensors without a shape, such as {lazy[0]}",
                fix="run it once on an image where it is made: lazy modules get their shapes then",
            )
        self.parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
        buffers = {name for name, _ in module.named_buffers()}
        pairs = find_pairs(self.tensors, [name for name in self.tensors if name in buffers])
        self.normalisation = pairs[0].keys if len(pairs) == 1 else ()
        self.head = find_head(module)

    @cached_property
    def spare(self) -> frozenset[str]:
        """Names that a file may lack."""
        computed = {name for name in self.tensors if name.rpartition(".")[2] in COMPUTED}
        return frozenset(computed | self.never_run | {*self.normalisation})

    @cached_property
    def never_run(self) -> frozenset[str]:
        """Names of tensors of layers that are never run."""
        return frozenset(name for name in self.tensors if NEVER_RUN in name.split("."))

    @cached_property
    def twins(self) -> Mapping[str, str]:
        """The first name of every tensor that has several: tied weights."""
        first: dict[tuple[object, ...], str] = {}
        twins = {}
        for name, value in self.tensors.items():
            if value.numel() and value.data_ptr():
                key = (value.data_ptr(), value.shape, value.stride(), value.dtype)
                twins[name] = first.setdefault(key, name)
        return twins

    @cached_property
    def wrappings(self) -> tuple[str, ...]:
        """What all names but those of the normalisation begin with, like ``backbone.`` or ``1.``"""
        names = [name for name in self.tensors if name not in self.normalisation]
        ends = [match.end() for match in re.finditer(r"\.", names[0])] if names else []
        starts = ("", *(names[0][:end] for end in ends))
        return tuple(start for start in starts if all(name.startswith(start) for name in names))


def find_head(module: nn.Module) -> frozenset[str]:
    """The names of the classifier's tensors: timm's, or those of the last module with a matrix."""
    names = {id(part): name for name, part in module.named_modules()}
    inner = getattr(module, "backbone", module)
    getter = getattr(inner, "get_classifier", None)
    parts = getter() if callable(getter) else None
    chosen = [part for part in (parts if isinstance(parts, tuple) else (parts,)) if part]
    if not chosen:
        matrices = [part for part in module.modules() if _has_matrix(part)]
        chosen = matrices[-1:]
    return frozenset(
        f"{names[id(part)]}.{name}".lstrip(".")
        for part in chosen
        if isinstance(part, nn.Module) and id(part) in names
        for name in part.state_dict()
    )


def _has_matrix(module: nn.Module) -> bool:
    weight = module._parameters.get("weight")
    return weight is not None and weight.dim() > 1


@dataclass(frozen=True)
class Fit:
    """How one set of weights fits a network.

    Attributes:
        prefix: what its names begin with, beside those of the network.
        taken: the tensors of the network, by the network's names.
        missing: names of the network that the set lacks.
        reshaped: names whose tensors have other shapes, with the shape in the set.
        used: names of the set that the network has, with any shape.
        spared: names of the network that the set lacks and need not have.
    """

    prefix: str
    taken: Mapping[str, Tensor]
    missing: tuple[str, ...]
    reshaped: Mapping[str, tuple[int, ...]]
    used: frozenset[str]
    spared: tuple[str, ...]

    @property
    def is_complete(self) -> bool:
        """Does the set hold every tensor of the network?"""
        return not self.missing and not self.reshaped

    def lacks_only(self, names: frozenset[str]) -> bool:
        """Does the set hold every tensor but, at most, these?"""
        return bool(self.taken) and names.issuperset((*self.missing, *self.reshaped))

    def equals(self, other: Fit) -> bool:
        """Would both give the network the same tensors?"""
        return self.taken.keys() == other.taken.keys() and all(
            torch.equal(value, other.taken[name]) for name, value in self.taken.items()
        )


def match_set(target: Target, tensors: Mapping[str, Tensor]) -> list[Fit]:
    """The ways in which a set may fit a network, the one with most tensors first."""
    found = []
    for own in target.wrappings:
        names = {name.removeprefix(own): name for name in target.tensors if name.startswith(own)}
        found += [
            _match(target, tensors, names, prefix) for prefix in propose_prefixes(names, tensors)
        ]
    return sorted(found, key=lambda fit: (-len(fit.taken), len(fit.prefix)))


def propose_prefixes(names: Mapping[str, str], keys: Mapping[str, Tensor]) -> list[str]:
    """Prefixes of a file's names behind which names of the network stand."""
    counts: Counter[str] = Counter()
    for key in keys:
        ends = [0, *(match.end() for match in re.finditer(r"\.", key))]
        counts.update(key[:end] for end in ends if key[end:] in names)
    most = max(counts.values(), default=0)
    return [prefix for prefix, count in counts.items() if 2 * count >= most]


def _match(
    target: Target, tensors: Mapping[str, Tensor], names: Mapping[str, str], prefix: str
) -> Fit:
    keys = {own: prefix + name for name, own in names.items()}
    # the network's own normalisation may stand outside of what the prefix is about
    taken: dict[str, Tensor] = {}
    used: set[str] = set()
    reshaped: dict[str, tuple[int, ...]] = {}
    for own, wanted in target.tensors.items():
        key = keys.get(own, prefix + own)
        value = tensors.get(key)
        if value is None:
            continue
        used.add(key)
        if own in target.normalisation and value.numel() == wanted.numel():
            value = value.reshape(wanted.shape)
        if value.shape == wanted.shape:
            taken[own] = value
        else:
            reshaped[own] = tuple(value.shape)
    tied = {target.twins[own]: value for own, value in taken.items() if own in target.twins}
    for own, twin in target.twins.items():
        if twin in tied and own not in reshaped:
            taken.setdefault(own, tied[twin])
    absent = [own for own in target.tensors if own not in taken and own not in reshaped]
    return Fit(
        prefix,
        taken,
        tuple(own for own in absent if own not in target.spare),
        reshaped,
        frozenset(used),
        tuple(own for own in absent if own in target.spare),
    )
