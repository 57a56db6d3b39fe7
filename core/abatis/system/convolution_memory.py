"""Memory that a convolution of images takes while it runs, besides its result.

torch computes a convolution in one memory format, and copies what lies otherwise. On a CPU two
libraries need more: oneDNN (float32) reorders tensors into blocks, and torch's own convolution
(bfloat16 where the CPU has no such arithmetic) writes out the columns that a kernel meets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

FORWARD = torch.ops.aten.convolution.default
BACKWARD = torch.ops.aten.convolution_backward.default
SETTINGS = ("stride", "padding", "dilation", "transposed", "output_padding", "groups")


@dataclass(frozen=True)
class Convolution:
    """A call of a convolution or of its backward pass.

    Attributes:
        x: its images.
        weight: its kernels.
        y: its result or, in the backward pass, the gradient of it.
        backward: is it the backward pass?
        to_weight: does the backward pass compute the gradient of the kernels?
        settings: stride, padding, and so on.
    """

    x: Tensor
    weight: Tensor
    y: Tensor
    backward: bool
    to_weight: bool
    settings: Mapping[str, Any]


def count_scratch(func: Any, args: Sequence[Any], out: Any, on_cpu: bool) -> int:
    """Bytes that a convolution of images needs besides arguments and results; 0 for all others.

    Args:
        func: the operation.
        args: its arguments, by position.
        out: its result.
        on_cpu: count what the CPU's libraries need, too; what those of a GPU need is not known.
    """
    if func is FORWARD:
        settings = dict(zip(SETTINGS, args[3:9], strict=True))
        call = Convolution(args[0], args[1], out, False, False, settings)
    elif func is BACKWARD:
        settings = dict(zip(SETTINGS, args[4:10], strict=True))
        call = Convolution(args[1], args[2], args[0], True, args[10][1], settings)
    else:
        return 0
    if call.weight.dim() != 4:
        return 0
    select: Any = torch._C._select_conv_backend
    library = select(call.x, call.weight, bias=None, **settings)
    layout = torch._C._conv_determine_backend_memory_format(call.x, call.weight, library)
    copied = [call.x, call.weight, *([call.y] if call.backward else [])]
    copies = sum(_count(one) for one in copied if not one.is_contiguous(memory_format=layout))
    return copies + (_count_library(call, library.name, layout) if on_cpu else 0)


def _count_library(call: Convolution, library: str, layout: torch.memory_format) -> int:
    """Bytes that the CPU's library needs for itself."""
    x, weight, y = _count(call.x), _count(call.weight), _count(call.y)
    if library == "Slow2d":
        return 0 if call.backward and not call.to_weight else _count_columns(call)
    if library != "Mkldnn":
        return 0
    if layout == torch.channels_last:  # only the kernels are reordered
        return 2 * weight if call.to_weight else weight
    # all are reordered; a result is, too, when what it was computed from is free again
    if not call.backward:
        return max(x + weight, y)
    return x + y if call.to_weight else max(y + weight, x)


def _count_columns(call: Convolution) -> int:
    """One column for each place of the result, with what the kernel meets there."""
    kernel, settings = call.weight.shape[2:], call.settings
    if set(kernel) == {1} and set(settings["stride"]) == {1} and set(settings["padding"]) == {0}:
        return 0  # the columns are the images
    places = len(call.x) * math.prod(call.y.shape[2:])
    return places * math.prod(call.weight.shape[1:]) * call.x.element_size()


def _count(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
