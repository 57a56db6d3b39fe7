"""Whether the images of attackers and of batch transforms are as they must be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from abatis.api.ball import Ball
from abatis.api.batch import Attacked, Batch
from abatis.api.threat import Threat
from abatis.errors import PluginError

INSIDE = "the attacker's images inside the ball"
RESERVED = ("", "clean", "adv")  # names that further images cannot have
STAY_INSIDE = "end the attack with Ball(batch.x, run.threat).project(x)"


def find_inside(
    attacked: Attacked, batch: Batch, threats: Sequence[Threat], name: str, reach: float = 1
) -> Tensor:
    """Which of an attacker's images lie in [0, 1] and in the ball; not read by the host.

    Args:
        attacked: What the attacker returned.
        batch: The clean images.
        threats: Norms and radii; each image counts in its own ball, a further one in any.
        name: The attacker's, for errors.
        reach: The multiple of the radius that this attacker may go to.

    Returns:
        (B,) bool: for each sample, do all of its images?

    Raises:
        PluginError: The attacker returned something other than detached batches of images.
    """
    return torch.stack(list(_find_each(attacked, batch, threats, name, reach).values())).all(0)


def check_attacked(
    attacked: Attacked, batch: Batch, threats: Sequence[Threat], name: str, reach: float = 1
) -> Tensor:
    """Like :func:`find_inside`; raises PluginError where an image lies outside. Synchronises."""
    found = _find_each(attacked, batch, threats, name, reach)
    for key, inside in found.items():
        if not bool(inside.all()):
            x, own = (attacked.images[key], None) if key else (attacked.x, attacked.threat)
            what = f"attacker '{name}', images '{key}':" if key else f"attacker '{name}'"
            raise _describe_outside(x, own, inside, batch, threats, what, reach)
    return torch.stack(list(found.values())).all(0)


def _find_each(
    attacked: Attacked, batch: Batch, threats: Sequence[Threat], name: str, reach: float
) -> dict[str, Tensor]:
    """Which images lie inside, (B,) bool each: those of the attack as '', further ones by name."""
    if not isinstance(attacked, Attacked):
        raise PluginError(
            f"attacker '{name}' returned {type(attacked).__name__}", fix="return Attacked(x)"
        )
    x, own = _check_images(attacked.x, batch, f"attacker '{name}' returned"), attacked.threat
    _check_reported(attacked, batch, name)
    if own is not None and (own.shape != batch.y.shape or own.dtype != torch.int64):
        raise PluginError(
            f"attacker '{name}': threat is {tuple(own.shape)} {own.dtype}",
            fix="give the number of its threat for each image, (B,) int64",
        )
    balls = [Ball(batch.x, replace(threat, eps=threat.eps * reach)) for threat in threats]
    if x is batch.x:
        found = {"": torch.ones_like(batch.y, dtype=torch.bool)}
    elif own is None:
        found = {"": balls[0].contains(x)}
    else:
        each = [(own == number) & ball.contains(x) for number, ball in enumerate(balls)]
        found = {"": torch.stack(each).any(0)}
    for key, further in attacked.images.items():
        if key in RESERVED:
            raise PluginError(
                f"attacker '{name}': images cannot be named '{key}'", fix="use another name"
            )
        images = _check_images(further, batch, f"attacker '{name}', images '{key}':")
        found[key] = torch.stack([ball.contains(images) for ball in balls]).any(0)
    return found


def _check_images(x: object, batch: Batch, what: str) -> Tensor:
    """The images; raises PluginError where they are not detached and like those of the batch."""
    if (
        not isinstance(x, Tensor)
        or x.shape != batch.x.shape
        or x.dtype != batch.x.dtype
        or x.requires_grad
    ):
        got = f"{tuple(x.shape)} {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
        attached = isinstance(x, Tensor) and x.requires_grad
        raise PluginError(
            f"{what} {got}{', attached to a graph' if attached else ''}",
            where=f"for images {tuple(batch.x.shape)} {batch.x.dtype}",
            fix="return Attacked(x) with detached images of the same shape and type",
        )
    return x


def _check_reported(attacked: Attacked, batch: Batch, name: str) -> None:
    """Raise PluginError where what an attacker reports has no row for each sample."""
    for key, values in attacked.info.items():
        if not isinstance(values, Tensor) or values.shape[:1] != (len(batch),):
            got = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else repr(values)
            raise PluginError(
                f"attacker '{name}', info '{key}': {got}, not a tensor with a row for each sample",
                fix=f"report ({len(batch)}, ...) for a batch of {len(batch)}",
            )
    if missing := [key for key in attacked.shown if key not in attacked.info]:
        raise PluginError(
            f"attacker '{name}' asks to show {', '.join(missing)}, which is not in its info",
            fix="Attacked(x, {'name': values}, shown=('name',))",
        )


def _describe_outside(
    x: Tensor,
    own: Tensor | None,
    inside: Tensor,
    batch: Batch,
    threats: Sequence[Threat],
    what: str,
    reach: float,
) -> PluginError:
    """The error of images that lie outside of the ball of their threat, or of [0, 1]."""
    first = int((~inside).nonzero()[0])
    number = 0 if own is None else int(own[first])
    if not 0 <= number < len(threats):
        return PluginError(
            f"{what} names threat {number}, and the run has {len(threats)}",
            fix="count them from 0, in the order of run.threats",
        )
    threat = threats[number]
    counted = ~inside if own is None else ~inside & (own == number)
    allowed = threat.text if reach == 1 else f"{reach:g} times {threat.text}"
    farthest = float(Ball(batch.x, threat).distance(x)[counted].max())
    return PluginError(
        f"{what} left the ball or [0, 1] for {int((~inside).sum())} of {len(batch)} images",
        where=f"pixels in {_describe_range(x)}, largest {threat.norm} distance "
        f"{farthest:.6g}, allowed {allowed}",
        fix=STAY_INSIDE,
    )


def check_batch(changed: Batch, batch: Batch, name: str) -> None:
    """Raise PluginError where a transform broke a batch. Synchronises.

    The result must hold as many images of the same type in [0, 1], and legal soft labels if any.
    """
    x = getattr(changed, "x", None)
    if (
        not isinstance(x, Tensor)
        or len(changed) != len(batch)
        or x.shape[:2] != batch.x.shape[:2]
        or x.dtype != batch.x.dtype
    ):
        got = f"{tuple(x.shape)} {x.dtype}" if isinstance(x, Tensor) else type(changed).__name__
        raise PluginError(
            f"plugin '{name}' returned {got} from transform_batch",
            where=f"for images {tuple(batch.x.shape)} {batch.x.dtype}",
            fix="return dataclasses.replace(batch, x=...) with as many images of the same type",
        )
    if not bool(((x >= 0) & (x <= 1)).all()):
        raise PluginError(
            f"plugin '{name}' returned pixels in {_describe_range(x)} from transform_batch",
            fix="clamp the images to [0, 1] at the end of transform_batch",
        )
    if changed.y_soft is not None and not _are_distributions(changed.y_soft, len(batch)):
        raise PluginError(
            f"plugin '{name}': y_soft is not a distribution over the classes per sample, (B, K)",
            fix="rows of y_soft must be non-negative and sum to 1",
        )


def _are_distributions(soft: Tensor, size: int) -> bool:
    """Is every row of the (B, K) soft labels a distribution over the classes?"""
    if len(soft) != size:
        return False
    return bool(((soft >= 0).all(1) & ((soft.sum(1) - 1).abs() < 1e-4)).all())


def _describe_range(x: Tensor) -> str:
    return f"[{float(x.min()):.4g}, {float(x.max()):.4g}]"
