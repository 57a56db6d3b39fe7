"""``--to torch-export``: model.pt2, a torch.export program that loads without this package.

It is compared with the network it was written from, in logits and in input gradients.
"""

from __future__ import annotations

import argparse
import io
import runpy
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from abatis.commands.export.finished_run import FinishedRun
from abatis.commands.export.folder import write_folder
from abatis.errors import UsageError
from abatis.nets import standalone
from abatis.system.files import write_bytes, write_text

PROGRAM, LOADER = "model.pt2", "load.py"
TOLERANCE = 1e-5  # largest difference, as a fraction of the largest value
BATCHES = (1, 3)  # sizes that are checked; the batch dimension is free


def export(asked: argparse.Namespace, run: FinishedRun) -> list[str]:
    """Write the program and what ``--to safetensors`` writes; returns the lines to print."""
    also = {
        PROGRAM: "the same network as a torch.export program, any batch size",
        LOADER: f"loads {PROGRAM} with torch alone",
    }
    difference = write_program(run.module, *run.test_images(), asked.out)
    write_folder(run, asked.out, also)
    return [
        f"wrote {asked.out / PROGRAM}, {LOADER}, weights, configuration and model card",
        describe_difference("its logits and input gradients", difference),
    ]


def describe_difference(what: str, difference: float) -> str:
    """The line that says how close an exported network is to the one it was written from."""
    return f"{what} differ from the run's network by at most {difference:.1e} of the largest value"


def write_program(module: nn.Module, x: Tensor, y: Tensor, out: Path) -> float:
    """Write model.pt2 and load.py, and compare them with the network they were written from.

    Args:
        module: The network, in eval mode.
        x: Images (N, C, H, W) in [0, 1], N at least 3, on which both are run.
        y: Their labels, (N,).
        out: The folder to write into.

    Returns:
        The largest difference of logits and input gradients, as a fraction of the largest value.

    Raises:
        UsageError: torch cannot export the network, or the difference is above ``TOLERANCE``.
    """
    try:
        program = torch.export.export(
            module, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},)
        )
    except Exception as error:  # a user's network can make the tracer raise anything
        reason = str(error).strip().partition("\n")[0]
        raise UsageError(
            f"torch.export cannot export this network: {type(error).__name__}: {reason}",
            fix="change its forward: no branches on tensor values, no fixed batch size",
        ) from error
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    write_bytes(out / PROGRAM, buffer.getvalue())
    write_text(out / LOADER, Path(standalone.__file__).read_text(encoding="utf-8"))
    written = runpy.run_path(str(out / LOADER))["load"]()
    return compare_written(module, written, (x, y), [out / PROGRAM, out / LOADER])


def compare_written(
    module: nn.Module, written: nn.Module, data: tuple[Tensor, Tensor], files: Sequence[Path]
) -> float:
    """Compare an exported network with the one that it was written from.

    Args:
        module: The network, in eval mode.
        written: The exported one.
        data: Images (N, C, H, W) in [0, 1] and labels (N,).
        files: They are deleted where the networks differ.

    Returns:
        The largest difference of logits and input gradients, as a fraction of the largest value.

    Raises:
        UsageError: It is above ``TOLERANCE``.
    """
    x, y = data
    parts = [_difference(module, written, x[part], y[part]) for part in split_batches(len(x))]
    worst = torch.stack(parts).amax().item()
    if not worst <= TOLERANCE:
        for file in files:
            file.unlink()
        raise UsageError(
            f"the exported network differs by {worst:.1e} of the largest value, "
            f"more than {TOLERANCE:.0e}",
            fix="remove random and stateful layers; they cannot be exported",
        )
    return worst


def split_batches(count: int) -> list[slice]:
    """The batches that ``count`` images are checked in, for every size of ``BATCHES``."""
    return [
        slice(first, first + size) for size in BATCHES for first in range(0, count - size + 1, size)
    ]


def _difference(ours: nn.Module, theirs: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Relative difference of the logits, and of the gradient of the true class's logit: (2,)."""
    pairs = zip(_run(ours, x, y), _run(theirs, x, y), strict=True)
    return torch.stack(
        [
            (a - b).abs().amax() / a.abs().amax().clamp(min=torch.finfo(a.dtype).tiny)
            for a, b in pairs
        ]
    )


def _run(network: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (B, K), and the gradient (B, C, H, W) of the true classes' logits."""
    x = x.clone().requires_grad_(True)
    logits = network(x)
    (gradient,) = torch.autograd.grad(logits.gather(1, y[:, None]).sum(), x)
    return logits.detach(), gradient
