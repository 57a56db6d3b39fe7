"""Auxiliary networks, which plugins train or use beside the one that is judged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from abatis.errors import PluginError, UsageError
from abatis.nets.module_state import load_state, read_extra_state, read_tensors
from abatis.nets.net import Net

Build = Callable[["nn.Module | str"], Net]
"""Makes a network of a module, or of the name of a backbone."""


def add_auxiliary(net: Net, build: Build, name: str, module: nn.Module | str, train: bool) -> Net:
    """Give a network an auxiliary one.

    Args:
        net: The network that is judged.
        build: Makes the auxiliary one, on the device of ``net``.
        name: Of the auxiliary one, once a run.
        module: A module, or the name of a backbone.
        train: Is it trained, by the same optimizer? Else it stays frozen, in eval mode.

    Raises:
        PluginError: The name is taken, or the run has started.
        UsageError: It is to be trained, and has no trainable parameters.
    """
    if net.auxiliaries_closed:
        raise PluginError(
            f"run.auxiliary('{name}') came after the start: the optimizer is made by then",
            fix="call it in the hook, not in the callable that the hook returns",
        )
    if name in net.auxiliaries:
        raise PluginError(
            f"there is an auxiliary network '{name}' already",
            fix="give it another name, or make it once: run.shared(...)",
        )
    made = build(module)
    if made.module is net.module:
        raise PluginError(
            f"the auxiliary network '{name}' is run.net.module itself", fix="give a copy of it"
        )
    if train:
        made.module.train()
        if not any(parameter.requires_grad for parameter in made.module.parameters()):
            raise UsageError(f"the auxiliary network '{name}' has no trainable parameters")
    else:
        made.module.eval().requires_grad_(False)
        made.is_trained = False
    net.auxiliaries[name] = made
    return made


def read_auxiliaries(net: Net) -> dict[str, dict[str, Any]]:
    """What a checkpoint keeps of the auxiliary networks, by name: weights, or their digest."""
    return {
        name: {"tensors": read_tensors(one.module), "extra": read_extra_state(one.module)}
        if one.is_trained
        else {"digest": one.digest}
        for name, one in net.auxiliaries.items()
    }


def load_trained(net: Net, saved: Mapping[str, Mapping[str, Any]]) -> None:
    """Load the trained ones of what :func:`read_auxiliaries` gave.

    Raises:
        UsageError: The run trains others.
        RuntimeError: The tensors are not those of the network.
    """
    own = {name for name, one in net.auxiliaries.items() if one.is_trained}
    found = {name for name, state in saved.items() if "digest" not in state}
    if own != found:
        raise UsageError(
            f"the checkpoint has the trained auxiliary networks {_list_names(found)},"
            f" this run {_list_names(own)}",
            fix="give the same plugins and options as in that run",
        )
    for name in own:
        load_state(net.auxiliaries[name].module, saved[name]["tensors"], saved[name]["extra"])


def check_frozen(net: Net, saved: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise UsageError where a frozen network has other weights than in the checkpoint."""
    for name, one in net.auxiliaries.items():
        if not one.is_trained and saved.get(name, {}).get("digest") != one.digest:
            raise UsageError(
                f"the frozen network '{name}' has other weights than when this run was started",
                fix="give the same weights again, or choose another --name",
            )


def _list_names(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
