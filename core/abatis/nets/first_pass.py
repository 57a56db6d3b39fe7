"""The first forward of a network: what would fail later is said before a run or an evaluation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from abatis.errors import AbatisError, UsageError
from abatis.system.torch_messages import is_out_of_memory
from abatis.system.user_module import raised_at


def try_network(module: nn.Module, images: Tensor, name: str) -> Any:
    """What a network returns for some images (B, C, H, W), without a gradient.

    Raises UsageError where it fails.
    """
    try:
        with torch.no_grad():
            return module(images)
    except AbatisError:
        raise
    except Exception as error:
        raise explain_failure(error, name, images) from error


def explain_failure(error: Exception, name: str, images: Tensor) -> Exception:
    """The error to show for a network that fails on its first images."""
    if is_out_of_memory(error):
        return error
    return UsageError(
        f"backbone {name} fails on images {tuple(images.shape)}: {type(error).__name__}: {error}",
        where=raised_at(error),
        fix="choose a network for such images, another --image-size, or correct its forward",
    )
