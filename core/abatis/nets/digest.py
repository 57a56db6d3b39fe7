"""The sha256 of a network's weights and its printed form, by which records identify it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from abatis.nets.module_state import read_tensors

ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def weights_digest(module: nn.Module) -> str:
    """sha256 of all parameters and buffers, by name."""
    return tensors_digest(read_tensors(module))


def print_structure(module: nn.Module) -> str:
    """The printed form of a network, without addresses in memory."""
    try:
        printed = repr(module)
    except Exception:  # a network's own __repr__ can fail in any way
        parts = module.named_modules()
        printed = "\n".join(f"{name}: {type(part).__name__}" for name, part in parts)
    return ADDRESS.sub("", printed)


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """sha256 of tensors, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(
            tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()
