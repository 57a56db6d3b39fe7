"""``--to onnx``: model.onnx, written by torch's exporter and checked in ONNX Runtime."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from abatis.commands.export.finished_run import FinishedRun
from abatis.commands.export.folder import write_folder
from abatis.commands.export.program import TOLERANCE, describe_difference, split_batches
from abatis.errors import UsageError, summarise_error
from abatis.nets.programs import open_onnx, require_packages
from abatis.system.files import explain_disk_errors

ONNX = "model.onnx"
TO_WRITE = ("onnx", "onnxscript", "onnxruntime")


def export(asked: argparse.Namespace, run: FinishedRun) -> list[str]:
    """Write model.onnx and what ``--to safetensors`` writes; returns the lines to print."""
    difference = write_onnx(run.module, run.test_images()[0], asked.out)
    write_folder(run, asked.out, {ONNX: "the same network for ONNX Runtime, any batch size"})
    return [
        f"wrote {asked.out / ONNX}, weights, configuration and model card",
        describe_difference("ONNX Runtime's logits", difference),
    ]


def write_onnx(module: nn.Module, x: Tensor, out: Path) -> float:
    """Write model.onnx and compare it with the network it was written from.

    Args:
        module: The network, in eval mode.
        x: Images (N, C, H, W) in [0, 1], N at least 3, on which both are run.
        out: The folder to write into.

    Returns:
        The largest difference of the logits, as a fraction of the largest logit.

    Raises:
        UsageError: A package is missing, torch cannot export the network, or the logits of the
            file differ by more than ``TOLERANCE``.
    """
    require_packages(*TO_WRITE)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of the exporter, about its own code
            program = torch.onnx.export(
                module,
                (x,),
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                dynamo=True,
                input_names=["images"],
                output_names=["logits"],
                verbose=False,
            )
    except Exception as error:  # a user's network can make the exporter raise anything
        raise UsageError(
            f"torch.onnx cannot export this network: {summarise_error(error)}",
            fix="change its forward: no branches on tensor values, no fixed batch size",
        ) from error
    assert program is not None  # dynamo=True always returns one
    path = out / ONNX
    with explain_disk_errors(path):
        program.save(path)
    run = open_onnx(path)
    parts = [x[part] for part in split_batches(len(x))]
    with torch.no_grad():
        pairs = [(module(part), torch.from_numpy(run(part.contiguous().numpy()))) for part in parts]
    worst: float = max(
        ((ours - theirs).abs().amax() / ours.abs().amax()).item() for ours, theirs in pairs
    )
    if not worst <= TOLERANCE:
        path.unlink()
        raise UsageError(
            f"ONNX Runtime's logits differ by {worst:.1e} of the largest logit, "
            f"more than {TOLERANCE:.0e}",
            fix="remove random and stateful layers; they cannot be exported",
        )
    return worst
