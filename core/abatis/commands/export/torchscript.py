"""``--to torchscript``: model.ts.pt, a TorchScript program, for programs in C++ and older torch.

It is compared with the network it was written from, in logits and in input gradients.
"""

from __future__ import annotations

import argparse
import io
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from abatis.commands.export.finished_run import FinishedRun
from abatis.commands.export.folder import write_folder
from abatis.commands.export.program import compare_written, describe_difference
from abatis.errors import UsageError, summarise_error
from abatis.nets.programs import load_script
from abatis.system.files import write_bytes

SCRIPT = "model.ts.pt"


def export(asked: argparse.Namespace, run: FinishedRun) -> list[str]:
    """Write the program and what ``--to safetensors`` writes; returns the lines to print."""
    difference = write_script(run.module, *run.test_images(), asked.out)
    also = {SCRIPT: "the same network as a TorchScript program, any batch size; torch.jit.load"}
    write_folder(run, asked.out, also)
    return [
        f"wrote {asked.out / SCRIPT}, weights, configuration and model card",
        describe_difference("its logits and input gradients", difference),
    ]


def write_script(module: nn.Module, x: Tensor, y: Tensor, out: Path) -> float:
    """Write model.ts.pt and compare it with the network it was written from.

    Args:
        module: The network, in eval mode.
        x: Images (N, C, H, W) in [0, 1], N at least 3, on which both are run.
        y: Their labels, (N,).
        out: The folder to write into.

    Returns:
        The largest difference of logits and input gradients, as a fraction of the largest value.

    Raises:
        UsageError: torch cannot trace the network, or the difference is above ``TOLERANCE``.
    """
    buffer = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the tracer, about what the comparison shows
            program = torch.jit.trace(module, x, check_trace=False)
            torch.jit.save(program, buffer)
    except Exception as error:  # a user's network can make the tracer raise anything
        raise UsageError(
            f"torch.jit cannot trace this network: {summarise_error(error)}",
            fix="change its forward: no branches on tensor values; or use --to torch-export",
        ) from error
    path = out / SCRIPT
    write_bytes(path, buffer.getvalue())
    return compare_written(module, load_script(path), (x, y), [path])
