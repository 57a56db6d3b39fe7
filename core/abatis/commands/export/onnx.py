"""ONNX files: written by torch's exporter, checked against torch in ONNX Runtime."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from abatis.commands.export.program import TOLERANCE, checked_batches
from abatis.errors import UsageError
from abatis.nets.backbones.from_timm import brief
from abatis.nets.programs import need, session
from abatis.system.files import explain_disk_errors

ONNX = "model.onnx"
TO_WRITE = ("onnx", "onnxscript", "onnxruntime")


def write_onnx(module: nn.Module, x: Tensor, out: Path) -> float:
    """Write model.onnx of a network in eval mode; returns the largest difference of its logits, as a share of the largest.

    x: (at least 3, C, H, W) in [0, 1], on which both are run. Raises UsageError where torch cannot export the network, a
    package is missing, or the file gives other logits.
    """
    need(*TO_WRITE)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # the exporter's own, about itself
            program = torch.onnx.export(
                module,
                (x,),
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                dynamo=True,
                input_names=["images"],
                output_names=["logits"],
                verbose=False,
            )
    except Exception as error:  # whatever the exporter meets in a network of the user's own
        raise UsageError(
            f"torch.onnx refuses this network: {brief(error)}",
            fix="its forward must not branch on tensors or fix the batch size",
        ) from error
    assert program is not None  # what dynamo=True returns
    path = out / ONNX
    with explain_disk_errors(path):
        program.save(path)
    run = session(path)
    parts = [x[part] for part in checked_batches(len(x))]
    with torch.no_grad():
        pairs = [(module(part), torch.from_numpy(run(part.contiguous().numpy()))) for part in parts]
    worst: float = max(
        ((ours - theirs).abs().amax() / ours.abs().amax()).item() for ours, theirs in pairs
    )
    if not worst <= TOLERANCE:
        path.unlink()
        raise UsageError(
            f"ONNX Runtime's logits differ by {worst:.1e} of the largest, more than {TOLERANCE:.0e}",
            fix="random or stateful layers cannot be exported",
        )
    return worst
