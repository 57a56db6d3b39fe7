"""Pictures of an evaluation: what twelve test images became under attack, and input gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from abatis.api.batch import Batch
from abatis.api.context import Forward
from abatis.api.randomness import seeded
from abatis.evaluate.album import Album, Kept, read_answer, scale_down
from abatis.evaluate.examination import Examination
from abatis.evaluate.isolation import isolate
from abatis.evaluate.request import EvaluationRequest
from abatis.report.png import encode_difference, encode_gradient, encode_png


def draw_pictures(
    module: nn.Module, request: EvaluationRequest, found: Examination
) -> dict[str, Any]:
    """Draw the shown points.

    Returns:
        Plain types: PNG in base64, answers as (class, probability), and for each image the attack
        that broke it first, or None where it withstood all.
    """
    album = found.withstood.album
    album.gather()
    points = request.points.subset(album.shown)
    batches = [*points.eval_batches(min(len(points), request.batch_size))]
    own = _examine(module, batches, request.seed)
    twin = None if request.training is None else request.training.trained_twin
    other = None if twin is None else _examine(twin, batches, request.seed)
    x, y, index = (
        torch.cat([getattr(batch, name) for batch in batches]).cpu() for name in ("x", "y", "index")
    )
    images = []
    for row, place in enumerate(album.shown.tolist()):
        image = {
            "position": place,
            "index": int(index[row]),
            "label": int(y[row]),
            **_describe_fate(album, found, place),
            **_draw_attack(scale_down(x[row]), _choose_kept(album, found, place)),
            "clean_answer": list(read_answer(own[0][row], album.probabilities)),
            "gradient": _draw_gradient(own[1], row),
            "twin_gradient": None if other is None else _draw_gradient(other[1], row),
        }
        images.append(image)
    side, shown = int(x.shape[-1]), int(scale_down(x[0]).shape[-1])
    kind = "" if request.training is None else request.training.twin_kind
    return {
        "threat": str(request.threat),
        "pixels": side,
        "shown_pixels": shown,
        "twin": kind if other is not None else None,
        "images": images,
    }


def _examine(module: nn.Module, batches: list[Batch], seed: int) -> tuple[Tensor, Tensor | None]:
    """Logits of all images, (m, K), and the gradient of the cross-entropy, (m, C, H, W).

    The gradient is None where the network has none.
    """
    logits, gradients = [], []
    with isolate(module) as net, seeded(seed, "pictures"):
        for batch in batches:
            with torch.no_grad():
                logits.append(net(batch.x).float().cpu())
            gradients.append(_differentiate(net, batch))
    known = [one for one in gradients if one is not None]
    return torch.cat(logits), torch.cat(known) if len(known) == len(batches) else None


def _differentiate(net: Forward, batch: Batch) -> Tensor | None:
    x = batch.x.clone().requires_grad_()
    try:
        loss = F.cross_entropy(net(x), batch.y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, x)
    except Exception:  # the network's own code may fail in any way, or know no gradient
        return None
    return gradient.float().cpu() if gradient.isfinite().all() else None


def _draw_gradient(gradients: Tensor | None, row: int) -> str | None:
    return None if gradients is None else encode_gradient(_as_array(scale_down(gradients[row])))


def _choose_kept(album: Album, found: Examination, place: int) -> Kept | None:
    """The image to show of a point; None where none was kept."""
    if not found.clean.correct[place]:
        return None
    return (album.withstood if found.robust[place] else album.broken).get(place)


def _describe_fate(album: Album, found: Examination, place: int) -> dict[str, Any]:
    """Was the point right without an attack, and which attack broke it first?"""
    correct, robust = bool(found.clean.correct[place]), bool(found.robust[place])
    broken = [name for name, one in found.ladder.verdicts.items() if not one.robust[place]]
    first = album.broken.get(place)
    breaker = first.attack if first is not None else next(iter(broken), "a diagnostic")
    return {"correct": correct, "broken_by": breaker if correct and not robust else None}


def _draw_attack(clean: Tensor, kept: Kept | None) -> dict[str, Any]:
    drawn: dict[str, Any] = {"clean": encode_png(_as_array(clean)), "adversarial": None}
    if kept is None:
        return drawn
    difference, times = encode_difference(_as_array(kept.image - clean))
    return {
        **drawn,
        "adversarial": encode_png(_as_array(kept.image)),
        "adversarial_answer": list(kept.answer),
        "attack": kept.attack,
        "difference": difference,
        "times": times,
    }


def _as_array(image: Tensor) -> NDArray[np.float32]:
    return image.detach().numpy().astype(np.float32)
