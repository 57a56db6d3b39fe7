"""A network as a torch.export program that loads without this package, and the check that it is still the same network."""

from __future__ import annotations

import io
import runpy
from pathlib import Path

import torch
from torch import Tensor, nn

from abatis.errors import UsageError
from abatis.nets import standalone
from abatis.system.files import write_bytes, write_text

PROGRAM, LOADER = "model.pt2", "load.py"
TOLERANCE = 1e-5  # largest difference, as a share of the largest value
BATCHES = (1, 3)  # sizes that are checked; the batch dimension is free


def write_program(module: nn.Module, x: Tensor, y: Tensor, out: Path) -> float:
    """Write both files of a network in eval mode; returns the largest relative difference on the images that was seen.

    x: (at least 3, C, H, W) in [0, 1]; y: their labels. Raises UsageError where the network cannot be exported, or where
    what was written gives other logits or input gradients.
    """
    try:
        program = torch.export.export(
            module, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},)
        )
    except Exception as error:  # whatever the tracer meets in a network of the user's own
        reason = str(error).strip().partition("\n")[0]
        raise UsageError(
            f"torch.export refuses this network: {type(error).__name__}: {reason}",
            fix="its forward must not branch on tensors or fix the batch size",
        ) from error
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    write_bytes(out / PROGRAM, buffer.getvalue())
    write_text(out / LOADER, Path(standalone.__file__).read_text(encoding="utf-8"))
    written = runpy.run_path(str(out / LOADER))["load"]()
    worst = (
        torch.stack(
            [_difference(module, written, x[part], y[part]) for part in checked_batches(len(x))]
        )
        .amax()
        .item()
    )
    if not worst <= TOLERANCE:
        for file in (PROGRAM, LOADER):
            (out / file).unlink()
        raise UsageError(
            f"the exported network differs by {worst:.1e} of its largest value, more than {TOLERANCE:.0e}",
            fix="random or stateful layers cannot be exported",
        )
    return worst


def checked_batches(count: int) -> list[slice]:
    """Which rows of so many images are run at once, in every size that is checked."""
    return [
        slice(first, first + size) for size in BATCHES for first in range(0, count - size + 1, size)
    ]


def _difference(ours: nn.Module, theirs: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Of the logits, and of the gradient of the true class's logit, each relative to its largest value: (2,)."""
    seen = zip(_look(ours, x, y), _look(theirs, x, y), strict=True)
    return torch.stack(
        [
            (a - b).abs().amax() / a.abs().amax().clamp(min=torch.finfo(a.dtype).tiny)
            for a, b in seen
        ]
    )


def _look(network: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (B, K), and the gradient (B, C, H, W) of the true classes' logits."""
    x = x.clone().requires_grad_(True)
    logits = network(x)
    (gradient,) = torch.autograd.grad(logits.gather(1, y[:, None]).sum(), x)
    return logits.detach(), gradient
