"""Networks that abstain, by an output of their own or by equal logits."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from abatis.api.threat import Threat
from abatis.evaluate.abstention import find_abstained, make_accepted_margin
from abatis.evaluate.evaluation import evaluate
from abatis.evaluate.judge import find_correct, read_answers
from abatis.evaluate.request import EvaluationRequest

NAN, INF = float("nan"), float("inf")


class Guarded(nn.Module):
    """One pixel t, two classes; from 0.6 to ``end`` it abstains, beyond that it names class 1."""

    def __init__(self, end: float, flat: bool) -> None:
        super().__init__()
        self.end, self.flat = end, flat

    def forward(self, x):
        t = x.flatten(1)[:, 0]
        inside = ((t >= 0.6) & (t < self.end)).float()
        if self.flat:
            return torch.stack([0.65 - t, t - 0.65], 1) * (1 - inside)[:, None]
        return torch.stack([0.65 - t, t - 0.65, 2 * inside - 1 + 0 * t], 1)


def judged(points, end: float, flat: bool, pixels: tuple[float, ...], state=None):
    x = torch.tensor(pixels).view(-1, 1, 1, 1)
    request = EvaluationRequest(
        points=points(x, torch.zeros(len(x), dtype=torch.int64)),
        threat=Threat.parse("Linf:0.2"),
        ladder="quick",
        seed=0,
        batch_size=8,
        device=torch.device("cpu"),
        num_classes=2,
        state=state,
    )
    return evaluate(Guarded(end, flat), request)


def test_a_shared_top_is_no_right_answer():
    logits = torch.tensor([[2.0, 1, 0], [2, 2, 0], [1, 1, 1], [0, 3, 3], [NAN, 0, 1], [INF, 0, 1]])
    assert find_correct(logits, torch.zeros(6, dtype=torch.int64)).tolist() == [True] + [False] * 5
    assert read_answers(logits).tolist() == [0, 0, 3, 1, -1, -1]


def test_what_counts_as_an_abstention():
    logits = torch.tensor([[2.0, 1, 0], [0, 1, 2], [1, 1, 1], [NAN, 0, 1]])
    assert find_abstained(logits, 2).tolist() == [False, True, True, False]
    assert find_abstained(logits, 3).tolist() == [False, False, True, False]
    assert find_abstained(logits, 1).tolist() == [False, False, True, False]  # two outputs more


def test_the_margin_of_an_accepted_wrong_answer():
    y = torch.tensor([0, 0])
    logits = torch.tensor([[1.0, 3, 2], [5, 3, 2]])
    assert make_accepted_margin(2)(logits, y).tolist() == [1, -2]  # the last output abstains
    assert make_accepted_margin(3)(logits, y).tolist() == [2, -2]


@pytest.mark.parametrize("flat", [False, True], ids=["an output more", "equal logits"])
def test_abstentions_are_no_right_answers_and_are_told_apart(points, flat):
    """0.3 stays right up to 0.5; 0.5 reaches abstentions only; 0.62 abstains when it is clean."""
    found = judged(points, 0.75, flat, (0.3, 0.5, 0.62))
    assert found.per_point["clean"].tolist() == [True, True, False]
    assert found.per_point["robust"].tolist() == [True, False, False]
    assert found.abstentions is not None
    assert found.to_json()["abstained"] == {"clean": 1, "adversarial": 1}
    assert [text for text in found.findings if "abstained on 1 clean" in text]


def test_a_wrong_class_behind_the_abstentions_is_looked_for(points):
    found = judged(points, 0.65, False, (0.3, 0.5))
    assert found.per_point["robust"].tolist() == [True, False]
    assert found.to_json()["abstained"] == {"clean": 0, "adversarial": 0}


def test_a_network_that_never_abstains_has_no_such_part(points):
    found = judged(points, 0.6, True, (0.3, 0.5))
    assert "abstained" not in found.to_json()
    assert found.per_point["robust"].tolist() == [True, False]
