"""Networks that were exported as programs: torch.export, TorchScript and ONNX files."""

from __future__ import annotations

import importlib
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from abatis.errors import UsageError, summarise_error
from abatis.nets.standalone import ExportedNetwork

TO_RUN = "onnxruntime"


def load_program(path: Path, device: torch.device) -> nn.Module:
    """The network of a .pt2 file. Code in the file may run. Raises UsageError."""
    try:
        return ExportedNetwork(path, str(device))
    except (OSError, RuntimeError, ValueError, AssertionError, zipfile.BadZipFile) as error:
        raise UsageError(
            f"this torch cannot read {path} as a torch.export program: {summarise_error(error)}",
            fix="export it again with this torch",
        ) from error


class ScriptedNetwork(nn.Module):
    """The network of a TorchScript file, always in eval mode; it can be judged, not trained.

    Args:
        program: what torch.jit.load returned.
    """

    def __init__(self, program: torch.jit.ScriptModule) -> None:
        super().__init__()
        # outside of torch's table: parts of a program have no tables of tensors that can be changed
        self.__dict__["program"] = program.eval()
        for parameter in program.parameters():
            parameter.requires_grad_(False)
        self.training = False

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> ScriptedNetwork:
        self.__dict__["program"]._apply(function)
        return self

    def train(self, mode: bool = True) -> ScriptedNetwork:
        """Do nothing: the program is judged."""
        return self

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Those of the program."""
        yield from self.__dict__["program"].parameters()

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """That of the program, by which a record identifies it."""
        return dict(self.__dict__["program"].state_dict())

    def forward(self, x: Tensor) -> Any:
        return self.__dict__["program"](x)


def load_script(path: Path) -> nn.Module:
    """The network of a TorchScript file. Code in the file is run. Raises UsageError."""
    try:
        return ScriptedNetwork(torch.jit.load(path, map_location="cpu"))
    except Exception as error:  # every damaged program fails in its own way
        raise UsageError(
            f"this torch cannot read {path} as a TorchScript program: {summarise_error(error)}",
            fix="save it again with this torch",
        ) from error


def require_packages(*names: str) -> None:
    """Raise UsageError where a package for ONNX files is not installed."""
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UsageError(
                f"ONNX needs {name}, which is not installed", fix="pip install 'abatis[onnx]'"
            ) from error


def open_onnx(path: Path) -> Callable[[Any], Any]:
    """The network of a file, from float32 arrays (B, C, H, W) to logits (B, K).

    Raises UsageError where ONNX Runtime is not installed or cannot open the file.
    """
    require_packages(TO_RUN)
    import onnxruntime

    try:
        opened = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:
        raise UsageError(
            f"ONNX Runtime cannot open {path}: {summarise_error(error)}", fix="export it again"
        ) from error
    name = opened.get_inputs()[0].name
    return lambda images: opened.run(None, {name: images})[0]


class OnnxValues(nn.Module):
    """The logits of an ONNX file, with the gradients of the torch network it was made from.

    Args:
        path: the ONNX file.
        gradients: the torch network, on images (B, C, H, W) in [0, 1].
    """

    def __init__(self, path: Path, gradients: nn.Module) -> None:
        super().__init__()
        self.path, self.gradients = path, gradients
        self.run = open_onnx(path)

    def forward(self, x: Tensor) -> Tensor:
        logits = torch.from_numpy(self.run(x.detach().float().cpu().contiguous().numpy()))
        result: Tensor = _ReplaceValues.apply(self.gradients(x), logits.to(x.device))  # type: ignore[no-untyped-call]
        return result


class _ReplaceValues(torch.autograd.Function):
    """The second argument's values, the first one's gradient."""

    @staticmethod
    def forward(ctx: Any, differentiable: Tensor, values: Tensor) -> Tensor:
        return values.to(differentiable.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None
