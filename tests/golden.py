"""Reading reference values, and the tiny network that the model-level ones were made with."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.reference import reference_dir


def golden(name: str) -> Mapping[str, np.ndarray]:
    """The arrays of one reference file; skips the test where the folder is absent."""
    folder = reference_dir()
    if folder is None:
        pytest.skip("reference values are not here; set ABATIS_REFERENCE")
    return np.load(folder / "golden" / f"{name}.npz")


class TinyNetwork(nn.Module):
    """conv 3-4 stride 2, BN, ReLU, conv 4-8 stride 2, BN, ReLU, mean, linear: float64."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 10)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu()
        return self.fc(self.bn2(self.conv2(x)).relu().mean((2, 3)))

    def load(self, arrays: Mapping[str, np.ndarray], prefix: str = "") -> TinyNetwork:
        """Take the initial state of a reference file, in training mode."""
        parameters = dict(self.named_parameters())
        for name, tensor in self.state_dict().items():
            kind = "param" if name in parameters else "buf"
            tensor.copy_(torch.tensor(arrays[f"{prefix}init_{kind}_{name.replace('.', '_')}"]))
        return self.train()

    def largest_difference(
        self, arrays: Mapping[str, np.ndarray], prefix: str, gradients: Mapping[str, Tensor | None]
    ) -> float:
        """Largest absolute difference of parameter gradients to those of a reference file."""
        found = []
        for name, gradient in gradients.items():
            expected = torch.tensor(arrays[f"{prefix}{name.replace('.', '_')}"])
            found.append(float(((0 if gradient is None else gradient) - expected).abs().max()))
        return max(found)

    def buffers_equal(self, arrays: Mapping[str, np.ndarray], prefix: str) -> bool:
        """Do the running statistics equal those of a reference file to 1e-12?"""
        return all(
            torch.allclose(
                buffer.double(), torch.tensor(arrays[f"{prefix}{name.replace('.', '_')}"]).double(), rtol=0, atol=1e-12
            )
            for name, buffer in self.named_buffers()
        )
