"""The features of a network: what the layer gets that makes its logits.

They are found by reading one forward pass, so that a network need not be written for them: its
output stays the logits alone, for attacks, the evaluation and exports.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from abatis.errors import UsageError

NEVER_HEADS = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase)


def find_head(module: nn.Module, x: Tensor) -> nn.Module:
    """Find the layer that makes the logits; for timm's networks it is that of get_classifier().

    It is the innermost module whose output is the network's, has weights or buffers of its own, and
    gets features (B, D). The network runs once, in the mode that it is in.

    Args:
        module: the network.
        x: images, (B, C, H, W).

    Raises:
        UsageError: there is none, or it is called more than once.
    """
    calls: list[tuple[nn.Module, tuple[Any, ...], Any]] = []

    def note(part: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        calls.append((part, arguments, output))

    with ExitStack() as stack:
        for part in module.modules():
            if not isinstance(part, NEVER_HEADS):  # they take no hooks while they are folded
                stack.callback(part.register_forward_hook(note).remove)
        logits = module(x)
    makers = [(part, given) for part, given, output in calls if output is logits]
    name = type(module).__name__
    if not makers or not _has_features(*makers[0], len(x)):
        raise UsageError(
            f"{name} has no features: its last layer does not make the logits from (B, D)",
            fix="choose a backbone that ends with a linear layer, or put what makes the logits "
            "into a module with weights or buffers",
        )
    head = makers[0][0]
    if sum(part is head for part, _, _ in calls) > 1:
        raise UsageError(
            f"{name} calls its last layer more than once in a forward pass: its features are not "
            "one tensor",
            fix="choose another backbone",
        )
    return head


def _has_features(part: nn.Module, given: tuple[Any, ...], rows: int) -> bool:
    features = given[0] if given else None
    owns = any(True for _ in part.parameters()) or any(True for _ in part.buffers())
    return owns and isinstance(features, Tensor) and features.dim() == 2 and len(features) == rows


@contextmanager
def keep_input(head: nn.Module) -> Iterator[list[Tensor]]:
    """Inside, what a layer gets is noted, (B, D) for each call."""
    noted: list[Tensor] = []

    def note(part: nn.Module, arguments: tuple[Any, ...]) -> None:
        noted.append(arguments[0])

    handle = head.register_forward_pre_hook(note)
    try:
        yield noted
    finally:
        handle.remove()


def widen(values: Tensor) -> Tensor:
    """Values in half precision in float32, others as they are."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values
