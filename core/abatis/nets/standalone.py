"""An exported network, which needs torch and no other package.

``load()`` returns the network of ``model.pt2`` beside this file, on images (B, C, H, W) in [0, 1].
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch.export.passes import move_to_device_pass


class ExportedNetwork(torch.nn.Module):
    """Images (B, C, H, W) in [0, 1] to logits (B, K), always in eval mode.

    It is differentiable in the images.
    """

    def __init__(self, file: Path, device: str) -> None:
        super().__init__()
        program = torch.export.load(file)
        self.network = move_to_device_pass(program, device).module().requires_grad_(False)
        self.training = False

    def train(self, mode: bool = True) -> ExportedNetwork:
        """Do nothing: the graph was made in eval mode."""
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(x)
        return logits


def load(device: str = "cpu") -> ExportedNetwork:
    """The network of the file beside this one."""
    return ExportedNetwork(Path(__file__).with_name("model.pt2"), device)
