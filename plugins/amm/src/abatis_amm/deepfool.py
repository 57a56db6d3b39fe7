"""DeepFool (Moosavi-Dezfooli et al., CVPR 2016) as a function of the parameters, as in AMM.

At the current point a, with own class o and another class k, let s_k = f_k(a) - f_o(a) and
w_k = grad_a s_k. One step is

    L2:   (1 + overshoot) |s_k| / ||w_k + eps||_2 * w_k / ||w_k + eps||_2
    Linf: (1 + overshoot) |s_k| / ||w_k + eps||_1 * sign(w_k)

towards the k with the smallest |s_k| / ||w_k + eps||, or towards a given class. Gradients flow
through s_k (and through its point, so into the earlier steps) and through w_k at a fixed point; the
chosen class and which samples are done are constants.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from abatis import Network

if TYPE_CHECKING:
    from abatis_amm import AmmConfig

NORMS: dict[str, tuple[float, float]] = {"L2": (2, 2), "Linf": (float("inf"), 1)}
"""The order of each norm and of its dual."""


def size(images: Tensor, norm: str) -> Tensor:
    """Return the norm of every sample: (B, ...) -> (B,)."""
    result: Tensor = torch.linalg.vector_norm(images.flatten(1), ord=NORMS[norm][0], dim=1)
    return result


class DeepFool:
    """Perturbations across the nearest boundary, or into a given class, in eval mode."""

    def __init__(self, net: Network, config: AmmConfig) -> None:
        self.net, self.config = net, config

    def __call__(
        self, x: Tensor, logits: Tensor, toward: Tensor | None, graph: bool
    ) -> tuple[Tensor, Tensor]:
        """Find the perturbations of some images.

        Args:
            x: the images, (B, C, H, W).
            logits: the logits at the images, (B, K).
            toward: the classes to reach, (B,); None: any but the predicted one.
            graph: make the perturbations differentiable in the parameters.

        Returns:
            The perturbations (B, C, H, W), and which of them arrived (B,).
        """
        r = torch.zeros_like(x)
        rows = torch.arange(len(x), device=x.device)  # the samples that have not arrived
        ranked = logits.argsort(dim=1, descending=True, stable=True)
        ranked = ranked[:, : self.config.candidates]  # (B, L), for all iterations
        for _ in range(self.config.iterations):
            if not len(rows):
                break
            step = self._step(
                x[rows] + r[rows], ranked[rows], None if toward is None else toward[rows], graph
            )
            r = r.index_add(0, rows, step)
            with torch.no_grad():  # the next step builds the graph, for the remaining samples only
                now = self.net.frozen(x[rows] + r[rows]).argmax(1)
            left = now == ranked[rows, 0] if toward is None else now != toward[rows]
            rows = rows[left]
        return r, torch.ones_like(ranked[:, 0], dtype=torch.bool).index_fill(0, rows, False)

    def _step(self, point: Tensor, ranked: Tensor, toward: Tensor | None, graph: bool) -> Tensor:
        """Return one step of every row: (A, C, H, W), (A, L), (A,) -> (A, C, H, W)."""
        leaf = point.detach().requires_grad_(True)
        logits = self.net.frozen(leaf)  # (A, K)
        own = ranked[:, 0] if toward is None else logits.argmax(1)  # (A,)
        other = self._nearest(leaf, logits, ranked) if toward is None else toward  # (A,)
        gap = pick(logits, other) - pick(logits, own)  # (A,)
        (w,) = torch.autograd.grad(gap.sum(), leaf, create_graph=graph)  # (A, C, H, W)
        if point.requires_grad and self.config.backprop_previous:
            linear = (w.detach() * (point - leaf.detach())).flatten(1).sum(1)  # (A,)
            gap = gap + linear  # adds 0, and d gap / d point
        norm = self._dual(w)  # (A,)
        length = (1 + self.config.overshoot) * gap.abs() / norm  # (A,)
        direction = (
            w / norm[:, None, None, None] if self.config.norm == "L2" else w.sign()
        )  # (A, C, H, W)
        step = length[:, None, None, None] * direction
        return step if graph else step.detach()

    def _nearest(self, leaf: Tensor, logits: Tensor, ranked: Tensor) -> Tensor:
        """Return the class with the nearest linearised boundary, (A,).

        Args:
            leaf: the points, (A, C, H, W).
            logits: their logits, (A, K).
            ranked: the candidates, the own class first, (A, L).
        """
        own = pick(logits, ranked[:, 0])
        distances = []
        for other in ranked[:, 1:].unbind(1):
            gap = pick(logits, other) - own  # (A,)
            (w,) = torch.autograd.grad(gap.sum(), leaf, retain_graph=True)
            distances.append(gap.detach().abs() / self._dual(w))
        nearest = torch.stack(distances, 1).argmin(1, keepdim=True)  # (A, 1)
        return ranked[:, 1:].gather(1, nearest).squeeze(1)

    def _dual(self, w: Tensor) -> Tensor:
        """Return the dual norm of every sample's gradient: (A, C, H, W) -> (A,)."""
        norm: Tensor = torch.linalg.vector_norm(
            w.flatten(1) + self.config.epsilon, ord=NORMS[self.config.norm][1], dim=1
        )
        return norm


def pick(logits: Tensor, classes: Tensor) -> Tensor:
    """Return one logit per row: (A, K), (A,) -> (A,)."""
    return logits.gather(1, classes[:, None]).squeeze(1)
