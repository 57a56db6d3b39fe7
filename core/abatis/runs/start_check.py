"""What a network must be able to do, tried before a run starts: forwards and gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from abatis.api.randomness import untouched
from abatis.errors import UsageError, summarise_error
from abatis.nets.backbones import unwrap
from abatis.nets.copying import copy_module
from abatis.nets.first_pass import explain_failure, try_network
from abatis.nets.layer_names import explain_missing, find_layers
from abatis.nets.module_state import read_extra_state
from abatis.nets.net import BATCH_STATISTICS, Net
from abatis.nets.outputs import CopyImages, adapt_images, adapt_outputs, adapt_training_output
from abatis.nets.programs import ScriptedNetwork
from abatis.nets.standalone import ExportedNetwork
from abatis.system.torch_messages import is_out_of_memory
from abatis.system.user_module import raised_at

HALF = (torch.float16, torch.bfloat16)


def prepare_module(
    module: nn.Module, name: str, freeze_norms: bool, freeze: Sequence[str] = ()
) -> list[str]:
    """Make a network ready for training.

    Args:
        module: the network, which is changed.
        name: of the network, for messages.
        freeze_norms: batch norms keep their running statistics.
        freeze: names of layers that are not trained.

    Returns:
        Notes for the user.

    Raises:
        UsageError: it is a program, which can be judged but not trained, or cannot be saved.
    """
    programs = (torch.jit.ScriptModule, ScriptedNetwork, ExportedNetwork)
    parts = [part for part in module.modules() if isinstance(part, programs) or _is_exported(part)]
    if parts:
        raise UsageError(
            f"{name} is a program or has one inside ({type(parts[0]).__name__}): it can be judged, "
            "not trained",
            fix="give the Python module that the program was made from",
        )
    _check_habits(module, name)
    read_extra_state(module)
    notes = []
    low = {part.dtype for part in module.parameters() if part.dtype in HALF}
    if low:
        module.float()
        notes.append(
            f"the weights of {name} were {str(low.pop()).removeprefix('torch.')}; they are trained "
            "in float32, and --precision bf16 makes the forward passes in bfloat16"
        )
    adapt_images(unwrap(module), notes)
    if freeze_norms:
        module.train()
        for part in module.modules():
            if isinstance(part, BATCH_STATISTICS):
                part.eval()
    still = [part for part in module.modules() if module.training and not part.training]
    norms = sum(isinstance(part, BATCH_STATISTICS) for part in still)
    if norms:
        how = "as asked for" if freeze_norms else "as you set them"
        notes.append(f"{norms} batch norms keep their running statistics, {how}")
    elif still:
        notes.append(f"{len(still)} modules stay in eval mode, as you set them")
    return [*notes, *freeze_layers(module, name, freeze)]


def freeze_layers(module: nn.Module, name: str, wanted: Sequence[str]) -> list[str]:
    """Leave layers as they are: their parameters are not trained, and they stay in eval mode.

    Args:
        module: the network, in train mode.
        name: of the network, for messages.
        wanted: names of modules, their ends, or patterns of these like ``stage1*``.

    Returns:
        A note, if there are any.

    Raises:
        UsageError: there is no such layer.
    """
    frozen: set[int] = set()
    for pattern in wanted:
        found = find_layers(module, pattern)
        if not found:
            raise explain_missing(module, name, f"--freeze {pattern}", pattern)
        for part in found:
            frozen |= {id(parameter) for parameter in part.requires_grad_(False).parameters()}
            part.eval()
    if not wanted:
        return []
    size = sum(weight.numel() for weight in module.parameters() if id(weight) in frozen)
    return [f"frozen: {', '.join(wanted)}, {size:,} parameters"]


def _check_habits(module: nn.Module, name: str) -> None:
    """Raise UsageError where a network cannot be saved, moved or switched to a mode."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        values = dict(module.state_dict())
        for mode in (False, True):
            module.train(mode)
    except Exception as error:
        raise UsageError(
            f"{name} cannot be trained: {summarise_error(error)}",
            where=raised_at(error),
            fix="state_dict() and train() must work as those of torch's modules",
        ) from error
    for part, mode in modes:
        part.training = mode
    if any(isinstance(value, Tensor) and value.is_meta for value in values.values()):
        raise UsageError(
            f"{name} has tensors on the meta device, which hold no values",
            fix="make the network on the cpu, or load its weights",
        )


def _is_exported(module: nn.Module) -> bool:
    """Is it a torch.export program? These replace the method that sets the mode."""
    return isinstance(module, torch.fx.GraphModule) and "train" in vars(module)


def check_start(net: Net, images: Tensor, classes: int, name: str, copied: bool) -> list[str]:
    """Try one forward in eval mode, one in train mode, and gradients.

    The network, its buffers and the global random generators are left as they were.

    Args:
        net: the network on its device; it gets hooks where it does not return plain logits.
        images: a few of the data, (B, C, H, W) in [0, 1].
        classes: of the data.
        name: of the network, for messages.
        copied: will the network be copied, as averaging does?

    Returns:
        Notes for the user.

    Raises:
        UsageError: it cannot be trained; the error names the network and the reason.
    """
    notes: list[str] = []
    with untouched(), net.whole(), net.restore_buffers():
        _guard_images(net, images, name, notes)
        with net.frozen_mode():
            output = try_network(net.module, images, name)
            notes += adapt_outputs(net.module, output, len(images), classes, None, name)
            logits = try_network(net.module, images, name)
            width = logits.shape[1]
            _refuse_nan(logits, name)
        notes += _check_train_mode(net, images, width, name)
        _check_gradients(net, images, name)
        if copied:
            _check_copy(net.module, name)
    return notes


def _guard_images(net: Net, images: Tensor, name: str, notes: list[str]) -> None:
    """Give a network that writes on its images copies of them."""
    given = images.clone()
    before = given._version
    with net.frozen_mode():
        try_network(net.module, given, name)
    if given._version != before:
        net.module.register_forward_pre_hook(CopyImages())
        notes.append(f"{name} changes its images in place: it is given copies")


def _check_train_mode(net: Net, images: Tensor, width: int, name: str) -> list[str]:
    """Make the network return logits in train mode, too; returns notes."""
    try:
        output = net.module(images)
    except Exception as error:
        raise explain_failure(error, f"{name}, in train mode,", images) from error
    _refuse_nan(output, f"{name}, in train mode,")
    return adapt_training_output(net.module, output, (len(images), width), name)


def _refuse_nan(output: object, name: str) -> None:
    """Raise UsageError where logits are NaN before the first update."""
    if isinstance(output, Tensor) and bool(output.isnan().any()):
        raise UsageError(
            f"{name} returns NaN for the first images",
            fix="correct the network or its weights: nothing was trained yet",
        )


def _check_gradients(net: Net, images: Tensor, name: str) -> None:
    """Raise UsageError where the logits do not depend on the weights, or not on the images."""
    x = images.clone().requires_grad_()
    try:
        with net.frozen_mode():
            logits = net.module(x)
        gradient = None
        if logits.requires_grad:
            (gradient,) = torch.autograd.grad(logits.float().sum(), x, allow_unused=True)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise UsageError(
            f"{name} cannot be trained: {summarise_error(error)}",
            where=raised_at(error),
            fix="compute with torch alone, without no_grad, detach, numpy or changes in place",
        ) from error
    if gradient is None:
        what = "images" if logits.requires_grad else "weights and images"
        raise UsageError(
            f"{name} cannot be trained: its logits are cut off from the {what}",
            fix="compute with torch alone, without no_grad, inference_mode, detach or numpy",
        )


def _check_copy(module: nn.Module, name: str) -> None:
    """Raise UsageError where the network cannot be copied, as --ema needs."""
    try:
        copy_module(module)
    except Exception as error:
        raise UsageError(
            f"--ema: {name} cannot be copied: {summarise_error(error)}",
            fix="leave --ema out, or keep what cannot be copied outside of the module",
        ) from error
