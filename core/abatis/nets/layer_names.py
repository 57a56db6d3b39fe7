"""Layers by the names that a user gives: names of modules, their last parts, patterns of these."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

from torch import nn

from abatis.errors import UsageError, did_you_mean


def matches_layer(name: str, pattern: str) -> bool:
    """Is a layer meant by a pattern?

    Args:
        name: of a module or parameter, such as ``backbone.layer1.0``.
        pattern: such as ``layer1.0``, or ``layer*``: the name, or what follows one of its dots.
    """
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[start:]), pattern) for start in range(len(parts)))


def find_layers(module: nn.Module, pattern: str) -> list[nn.Module]:
    """All parts of a network that a pattern means, without the network itself."""
    return [part for name, part in module.named_modules() if name and matches_layer(name, pattern)]


def find_parameters(module: nn.Module, pattern: str) -> list[nn.Parameter]:
    """The parameters that a pattern means: by their own names, or by that of a layer above them."""
    return [
        parameter
        for name, parameter in module.named_parameters(remove_duplicate=False)
        if any(matches_layer(above, pattern) for above in _list_prefixes(name))
    ]


def _list_prefixes(name: str) -> Iterator[str]:
    """``a``, ``a.b`` and ``a.b.c`` of ``a.b.c``."""
    parts = name.split(".")
    return (".".join(parts[: end + 1]) for end in range(len(parts)))


def explain_missing(module: nn.Module, name: str, option: str, pattern: str) -> UsageError:
    """The error for a pattern that means no layer.

    Args:
        module: the network.
        name: of the network.
        option: as written, such as ``--freeze stm``.
        pattern: the part of it that means nothing.
    """
    layers = list_layers(module)
    hint = did_you_mean(pattern, layers)
    near = f"{hint} " if hint.startswith("did") else ""
    return UsageError(
        f"{option}: {name} has no such layer", fix=f"{near}its layers are {', '.join(layers)}"
    )


def list_layers(module: nn.Module) -> list[str]:
    """Names of the parts of a network, below wrappers and sequences that hold all or most of it."""
    children = [
        (name, child)
        for name, child in module.named_children()
        if next(child.parameters(), None) is not None
    ]
    if len(children) == 1:
        return list_layers(children[0][1]) or [children[0][0]]
    names = []
    for name, child in children:
        whole = isinstance(child, nn.Sequential) and not next(iter(child._modules)).isdigit()
        names += list_layers(child) if whole else [name]
    return names
