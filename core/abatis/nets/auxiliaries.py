"""Auxiliary networks, which plugins train or use beside the one that is judged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from abatis.api.randomness import untouched
from abatis.errors import AbatisError, PluginError, UsageError, summarise_error
from abatis.nets.module_state import load_state, read_extra_state, read_tensors
from abatis.nets.net import Net
from abatis.nets.outputs import adapt_outputs, adapt_training_output
from abatis.system.torch_messages import is_out_of_memory
from abatis.system.user_module import raised_at

Build = Callable[["nn.Module | str"], Net]
"""Makes a network of a module, or of the name of a backbone."""


def add_auxiliary(
    net: Net,
    build: Build,
    name: str,
    module: nn.Module | str,
    train: bool,
    *,
    images: Tensor | None = None,
    classes: int | None = None,
) -> Net:
    """Give a network an auxiliary one.

    Args:
        net: The network that is judged.
        build: Makes the auxiliary one, on the device of ``net``.
        name: Of the auxiliary one, once a run.
        module: A module, or the name of a backbone.
        train: Is it trained, by the same optimizer? Else it stays frozen, in eval mode.
        images: A few like those of the run, (B, C, H, W) in [0, 1], to try it on; None to try
            nothing.
        classes: Of the data; a backbone that is named must have as many outputs. A module may
            be something else than a classifier.

    Raises:
        PluginError: The name is taken, or the run has started.
        UsageError: It is to be trained, and has no trainable parameters; or it does not take such
            images, or returns no logits of as many classes.
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
    if images is not None:
        _try_auxiliary(made, images, name, classes if isinstance(module, str) else None)
    net.auxiliaries[name] = made
    return made


def _try_auxiliary(one: Net, images: Tensor, name: str, classes: int | None) -> None:
    """Try an auxiliary network; it gets hooks where it does not return plain logits.

    Raises:
        UsageError: It fails, returns no logits, or those of another number of classes.
    """
    what = f"the auxiliary network '{name}' ({type(one.module).__name__})"
    with untouched(), one.restore_buffers(), torch.no_grad():
        with one.frozen_mode():
            output = _try_forward(one, images, what)
            if not isinstance(output, Tensor):
                adapt_outputs(one.module, output, len(images), classes, None, what)
                output = _try_forward(one, images, what)
        if classes is not None and output.shape != (len(images), classes):
            raise UsageError(
                f"{what} returns {tuple(output.shape)} for {len(images)} images,"
                f" and the data have {classes} classes",
                fix="choose a network with one output for each class",
            )
        if one.is_trained:
            trained = _try_forward(one, images, f"{what}, in train mode,")
            if not isinstance(trained, Tensor):
                adapt_training_output(one.module, trained, output.shape, what)


def _try_forward(one: Net, images: Tensor, what: str) -> Any:
    """What it returns for the images; raises UsageError where it fails."""
    try:
        return one.module(images)
    except Exception as error:
        if isinstance(error, AbatisError) or is_out_of_memory(error):
            raise
        raise UsageError(
            f"{what} fails on images {tuple(images.shape)}: {summarise_error(error)}",
            where=raised_at(error),
            fix="choose a network for images of this size, or resize them inside of the module",
        ) from error


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
