"""Back from a program to a network: a torch.export file, an ONNX file."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from abatis.backbones.from_timm import brief
from abatis.errors import UsageError
from abatis.export.onnx import session
from abatis.export.standalone import Exported
from abatis.published import WEIGHTS, is_published, load_folder


def load_program(path: Path, device: torch.device) -> nn.Module:
    """The network of a .pt2 file; what is in the file may run. Raises UsageError."""
    try:
        return Exported(path, str(device))
    except (OSError, RuntimeError, ValueError, AssertionError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} is no torch.export program that this torch reads: {brief(error)}",
                         fix="export it again with this torch") from error  # fmt: skip


class OnnxValues(nn.Module):
    """An ONNX file's logits, with the gradients of the torch network it was made from: images (B, C, H, W) in [0, 1]."""

    def __init__(self, path: Path, gradients: nn.Module) -> None:
        super().__init__()
        self.path, self.gradients = path, gradients
        self.run = session(path)

    def forward(self, x: Tensor) -> Tensor:
        logits = torch.from_numpy(self.run(x.detach().float().cpu().contiguous().numpy()))
        result: Tensor = _Straight.apply(self.gradients(x), logits.to(x.device))  # type: ignore[no-untyped-call]
        return result


class _Straight(torch.autograd.Function):
    """The second argument's values, the first one's gradient."""

    @staticmethod
    def forward(ctx: Any, differentiable: Tensor, values: Tensor) -> Tensor:
        return values.to(differentiable.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def load_onnx(path: Path) -> nn.Module:
    """An ONNX file beside the folder's own weights, which give the gradients it has not; raises UsageError."""
    if not is_published(path.parent):
        raise UsageError(f"{path} has no gradients, which attacks need, and {WEIGHTS} is not beside it",
                         fix="name an .onnx that lies in a folder of defense export --to onnx")  # fmt: skip
    return OnnxValues(path, load_folder(path.parent))
