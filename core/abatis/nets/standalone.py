"""The exported network: load() gives it on images (B, C, H, W) in [0, 1]. Needs torch, and no other package."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.export.passes import move_to_device_pass


class Exported(torch.nn.Module):
    """Images (B, C, H, W) in [0, 1] to logits (B, K); differentiable in the images, always in eval mode."""

    def __init__(self, file: Path, device: str) -> None:
        super().__init__()
        program = torch.export.load(file)
        self.network = move_to_device_pass(program, device).module().requires_grad_(False)
        self.training = False

    def train(self, mode: bool = True) -> Exported:
        """Changes nothing: the graph was made in eval mode."""
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(x)
        return logits


def load(device: str = "cpu") -> Exported:
    """The network of the file beside this one."""
    return Exported(Path(__file__).with_name("model.pt2"), device)
