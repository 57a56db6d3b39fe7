"""Counter-based random numbers: every number is a hash of a key, a row and a place in that row.

The hash is Philox-4x32-10 (Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy as 1, 2,
3", SC 2011, section 3.3). In each of its ten rounds the words (c0, c1, c2, c3) become

    (hi(M1 c2) ^ c1 ^ k0, lo(M1 c2), hi(M0 c0) ^ c3 ^ k1, lo(M0 c0))

and the keys grow: k0 + W0, k1 + W1. hi and lo are the upper and lower 32 bits of a product. The
words are kept in int64, which every device has: a product of 64 bits wraps to the right bits, and
its shift needs a mask. So integers and uniform numbers are the same on every device; normal
numbers differ in the last digits of log, sin and cos.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Words = tuple[Tensor, Tensor, Tensor, Tensor]

MULTIPLIERS = 0xD2511F53, 0xCD9E8D57  # M0, M1
WEYL = 0x9E3779B9, 0xBB67AE85  # W0, W1
ROUNDS = 10
MASK = 0xFFFFFFFF  # the lower 32 bits
UNIT = 2.0**-32
AT_ONCE = 2**20  # counters that are hashed at once: some 60 MB of words


def philox(counter: Words, key: int) -> Words:
    """Hash counters of four words.

    Args:
        counter: four int64 tensors in [0, 2**32) that broadcast together.
        key: 64 bits, the first word of the key in the lower ones.

    Returns:
        Four int64 tensors in [0, 2**32), of the broadcast shape.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key & MASK, key >> 32
    for _ in range(ROUNDS):
        # the first rounds work on tensors that are not yet broadcast
        first, second = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        # c1 and c3 keep upper bits that the mask removes after the next exclusive or
        c0 = torch.bitwise_xor(second >> 32, c1).bitwise_xor_(k0).bitwise_and_(MASK)
        c2 = torch.bitwise_xor(first >> 32, c3).bitwise_xor_(k1).bitwise_and_(MASK)
        c1, c3 = second, first
        k0, k1 = (k0 + WEYL[0]) & MASK, (k1 + WEYL[1]) & MASK
    return c0, c1 & MASK, c2, c3 & MASK


def draw_uniform(key: int, rows: Tensor, like: Tensor) -> Tensor:
    """Draw numbers in [0, 1).

    They have as many random bits as the type has digits, 32 at most.

    Args:
        key: 64 bits that name the draw.
        rows: the row of each sample, (B,) int64 in [0, 2**63).
        like: (..., C, H, W), a tensor with the type, the device and, but for the first dimension,
            the shape of the result.

    Returns:
        (B, C, H, W); a row depends on the key, its number and the shape alone.
    """
    digits = min(32, 1 - round(math.log2(torch.finfo(like.dtype).eps)))

    def convert(words: Words) -> Tensor:
        parts = [(word >> (32 - digits)).to(like.dtype) for word in words]
        return torch.cat(parts, 1).mul_(2.0**-digits)

    return _draw(key, rows, like.shape[1:], like.dtype, like.device, convert)


def draw_normal(key: int, rows: Tensor, like: Tensor) -> Tensor:
    """Draw standard normal numbers, in float32 or wider; arguments as :func:`draw_uniform`'s.

    By Box and Muller (1958): ``sqrt(-2 log u) cos(2 pi v)`` and ``sqrt(-2 log u) sin(2 pi v)`` of
    uniform u and v, made of 32 bits each.
    """
    dtype = torch.promote_types(like.dtype, torch.float32)

    def convert(words: Words) -> Tensor:
        u = torch.cat([words[0], words[2]], 1).to(dtype).add_(0.5).mul_(UNIT)  # never 0
        angle = torch.cat([words[1], words[3]], 1).to(dtype).mul_(2 * math.pi * UNIT)
        radius = u.log_().mul_(-2).sqrt_()
        return torch.cat([radius * angle.cos(), radius * angle.sin()], 1)

    return _draw(key, rows, like.shape[1:], like.dtype, like.device, convert)


def draw_integers(key: int, rows: Tensor, shape: tuple[int, ...], below: int) -> Tensor:
    """Draw integers of 0 .. below - 1, uniform up to a share of ``below / 2**32``.

    Args:
        key: 64 bits that name the draw.
        rows: the row of each sample, (B,) int64 in [0, 2**63).
        shape: of the numbers of a row.
        below: at most 2**31.

    Returns:
        (B, *shape) int64 on the device of the rows.
    """

    def convert(words: Words) -> Tensor:
        return torch.cat([word * below >> 32 for word in words], 1)

    return _draw(key, rows, shape, torch.int64, rows.device, convert)


def _draw(
    key: int,
    rows: Tensor,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    convert: Callable[[Words], Tensor],
) -> Tensor:
    """Hash the counters (block, row's upper word, row's lower word, 0), four numbers each.

    Args:
        key: 64 bits that name the draw.
        rows: (B,) int64.
        shape: of a row.
        dtype: of the result.
        device: of the result.
        convert: makes (b, 4 * blocks) numbers of four words (b, blocks).
    """
    size = math.prod(shape)
    blocks = torch.arange(-(-size // 4), device=device)[None]  # (1, blocks)
    none = blocks.new_zeros(())
    drawn = torch.empty((len(rows), size), dtype=dtype, device=device)
    step = max(1, AT_ONCE // max(1, blocks.numel()))
    for start in range(0, len(rows), step):
        row = rows[start : start + step, None].to(device)  # (b, 1)
        words = philox((blocks, row >> 32, row & MASK, none), key)
        drawn[start : start + step] = convert(words)[:, :size]
    return drawn.view(len(rows), *shape)
