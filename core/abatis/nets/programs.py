"""Back from a program to a network: a torch.export file, an ONNX file."""

from __future__ import annotations

import importlib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from abatis.errors import UsageError
from abatis.nets.backbones.from_timm import brief
from abatis.nets.standalone import Exported

TO_RUN = "onnxruntime"


def load_program(path: Path, device: torch.device) -> nn.Module:
    """The network of a .pt2 file; what is in the file may run. Raises UsageError."""
    try:
        return Exported(path, str(device))
    except (OSError, RuntimeError, ValueError, AssertionError, zipfile.BadZipFile) as error:
        raise UsageError(
            f"{path} is no torch.export program that this torch reads: {brief(error)}",
            fix="export it again with this torch",
        ) from error


def need(*names: str) -> None:
    """Raise UsageError where a package that is needed for ONNX files is not installed."""
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UsageError(
                f"ONNX needs {name}, which is not installed", fix="pip install 'abatis[onnx]'"
            ) from error


def session(path: Path) -> Callable[[Any], Any]:
    """The network of a file as a function of float32 arrays (B, C, H, W) to logits (B, K); raises UsageError."""
    need(TO_RUN)
    import onnxruntime

    try:
        opened = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:
        raise UsageError(
            f"ONNX Runtime refuses {path}: {brief(error)}", fix="export it again"
        ) from error
    name = opened.get_inputs()[0].name
    return lambda images: opened.run(None, {name: images})[0]


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
