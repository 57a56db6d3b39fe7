"""Networks that may abstain, by an output of their own or by logits that are all equal.

An abstention on a clean image is an error. On an adversarial image it is neither right nor fooled:
it breaks the point, and points that nothing but abstentions broke are counted apart (Tramer et
al., NeurIPS 2020, section 3.2).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from abatis.evaluate.judge import Judge, read_answers
from abatis.evaluate.pgd import Objective, make_pgd

STEPS, STARTS = 100, 3  # of the attack that looks for a wrong class


@dataclass(frozen=True)
class Abstentions:
    """How often a network abstained.

    Args:
        clean: on so many clean images.
        adversarial: so many points were broken by abstentions alone: no attack made the network
            name a wrong class.
    """

    clean: int
    adversarial: int

    def to_json(self) -> dict[str, int]:
        """Return both counts."""
        return {"clean": self.clean, "adversarial": self.adversarial}

    def describe(self) -> str:
        """Return one sentence for the reader."""
        return (
            f"the network abstained on {self.clean} clean images, which count as wrong, and "
            f"{self.adversarial} points were broken by abstentions alone: they count as broken, "
            "and no attack made it name a wrong class there"
        )


def find_abstained(logits: Tensor, classes: int) -> Tensor:
    """Return where a network names no class: (B, K) -> (B,) bool.

    It names none where all logits are equal, and where the one output more than the data have
    classes is on top. Logits that are not finite are no abstention.
    """
    return is_abstention(read_answers(logits), logits.shape[1], classes)


def is_abstention(answers: Tensor, outputs: int, classes: int) -> Tensor:
    """Return which answers, (B,) as of :func:`~abatis.evaluate.judge.read_answers`, name no class.

    Args:
        answers: classes, or ``outputs`` where all logits are equal.
        outputs: K of the network.
        classes: of the data.
    """
    extra = answers == classes if outputs == classes + 1 else torch.zeros_like(answers).bool()
    return extra | (answers == outputs)


def make_accepted_margin(classes: int) -> Objective:
    """Return the largest logit of a wrong class, minus that of the right one or of abstaining."""

    def measure(logits: Tensor, y: Tensor) -> Tensor:
        wrong = logits[:, :classes].scatter(1, y[:, None], -torch.inf).amax(1)  # (B,)
        right = logits.gather(1, y[:, None]).squeeze(1)
        if logits.shape[1] != classes + 1:
            return wrong - right
        return wrong - torch.maximum(right, logits[:, classes])

    return measure


def pursue_wrong_classes(judge: Judge, classes: int, points: Tensor, seed: int) -> None:
    """Attack points, (n,) bool, on which the network abstained until it names a wrong class.

    The judge's keeper takes note of what is found.
    """

    def is_standing(logits: Tensor, y: Tensor) -> Tensor:
        named = read_answers(logits)
        return (named == y) | is_abstention(named, logits.shape[1], classes)

    objective = make_accepted_margin(classes)
    attack = make_pgd(judge.net, judge.threat, STEPS, seed, objective, range(STARTS), is_standing)
    judge.run_attack("PGD past abstentions", attack, points, "masking: PGD past abstentions")
