"""The margin of one point under gradient flow on its logits: one-vs-the-rest beside cross-entropy.

The simple problem of Kanai et al. (ICML 2023): the logits themselves are the parameters, all 0 at
the start, and dz/dt = -grad loss. Their claim: the margin z_y - max_k z_k of one-vs-the-rest
becomes twice that of the cross-entropy, whatever weight the latter has.

    python -m benchmarks.paper_scale.simple_problem

Writes benchmarks/results/paper-simple-problem.json; a second.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from torch import Tensor

from abatis_sovr.loss import one_versus_rest

RESULT = Path(__file__).parent.parent / "results" / "paper-simple-problem.json"
CLASSES, TIMES = 10, (1.0, 1e2, 1e4, 1e6, 1e8, 1e10)
LABEL = torch.tensor([0])
Loss = Callable[[Tensor], Tensor]


def follow(loss: Loss) -> list[float]:
    """Return the margin at every time, by an implicit method in float64."""

    def slope(log_time: float, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        z = torch.tensor(logits[None], requires_grad=True)
        (gradient,) = torch.autograd.grad(loss(z).sum(), z)
        return np.asarray(-np.exp(log_time) * gradient[0].numpy())  # dz / d(log t)

    times = np.log(TIMES)
    found = solve_ivp(
        slope,
        (-10.0, times[-1]),
        np.zeros(CLASSES),
        method="LSODA",
        t_eval=times,
        rtol=1e-8,
        atol=1e-10,
    )
    return [float(value) for value in found.y[0] - found.y[1:].max(0)]


def weighted_cross_entropy(weight: float) -> Loss:
    """The loss of one point whose weight is fixed."""

    def loss(z: Tensor) -> Tensor:
        return weight * F.cross_entropy(z, LABEL, reduction="none")

    return loss


def main() -> None:
    """Follow both, and a heavier and a lighter weight."""
    margins = {"one-vs-the-rest": follow(lambda z: one_versus_rest(z, LABEL))}
    for weight in (0.5, 1.0, 2.0):
        margins[f"cross-entropy, weight {weight:g}"] = follow(weighted_cross_entropy(weight))
    ovr = np.array(margins.pop("one-vs-the-rest"))
    record = {
        "classes": CLASSES,
        "times": TIMES,
        "one_versus_rest": ovr.tolist(),
        "margins": margins,
        "ratios": {name: (ovr / np.array(values)).tolist() for name, values in margins.items()},
        "ratios_of_growth": {
            name: (np.diff(ovr) / np.diff(values)).tolist() for name, values in margins.items()
        },
    }
    RESULT.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
