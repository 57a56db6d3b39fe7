"""What the texts of torch's errors mean: the only place that matches them.

torch and gloo raise a plain RuntimeError for very different reasons, so only the text tells them
apart. ``tests/system/test_torch_messages.py`` provokes each error in the installed version.
"""

from __future__ import annotations

import pickle
import re

LOST = {
    "closed by peer": "has ended",
    "reset by peer": "has ended",
    "timed out": "stopped responding",
    "application timeout": "stopped responding",
}
"""Parts of gloo's messages, and what they say about another process."""

WRITER = ("inline_container", "PytorchStreamWriter")
"""Parts of the messages of torch.save if the disk refuses."""

NO_MEMORY = (
    "DefaultCPUAllocator",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "DEVICE_ALLOCATION_FAILED",  # the newer names of cuDNN
    "HOST_ALLOCATION_FAILED",
    "unable to find an engine to execute this computation",  # cuDNN tried all, none had room
    "MPS backend out of memory",
)
"""Parts of the messages of libraries that allocate memory themselves. A GPU is needed to provoke
them, so only the CPU's is tested."""

NO_DERIVATIVE = re.compile(r"derivative for aten::(\w+?)(?:_backward)? is not implemented")
"""Of an operation without a second derivative: its own derivative has none."""

BROADCAST_BUFFERS = "`broadcast_buffers` is deprecated"
"""How the warning begins that newer versions give for an argument that older ones need."""


def lacks_torchvision_operators(error: BaseException) -> bool:
    """Does torchvision fail because its operators were built for another torch?"""
    return "operator torchvision::nms does not exist" in str(error)


def lost_process(error: BaseException) -> str:
    """Return what an error says about another process, or an empty string."""
    text = str(error).lower() if isinstance(error, RuntimeError) else ""
    return next((meaning for sign, meaning in LOST.items() if sign in text), "")


def cannot_write(error: BaseException) -> bool:
    """Did torch.save fail to write? It raises a RuntimeError if the disk refuses."""
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in WRITER)


def is_out_of_memory(error: BaseException) -> bool:
    """Is there no memory left on the device, or on the CPU, where it is a plain RuntimeError?"""
    return type(error).__name__ == "OutOfMemoryError" or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in NO_MEMORY)
    )


def find_missing_derivative(error: BaseException) -> str:
    """Return the operation that torch cannot differentiate any further, or an empty string."""
    found = NO_DERIVATIVE.search(str(error)) if isinstance(error, RuntimeError) else None
    return found[1] if found else ""


def describe_unreadable(error: BaseException) -> str:
    """Say in our own words why torch.load refused a file, in one line.

    Its own text advises to load the file without protection, which is never right here.
    """
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):
        return "it holds more than tensors and plain values, or its pickle is damaged"
    line = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {line:.120}".rstrip(": ")
