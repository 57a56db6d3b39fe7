"""What attackers and transforms of the batch promise of their images, held against what they return."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from abatis.api.ball import Ball
from abatis.api.batch import Attacked, Batch
from abatis.api.threat import Threat
from abatis.errors import PluginError

INSIDE = "the attacker's images inside the ball"
STAY_INSIDE = "end the attack with Ball(batch.x, run.threat).project(x)"


def inside(attacked: Attacked, batch: Batch, threat: Threat, name: str, reach: float = 1) -> Tensor:
    """Which images of an attacker's result lie in [0, 1] and in ``reach`` times the ball: (B,) bool, not read by the host.

    Raises PluginError where the result is no detached image batch.
    """
    x = getattr(attacked, "x", None)
    if (
        not isinstance(x, Tensor)
        or x.shape != batch.x.shape
        or x.dtype != batch.x.dtype
        or x.requires_grad
    ):
        got = f"{tuple(x.shape)} {x.dtype}" if isinstance(x, Tensor) else type(attacked).__name__
        raise PluginError(
            f"attacker '{name}' returned {got}",
            where=f"for images {tuple(batch.x.shape)} {batch.x.dtype}",
            fix="return Attacked(x) with detached images of the same shape and type",
        )
    for key, values in attacked.info.items():
        if values.shape[:1] != (len(batch),):
            raise PluginError(
                f"attacker '{name}', info '{key}': shape {tuple(values.shape)} is not one value a sample"
            )
    if x is batch.x:
        return torch.ones_like(batch.y, dtype=torch.bool)
    return Ball(batch.x, replace(threat, eps=threat.eps * reach)).contains(x)


def check_attacked(
    attacked: Attacked, batch: Batch, threat: Threat, name: str, reach: float = 1
) -> Tensor:
    """The same, read by the host: raises PluginError where an image lies outside."""
    kept = inside(attacked, batch, threat, name, reach)
    if not bool(kept.all()):
        x, allowed = attacked.x, threat.text if reach == 1 else f"{reach:g} times {threat.text}"
        raise PluginError(
            f"attacker '{name}' left the ball or [0, 1] for {int((~kept).sum())} of {len(batch)} images",
            where=f"pixels in [{float(x.min()):.4g}, {float(x.max()):.4g}], largest {threat.norm} distance "
            f"{float(Ball(batch.x, threat).distance(x).max()):.6g}, allowed {allowed}",
            fix=STAY_INSIDE,
        )
    return kept


def check_batch(changed: Batch, batch: Batch, name: str) -> None:
    """Raise PluginError where a transform returned what is no batch of as many images in [0, 1]. Read by the host."""
    x = getattr(changed, "x", None)
    if (
        not isinstance(x, Tensor)
        or len(changed) != len(batch)
        or x.shape[:2] != batch.x.shape[:2]
        or x.dtype != batch.x.dtype
    ):
        got = f"{tuple(x.shape)} {x.dtype}" if isinstance(x, Tensor) else type(changed).__name__
        raise PluginError(
            f"plugin '{name}' made {got} of a batch",
            where=f"of images {tuple(batch.x.shape)} {batch.x.dtype}",
            fix="return dataclasses.replace(batch, x=...) with as many images of the same type",
        )
    if not bool(((x >= 0) & (x <= 1)).all()):
        raise PluginError(
            f"plugin '{name}' made pixels in [{float(x.min()):.4g}, {float(x.max()):.4g}] of a batch",
            fix="images are in [0, 1]: clamp them at the end of transform_batch",
        )
    soft = changed.y_soft
    if soft is not None and (
        len(soft) != len(batch)
        or not bool(((soft >= 0).all(1) & ((soft.sum(1) - 1).abs() < 1e-4)).all())
    ):
        raise PluginError(
            f"plugin '{name}': y_soft is no distribution over the classes, (B, K), of every sample",
            fix="rows of y_soft are not negative and sum to 1",
        )
