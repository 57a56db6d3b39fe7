"""D25: what a stranger says of the adversarial images that the network withstood."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from abatis.api.randomness import generator
from abatis.evaluate.judge import find_correct
from abatis.evaluate.masking.record import FEW, Outcome, Status, make_outcome
from abatis.evaluate.stranger.process import Stranger, StrangerFailed
from abatis.evaluate.withstood import Withstood

APART = 0.05
"""Two answers differ if their logits do, by this share of the largest; rounding is far below."""

LIMIT = 0.01  # share of images with another answer that fails
MORE = 512  # images that are asked about in every other way
FEW_ASKED = 8  # images by which memories are told from batches
ODD_SIZE = 7  # images in a batch of another size

MEMORY = "earlier questions"
ORDER = "the order of the images in a batch"
SIZE = "the size of the batch"
RECORDED = "whether gradients are recorded"
REQUIRES = "requires_grad of the images"
PARAMETERS = "requires_grad of the parameters"


@dataclass(frozen=True)
class StrangerReport:
    """What the stranger found.

    Args:
        outcome: of D25.
        broken: (n,) bool, the points whose image fools a copy, in whatever way it is asked.
        depends: what the answers depend on, in words.
    """

    outcome: Outcome
    broken: Tensor
    depends: tuple[str, ...] = ()


def examine_stranger(
    stranger: Stranger | str, withstood: Withstood, robust: Tensor, batch_size: int, seed: int
) -> StrangerReport:
    """Ask the stranger about all kept images of points that stand, (n,) bool.

    A random choice of them is asked about in other ways, too: alone, in another order, in batches
    of another size, with gradients recorded. A difference is one of the logits that no rounding
    explains, and counts by the image.
    """
    nothing = torch.zeros_like(robust)
    if isinstance(stranger, str):
        return StrangerReport(_skip(f"no stranger was asked: {stranger}"), nothing)
    kept = withstood.collect(robust)
    try:
        if kept is None:
            return StrangerReport(_skip("no adversarial image of a point that stands"), nothing)
        return _compare(stranger, kept, nothing, batch_size, seed)
    except StrangerFailed as error:
        return StrangerReport(_skip(f"no stranger could be asked: {error}"), nothing)


def watch_stranger(stranger: Stranger | str, images: Tensor, robust: Tensor) -> StrangerReport:
    """Only watch what a network does while it answers: it answers at random, or nothing stands.

    Args:
        stranger: the copy in another process, or why there is none.
        images: any that are not clean, (B, C, H, W).
        robust: (n,) bool, the points that stand.
    """
    nothing = torch.zeros_like(robust)
    if isinstance(stranger, str):
        return StrangerReport(_skip(f"no stranger was asked: {stranger}"), nothing)
    try:
        stranger.ask(images, len(images))
    except StrangerFailed as error:
        return StrangerReport(_skip(f"no stranger could be asked: {error}"), nothing)
    if not (stranger.seen or stranger.replaced):
        why = "no point stands" if not robust.any() else "its answers cannot be compared"
        return StrangerReport(_skip(f"a copy was only watched: {why}"), nothing)
    says = f"a copy of the network in a new process ({stranger.how}) was asked"
    return StrangerReport(_grade(stranger, {}, len(images), says), nothing)


def _skip(why: str) -> Outcome:
    return make_outcome("D25", "not applicable", why)


def _compare(
    stranger: Stranger, kept: tuple[Tensor, ...], broken: Tensor, batch_size: int, seed: int
) -> StrangerReport:
    places, images, labels, logits = kept
    broken = broken.clone()

    def count(reference: Tensor, answers: Tensor, rows: Tensor) -> int:
        apart = find_apart(reference, answers)
        wrong = apart & ~find_correct(answers, labels[rows])
        broken[places[rows[wrong]]] = True
        return int(apart.sum())

    every = torch.arange(len(images))
    answers = stranger.ask(images, batch_size)
    found = {MEMORY: (count(logits, answers, every), len(every))}
    order = torch.randperm(len(images), generator=generator(seed, "stranger order"))
    rows = order[:MORE]
    # in their order, and among themselves
    first = stranger.ask(images[rows], batch_size)
    turned = rows.flip(0)
    ways = {
        ORDER: (stranger.ask(images[turned], batch_size).flip(0), first),
        SIZE: (stranger.ask(images[rows], 1), first),
        f"{SIZE} ": (stranger.ask(images[rows], ODD_SIZE), first),
        RECORDED: (stranger.ask(images[rows], batch_size, recorded=True), first),
        REQUIRES: (
            stranger.ask(images[rows], batch_size, recorded=True, requires_grad=True),
            first,
        ),
        PARAMETERS: (stranger.ask(images[rows], batch_size, recorded=True, parameters=True), first),
    }
    for name, (answers, reference) in ways.items():
        number = count(reference, answers, rows)
        before = found.get(name.strip(), (0, 0))[0]
        found[name.strip()] = max(number, before), len(rows)
    says = f"a copy of the network in a new process ({stranger.how}) was asked"
    few = images[rows[:FEW_ASKED]]
    causes = _separate(stranger, few, _list_causes(found))
    return StrangerReport(_grade(stranger, found, len(every), says, causes), broken, tuple(causes))


def find_apart(reference: Tensor, answers: Tensor) -> Tensor:
    """Return which logits differ by more than rounding, (M,) bool.

    Logits that are not finite in both, or not in one, count as they are.
    """
    if reference.shape != answers.shape:
        return torch.ones(len(reference), dtype=torch.bool)
    size = torch.maximum(reference.abs(), answers.abs()).amax(1).clamp(min=1e-30)
    apart = (reference - answers).abs().amax(1) / size > APART
    odd = reference.isfinite().all(1) != answers.isfinite().all(1)
    return apart | odd


def _list_causes(found: dict[str, tuple[int, int]]) -> list[str]:
    """What the answers may depend on."""
    return [name for name, (count, of) in found.items() if count > FEW and count > LIMIT * of]


def _separate(stranger: Stranger, images: Tensor, causes: list[str]) -> list[str]:
    """Tell memories from batches: within one conversation, either explains the other.

    So a few images are asked about together, in one forward, and each alone, every time of a copy
    that was never asked before.
    """
    batch = [name for name in causes if name in (ORDER, SIZE)]
    if not batch or MEMORY not in causes or not stranger.forgets:
        return causes
    together = stranger.ask(images, len(images))
    turned = stranger.ask(images.flip(0), len(images)).flip(0)
    alone = torch.cat([stranger.ask(image, 1) for image in images.split(1)])
    if find_apart(together, alone).any() or find_apart(together, turned).any():
        return [name for name in causes if name != MEMORY]
    return [name for name in causes if name not in batch]


def _grade(
    stranger: Stranger,
    found: dict[str, tuple[int, int]],
    of: int,
    says: str,
    depends: Sequence[str] = (),
) -> Outcome:
    causes = [f"its answers depend on {cause}" for cause in depends]
    causes += [f"its forward {text}" for text in stranger.seen]
    if stranger.replaced:
        causes.append(f"code of another origin replaced {', '.join(stranger.replaced)}")
    most = max((count for count, _ in found.values()), default=0)
    counted = next(((count, n) for count, n in found.values() if count == most), (0, of))
    status: Status = "fail" if causes else "warn" if most > FEW else "pass"
    text = f"{says} about {of} adversarial images that the network withstood"
    if causes:
        text += f": {'; '.join(causes)}"
    elif most:
        text += f" and answered otherwise on {counted[0]} of {counted[1]}"
    else:
        text += " and answered alike"
    share = counted[0] / counted[1] if counted[1] else 0.0
    return make_outcome("D25", status, text, share, *counted)
