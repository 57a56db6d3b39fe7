"""How far the points are from being misclassified: in logits, in probabilities, and in pixels.

All margins are positive where the point is classified correctly and negative where it is not.
Distances are in pixel units of [0, 1]; they are distances of the function, not clipped to the box.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from abatis.api.batch import Batch
from abatis.api.context import Forward
from abatis.errors import DataError
from abatis.evaluate.deepfool import (
    CANDIDATES,
    ORDERS,
    distance,
    find_boundary,
    find_rivals,
    linearise,
    overshoot_each_step,
    size,
)
from abatis.evaluate.judge import find_correct
from abatis.evaluate.pgd import margin
from abatis.nets.net import Net

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
BINS = 20
FIVE_STEPS = "deepfool5_L2"  # in a record
BY_POINT = "per_point"  # in a record: the margins of every point
BY_POINT_OF = ("logit", "input_L2", "input_Linf")  # of these measures
DIGITS = 6  # of such a margin


def logit_margin(logits: Tensor, y: Tensor) -> Tensor:
    """Return z_y - max_{k != y} z_k: (B, K), (B,) -> (B,)."""
    return -margin(logits, y)


def probability_margin(logits: Tensor, y: Tensor) -> Tensor:
    """Return p_y - max_{k != y} p_k, in [-1, 1] (Wang et al., NeurIPS 2021).

    (B, K), (B,) -> (B,).
    """
    return -margin(logits.log_softmax(1).exp(), y)


def effective_margin(
    forward: Forward, x: Tensor, y: Tensor, norm: str, candidates: int = CANDIDATES
) -> Tensor:
    """Return min_{k != y} (z_y - z_k) / ||grad_x (z_y - z_k)||_dual (Liu and Chan, BMVC 2022).

    It is the signed distance to the linearised boundary, and does not change with the logits'
    scale. For a misclassified point it belongs to the k that lies farthest across. A k at a tie
    counts 0, one without a gradient +-infinity.

    Args:
        forward: the network.
        x: (B, C, H, W).
        y: (B,) int64.
        norm: "L2" or "Linf".
        candidates: k runs over the ``candidates`` - 1 other classes of highest logits.

    Returns:
        (B,).
    """
    return effective_margins(forward, x, y, (norm,), candidates)[norm]


def effective_margins(
    forward: Forward, x: Tensor, y: Tensor, norms: Sequence[str], candidates: int = CANDIDATES
) -> dict[str, Tensor]:
    """Return :func:`effective_margin` in several norms, from the same gradients."""
    with torch.no_grad():
        others = find_rivals(forward(x), y, candidates)
    lengths = [
        [distance(gap, w, norm) for norm in norms] for gap, w in linearise(forward, x, y, others)
    ]
    return {
        norm: torch.stack(column).amin(0)
        for norm, column in zip(norms, zip(*lengths, strict=True), strict=True)
    }


def input_margin(forward: Forward, x: Tensor, y: Tensor, norm: str) -> Tensor:
    """Return +-||r|| of DeepFool's r out of the predicted class, in 50 steps: (B,).

    It is negative where the prediction is wrong: then it is the distance out of the wrong class,
    not the distance to y. It is +-infinity where no boundary was found.
    """
    with torch.no_grad():
        correct = find_correct(forward(x), y)
    return _signed(*find_boundary(forward, x, norm), correct, norm)


def _signed(r: Tensor, reached: Tensor, correct: Tensor, norm: str) -> Tensor:
    length = torch.where(reached, size(r, norm), torch.inf)
    return torch.where(correct, length, -length)


@dataclass(frozen=True)
class Margins:
    """Margins of n points, on the CPU.

    Args:
        measures: (n,) float64 by the measure's name; infinite where no boundary was found.
        rho_adv: by norm, the mean of ||r|| / ||x|| over all points (DeepFool, eq. 2), with r as
            far as the steps came.
        adversarial: (n,) logit margins at the adversarial images.
        five_steps: (m,), what :func:`measure_five_steps` found, of these points or of more.
    """

    measures: Mapping[str, Tensor]
    rho_adv: Mapping[str, float]
    adversarial: Tensor | None = None
    five_steps: Tensor | None = None

    def to_json(self) -> dict[str, object]:
        """Return plain types.

        ``unreached`` counts the points without a finite margin; the summaries leave them out.
        """
        clean = self.measures["logit"]
        found = (
            self.measures
            if self.adversarial is None
            else {**self.measures, "adversarial": self.adversarial}
        )
        return {
            "points": len(clean),
            "measures": {
                name: {"unit": _unit(name), **_summary(values)}
                for name, values in self.measures.items()
            },
            **{
                f"rho_adv_{norm}": value if np.isfinite(value) else None
                for norm, value in self.rho_adv.items()
            },
            **({} if self.five_steps is None else {FIVE_STEPS: _mean_of(self.five_steps)}),
            "histogram": {"measure": "logit", **_histogram(clean, self.adversarial)},
            "unreached": {name: int((~values.isfinite()).sum()) for name, values in found.items()},
            BY_POINT: {
                name: _list_values(self.measures[name])
                for name in BY_POINT_OF
                if name in self.measures
            },
        }


def _list_values(values: Tensor) -> list[float | None]:
    """(n,) as plain numbers; None where one is not finite."""
    numbers = (float(f"{value:.{DIGITS}g}") for value in values.tolist())
    return [value if np.isfinite(value) else None for value in numbers]


def _mean_of(lengths: Tensor) -> dict[str, object]:
    """Mean and number of points; the mean is None where a length is not finite."""
    mean = float(lengths.mean())
    return {"mean": mean if np.isfinite(mean) else None, "points": len(lengths)}


def _unit(measure: str) -> str:
    kind, _, norm = measure.partition("_")
    return {"logit": "logits", "probability": "probability"}.get(kind, f"{norm}, pixels in [0, 1]")


def _summary(values: Tensor) -> dict[str, object]:
    finite = values[values.isfinite()].numpy()
    if not len(finite):
        return {"mean": None, "min": None, "quantiles": {str(share): None for share in QUANTILES}}
    quantiles = np.quantile(finite, QUANTILES).tolist()
    return {
        "mean": float(finite.mean()),
        "min": float(finite.min()),
        "quantiles": {str(share): value for share, value in zip(QUANTILES, quantiles, strict=True)},
    }


def _histogram(clean: Tensor, adversarial: Tensor | None) -> dict[str, object]:
    """Count both in the same bins of equal width."""
    shown = (
        {"clean": clean} if adversarial is None else {"clean": clean, "adversarial": adversarial}
    )
    finite = {name: values[values.isfinite()].numpy() for name, values in shown.items()}
    both = np.concatenate(list(finite.values()))
    low, high = (float(both.min()), float(both.max())) if len(both) else (0.0, 0.0)
    room = 0.5 if low == high else 0.0
    edges = np.linspace(low - room, high + room, BINS + 1)
    return {
        "edges": edges.tolist(),
        "adversarial": None,
        **{name: np.histogram(values, edges)[0].tolist() for name, values in finite.items()},
    }


def measure_five_steps(forward: Forward, batches: Iterable[Batch]) -> Tensor:
    """Return ||r||_2 of at most 5 DeepFool steps for every point, (n,) float64 on the CPU.

    It is never negative: r leads out of the predicted class, right or wrong. A point that does not
    leave it counts with r as far as the steps came. Yan, Guo and Zhang (TPAMI 2019) report the mean
    over a test set.
    """
    found = [
        size(overshoot_each_step(forward, batch.x), "L2").detach().cpu().double()
        for batch in batches
    ]
    return torch.cat(found)


def measure_margins(
    net: Net, batches: Iterable[Batch], norm_of_threat: str, adversarial: Tensor | None = None
) -> Margins:
    """Measure all margins of all points, in L2 and Linf.

    Args:
        net: inside :func:`~abatis.evaluate.isolation.isolate`.
        batches: of the points.
        norm_of_threat: comes first where it is one of the two.
        adversarial: (n, C, H, W), adversarial images of the points in their order.

    Raises:
        DataError: there are no points.
        UsageError: the outputs have no gradient with respect to the image.
    """
    norms = sorted(ORDERS, key=lambda norm: norm != norm_of_threat)
    rows: list[dict[str, Tensor]] = []
    done = 0
    for batch in batches:
        row = _measure(net, batch, norms)
        if adversarial is not None:
            images = adversarial[done : done + len(batch)].to(batch.x)
            with torch.no_grad():
                row["adversarial"] = logit_margin(net(images), batch.y)
        rows.append({name: values.cpu().double() for name, values in row.items()})
        done += len(batch)
    if not done:
        raise DataError(
            "there are no images to judge",
            where="evaluation, margins",
            fix="choose a split that is not empty",
        )
    if adversarial is not None and len(adversarial) != done:
        raise ValueError(f"{len(adversarial)} adversarial images for {done} points")
    found = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
    rho = {norm: float(found.pop(f"relative_{norm}").mean()) for norm in norms}
    return Margins(adversarial=found.pop("adversarial", None), measures=found, rho_adv=rho)


def _measure(net: Net, batch: Batch, norms: Sequence[str]) -> dict[str, Tensor]:
    """Return (B,) by measure, and ||r|| / ||x|| by norm."""
    x, y = batch.x, batch.y
    with torch.no_grad():
        logits = net(x)
    correct = find_correct(logits, y)
    values = {"logit": logit_margin(logits, y), "probability": probability_margin(logits, y)}
    values |= {
        f"effective_{norm}": found for norm, found in effective_margins(net, x, y, norms).items()
    }
    for norm in norms:
        r, reached = find_boundary(net, x, norm)
        values[f"input_{norm}"] = _signed(r, reached, correct, norm)
        values[f"relative_{norm}"] = size(r, norm) / size(x, norm)
    return values


def count_per_class(
    labels: Tensor, clean: Tensor, robust: Tensor, classes: int
) -> dict[str, list[int]]:
    """Count the points of every class, and those that are correct without and under attack.

    Args:
        labels: (n,) int64.
        clean: (n,) bool, correct without an attack.
        robust: (n,) bool, correct under attack.
        classes: K.
    """
    chosen = {"n": labels, "clean": labels[clean], "robust": labels[robust]}
    return {
        name: torch.bincount(those, minlength=classes).tolist() for name, those in chosen.items()
    }
