"""Makes any classifier a function from images to logits, by hooks: its tensors keep their names.

The hooks are part of the module, so that attacks, gradients, exports and verdicts see one function.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from abatis.errors import UsageError

SIGMOID = "sigmoid"  # the answer to `--output` for a single logit
WRAPPERS = (DataParallel, DistributedDataParallel)


@dataclass
class TakeLogits:
    """A forward hook: the logits (B, K), in float32, among what a network returns.

    Attributes:
        key: of a table or an object.
        place: in a tuple or list.
        single: one logit z, (B, 1) or (B,), becomes (-z/2, z/2): equal cross-entropy, and class 1
            where z is positive.
    """

    key: str = "logits"
    place: int | None = 0
    single: bool = False

    def __call__(self, module: nn.Module, images: Any, output: Any) -> Any:
        value = pick(output, self.key, self.place)
        if not isinstance(value, Tensor):
            return value
        value = value.float()
        if self.single:
            half = value.reshape(len(value), 1) / 2
            return torch.cat([-half, half], 1)
        return value.flatten(1) if value.dim() > 2 and value[0].numel() == value.shape[1] else value


@dataclass
class CastImages:
    """A hook before the forward: images in the type of the network's weights."""

    kind: torch.dtype

    def __call__(self, module: nn.Module, images: tuple[Any, ...]) -> tuple[Any, ...]:
        return (images[0].to(self.kind), *images[1:])


@dataclass
class CopyImages:
    """A hook before the forward of a network that writes on its images."""

    def __call__(self, module: nn.Module, images: tuple[Any, ...]) -> tuple[Any, ...]:
        return (images[0].clone(), *images[1:])


HOOKS: Mapping[str, type] = {one.__name__: one for one in (TakeLogits, CastImages, CopyImages)}


def describe_hooks(module: nn.Module) -> list[dict[str, Any]]:
    """The hooks of this file on a module, in plain types, for :func:`attach_hooks`."""
    hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
    return [
        {"name": type(hook).__name__, **{key: _as_text(value) for key, value in vars(hook).items()}}
        for hook in hooks
        if type(hook) in HOOKS.values()
    ]


def attach_hooks(module: nn.Module, described: Iterable[Mapping[str, Any]]) -> None:
    """Give a module the hooks that another one of its kind has; nothing is run."""
    for facts in described:
        fields = dict(facts)
        kind = HOOKS[fields.pop("name")]
        if "kind" in fields:
            fields["kind"] = getattr(torch, fields["kind"])
        hook = kind(**fields)
        if kind is TakeLogits:
            module.register_forward_hook(hook)
        else:
            module.register_forward_pre_hook(hook)


def _as_text(value: object) -> object:
    return str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else value


def pick(output: Any, key: str, place: int | None) -> Any:
    """The part of an output that holds the logits; the output itself where it is a tensor."""
    if isinstance(output, Mapping) and key in output:
        return output[key]
    if not isinstance(output, Tensor | Mapping) and hasattr(output, key):
        return getattr(output, key)
    if isinstance(output, tuple | list) and place is not None:
        return output[place] if -len(output) <= place < len(output) else output
    return output


def unwrap_parallel(module: nn.Module) -> tuple[nn.Module, list[str]]:
    """The network inside torch.compile, DataParallel or DistributedDataParallel, and notes."""
    notes: list[str] = []
    while True:
        inner = getattr(module, "_orig_mod", None)
        inner = module.module if isinstance(module, WRAPPERS) else inner
        if not isinstance(inner, nn.Module):
            return module, notes
        notes.append(f"the network is taken out of {type(module).__name__}")
        module = inner


def adapt_images(module: nn.Module, notes: list[str]) -> None:
    """Let a network of another type than float32 take float32 images."""
    kinds = {part.dtype for part in module.parameters() if part.is_floating_point()}
    if len(kinds) != 1 or (kind := kinds.pop()) == torch.float32:
        return
    module.register_forward_pre_hook(CastImages(kind))
    name = str(kind).removeprefix("torch.")
    notes.append(f"the network computes in {name}: images are converted")


def adapt_outputs(
    module: nn.Module, output: Any, images: int, classes: int | None, asked: str | None, name: str
) -> list[str]:
    """Make a network return its logits, as one of its outputs shows how.

    Args:
        module: the network, which gets a hook where it needs one.
        output: what it returned in eval mode.
        images: the number of images it was given.
        classes: of the data; None if they are not known.
        asked: ``--output``: a key, a place, or "sigmoid"; None for the usual rules.
        name: of the network, for messages.

    Returns:
        What was done, for the user.

    Raises:
        UsageError: its outputs are not the logits of each image.
    """
    hook, notes = _choose_logits(output, (images, classes), asked, name)
    value = hook(module, (), output)
    if not isinstance(value, Tensor) or not len(value.shape) or len(value) != images:
        raise _refuse(name, output)
    if asked == SIGMOID or value.dim() == 1 or value.shape[1:] == (1,):
        hook.single, value = True, value.reshape(-1)
        notes += _accept_single(value, images, classes, asked, name)
    elif value.dim() != 2:
        raise _refuse(name, output)
    changes = hook.single or not isinstance(output, Tensor) or output.dim() != 2
    if changes or output.dtype != torch.float32:
        module.register_forward_hook(hook)
    return notes


def adapt_training_output(
    module: nn.Module, output: Any, shape: tuple[int, int], name: str
) -> list[str]:
    """The same for what a network returns in train mode, such as the outputs of auxiliary heads.

    Args:
        module: the network, which gets a hook where it needs one.
        output: what it returned in train mode.
        shape: of its logits in eval mode.
        name: of the network, for messages.

    Raises:
        UsageError: there are no such logits, or not in the first place.
    """
    hook = TakeLogits()
    value = hook(module, (), output)
    if not isinstance(value, Tensor) or value.shape != shape:
        raise UsageError(
            f"{name} returns {describe_output(output)} in train mode, and logits {shape} in eval "
            "mode",
            fix="return the logits in train mode, too, alone or in the first place",
        )
    if isinstance(output, Tensor) and output.shape == shape:
        return []
    module.register_forward_hook(hook)
    return [
        f"in train mode {name} returns {describe_output(output)}: the loss is that of the first, "
        "auxiliary outputs are left out"
    ]


def _choose_logits(
    output: Any, shape: tuple[int, int | None], asked: str | None, name: str
) -> tuple[TakeLogits, list[str]]:
    if asked is not None and asked != SIGMOID:
        hook = TakeLogits(key=asked, place=int(asked) if asked.lstrip("-").isdecimal() else None)
        if not isinstance(output, Tensor) and pick(output, hook.key, hook.place) is output:
            raise UsageError(
                f"--output {asked}: {name} returns {describe_output(output)}",
                fix="name one of these",
            )
        return hook, [f"output {asked} of the network is taken as its logits"]
    if isinstance(output, Tensor):
        return TakeLogits(), []
    if isinstance(pick(output, "logits", 0), Tensor) and not isinstance(output, tuple | list):
        return TakeLogits(), [f"the logits are those of a {type(output).__name__}"]
    named: list[tuple[Any, Any]] = []
    if isinstance(output, Mapping):
        named = list(output.items())
    elif isinstance(output, tuple | list):
        named = list(enumerate(output))
    images, classes = shape
    rows = {key: value.shape[1] for key, value in named if _is_table(value, images)}
    if len(rows) > 1:  # features beside logits
        rows = {key: width for key, width in rows.items() if width == classes} or rows
    if len(rows) == 1:
        (key,) = rows
        hook = TakeLogits(key=str(key)) if isinstance(output, Mapping) else TakeLogits(place=key)
        return hook, [f"output {key} of {describe_output(output)} is taken as the logits"]
    if rows:
        raise UsageError(
            f"{name} returns {describe_output(output)}: several could be the logits",
            fix="say which with --output KEY or --output NUMBER, or return the logits alone",
        )
    raise _refuse(name, output)


def _accept_single(
    value: Tensor, images: int, classes: int | None, asked: str | None, name: str
) -> list[str]:
    """Notes for a network with one output; raises UsageError where that is no logit."""
    if classes not in (2, None):
        raise UsageError(
            f"{name} has one output, and the data have {classes} classes",
            fix="return one logit for each class",
        )
    if asked != SIGMOID and bool(((value >= 0) & (value <= 1)).all()):
        raise UsageError(
            f"the single output of {name} lies in [0, 1]: it may be a probability, not a logit",
            fix="return the logit before the sigmoid; if it is the logit, say --output sigmoid",
        )
    return ["the network has one logit z: the logits are (-z/2, z/2), class 1 where z > 0"]


def _is_table(value: Any, images: int) -> bool:
    return isinstance(value, Tensor) and value.dim() == 2 and len(value) == images


def _refuse(name: str, output: Any) -> UsageError:
    return UsageError(
        f"{name} returns {describe_output(output)}, not logits of shape (B, K)",
        fix="return one row of logits for each image",
    )


def describe_output(output: Any) -> str:
    """What a network returned, with the shapes of its tensors."""
    if isinstance(output, Tensor):
        return f"a tensor {tuple(output.shape)}"
    if isinstance(output, Mapping):
        inner = [f"{key}: {_shape(value)}" for key, value in list(output.items())[:6]]
        return f"a {type(output).__name__} of {', '.join(inner) or 'nothing'}"
    if isinstance(output, tuple | list):
        inner = [f"{place}: {_shape(value)}" for place, value in enumerate(output[:6])]
        return f"a {type(output).__name__} of {', '.join(inner) or 'nothing'}"
    return f"a {type(output).__name__}"


def _shape(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__
