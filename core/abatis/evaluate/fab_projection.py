"""FAB's projections onto a hyperplane inside the box, without a sort of the pixels.

FAB (Croce and Hein, ICML 2020) moves an image t to the nearest point of a hyperplane inside
[0, 1], in the threat's norm (eq. 5): it minimises ||d||_p for <w, t + d> = b and
0 <= t + d <= 1. Let c = |<w, t> - b|, and r_i the room that pixel i has towards the plane. In
Linf and L2 every pixel moves until it meets the box,

    |d_i| = min(s, r_i)  in Linf,     |d_i| = |w_i| min(s, r_i / |w_i|)  in L2,

and the step s is the root of a function that is piecewise linear, increasing and concave:
sum_i |w_i d_i|(s) = c. Newton's method from the left reaches it, up to rounding, in a few passes
over the pixels. In L1 the pixels with the largest |w_i| go to the box, one after the other.
"""

from __future__ import annotations

from types import FunctionType, MethodType
from typing import Any

import torch
from pyautoattack import fab_base
from torch import Tensor

NEGLIGIBLE = 1e-8
"""In L2 and L1 the package takes smaller weights for zero."""


def replace_projections(fab: Any) -> None:
    """Make a FAB object use the projections of this module; the package is left as it is."""
    own = {
        **vars(fab_base),
        "projection_linf": project_linf,
        "projection_l2": project_l2,
        "projection_l1": project_l1,
    }
    run: Any = fab_base.FABAttack.attack_single_run
    copy = FunctionType(run.__code__, own, run.__name__, run.__defaults__)
    fab.attack_single_run = MethodType(copy, fab)


def project_linf(t: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """Return the smallest change in Linf that brings points in [0, 1] onto their hyperplanes.

    Where a hyperplane misses the box, the change leads to the corner nearest to it.

    Args:
        t: points (B, n).
        w: normals of the hyperplanes, (B, n).
        b: their offsets, (B,).

    Returns:
        (B, n).
    """
    distance, direction = _orient(t, w, b)
    room = _find_room(t, direction)
    step = _find_step(w.abs(), room, distance)
    return direction * torch.minimum(step, room)


def project_l2(t: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """The same in L2."""
    distance, direction = _orient(t, w, b)
    size = w.abs()
    moving = size > NEGLIGIBLE
    limit = (_find_room(t, direction) / size).masked_fill(~moving, 0)
    step = _find_step(size.square() * moving, limit, distance)
    return direction * size * torch.minimum(step, limit)


def project_l1(t: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """The same in L1."""
    distance, direction = _orient(t, w, b)
    size, order = w.abs().sort(dim=1, descending=True)
    room = (_find_room(t, direction) * (w.abs() > NEGLIGIBLE)).gather(1, order)
    reach = (size * room).cumsum(1)  # how far the pixels up to each one lead together
    before = torch.nn.functional.pad(reach[:, :-1], (1, 0))
    needed = ((distance.unsqueeze(1) - before).clamp_min(0) / size).nan_to_num(0)
    moved = torch.minimum(needed, room)
    return direction * torch.empty_like(moved).scatter_(1, order, moved)


def _orient(t: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """c, (B,), and the sign with which every pixel moves towards the plane, (B, n)."""
    above = (w * t).sum(1) - b
    direction = torch.where(above >= 0, -1.0, 1.0).unsqueeze(1) * w.sign()
    return above.abs(), direction


def _find_room(t: Tensor, direction: Tensor) -> Tensor:
    """How far every pixel can move, (B, n); zero where its weight is zero."""
    return torch.where(direction > 0, 1 - t, t) * direction.abs()


def _find_step(rate: Tensor, limit: Tensor, distance: Tensor) -> Tensor:
    """The root s of sum_i rate_i min(s, limit_i) = distance, (B, 1); infinite where there is none.

    Args:
        rate: how far a step leads towards the plane by each pixel, (B, n).
        limit: the step at which each pixel meets the box, (B, n).
        distance: (B,).
    """
    whole, step = rate * limit, distance / rate.sum(1)
    while True:
        free = limit > step.unsqueeze(1)
        slope = (rate * free).sum(1)
        left = distance - (whole * ~free).sum(1)
        following = (left / slope).masked_fill(slope == 0, torch.inf)
        moved = following > step  # not where a weight is NaN
        if not moved.any():
            return step.masked_fill(slope == 0, torch.inf).unsqueeze(1)
        step = torch.where(moved, following, step)
