"""Back from what was exported to a network: a folder, the hub, a torch.export program, an ONNX file."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from abatis import vision
from abatis.backbones import Normalized
from abatis.backbones.from_timm import brief
from abatis.errors import UsageError
from abatis.evaluate.memory import weights_digest
from abatis.export.folder import CONFIG, WEIGHTS
from abatis.export.onnx import session
from abatis.export.standalone import Exported
from abatis.run_folder import load_weights, read_weights

HUB = "hf-hub:"


def is_published(folder: Path) -> bool:
    """Does a folder hold an exported network?"""
    return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()


def from_hub(spec: str) -> Path:
    """The local folder of ``hf-hub:ORG/NAME[@REVISION]``, downloaded where it is not; raises UsageError."""
    import huggingface_hub

    name, _, revision = spec.removeprefix(HUB).partition("@")
    try:
        return Path(huggingface_hub.snapshot_download(name, revision=revision or None, allow_patterns=[CONFIG, WEIGHTS]))
    except Exception as error:  # no network, no such name, no right to it: the way out is the same
        raise UsageError(f"{spec} could not be had from the hub: {brief(error)}",
                         fix="check the name and the network; a private one needs HF_TOKEN") from error  # fmt: skip


def about(folder: Path) -> dict[str, Any]:
    """What the exporter wrote of the network; raises UsageError."""
    try:
        found: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["abatis"]
        return found
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UsageError(
            f"{folder / CONFIG} was not written by defense export", fix="name a run folder or such a folder"
        ) from error


def load_folder(folder: Path, model: nn.Module | None = None) -> nn.Module:
    """The network of a folder on images in [0, 1], its weights held against their sha256; raises UsageError.

    model: a module of the same kind, for a network that timm does not know.
    """
    told = about(folder)
    if model is not None:
        model.load_state_dict(read_weights(folder / WEIGHTS)[0])
    else:
        model = _from_timm(folder, told)
    if weights_digest(model) != told["weights_sha256"]:
        raise UsageError(f"{folder / WEIGHTS} holds other weights than {CONFIG} tells of", fix="export or download it again")
    return model


def _from_timm(folder: Path, told: dict[str, Any]) -> nn.Module:
    timm = vision.timm()
    if not timm.is_model(told["architecture"]):
        raise UsageError(f"{folder} holds the weights of {told['architecture']}, which timm does not know",
                         fix="abatis.load(folder, model=your_module); defense eval takes its model.pt2")  # fmt: skip
    try:
        backbone = timm.create_model(f"local-dir:{folder}", pretrained=True)
    except Exception as error:
        raise UsageError(f"timm cannot load {folder}: {brief(error)}", fix="export or download it again") from error
    return Normalized(backbone, backbone.pretrained_cfg["mean"], backbone.pretrained_cfg["std"])


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


def load(folder: str | Path, model: nn.Module | None = None) -> nn.Module:
    """A network in eval mode on images in [0, 1]: of a run folder, of what ``defense export`` wrote, or ``hf-hub:ORG/NAME``.

    Of a run the averaged weights come first, else the best ones. model: needed where the run trained a module of yours.
    Raises UsageError.
    """
    path = from_hub(str(folder)) if str(folder).startswith(HUB) else Path(folder)
    return (load_folder if is_published(path) else load_weights)(path, model).eval()
