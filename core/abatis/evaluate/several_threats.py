"""One network under several threats: each is judged for itself, and a point must withstand all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from abatis.api.threat import Threat
from abatis.evaluate.clean import evaluate_clean
from abatis.evaluate.evaluation import Evaluation, evaluate
from abatis.evaluate.judge import compute_share
from abatis.evaluate.request import EvaluationRequest
from abatis.report import numbers
from abatis.report.eval_record import PICTURES, name_state
from abatis.report.intervals import wilson_interval
from abatis.report.verdicts import find_worst


def evaluate_all(module: nn.Module, requests: Sequence[EvaluationRequest]) -> dict[str, object]:
    """Judge a network under every threat that is asked for.

    Args:
        module: from images (B, C, H, W) in [0, 1] to logits (B, K).
        requests: one for each threat, which is all they differ in; see :func:`ask_each`.

    Returns:
        The numbers of eval.json: those of the first threat. Where there are more, ``under`` holds
        the numbers of each of the others, and ``union`` the points that withstood all of them.
        ``pictures``, under the first threat, go into a file of their own.

    Raises:
        AbatisError: what :func:`~abatis.evaluate.evaluation.evaluate` raises.
    """
    first = requests[0]
    if first.ladder == "clean":
        return evaluate_clean(module, first).to_json()
    found = {str(request.threat): evaluate(module, request) for request in requests}
    numbers_of = {threat: evaluation.to_json() for threat, evaluation in found.items()}
    own = numbers_of.pop(str(first.threat))
    own = {**own, PICTURES: found[str(first.threat)].pictures}
    if not numbers_of:
        return own
    under = {threat: {**of, "threat": threat} for threat, of in numbers_of.items()}
    return {**own, "under": under, "union": unite(found)}


def ask_each(
    request: EvaluationRequest, threats: Sequence[Threat], folder: Path
) -> list[EvaluationRequest]:
    """The requests of several threats; the attacks of each are kept in a file of its own."""
    return [
        request.under(threat, folder / name_state(threat if number else None))
        for number, threat in enumerate(threats)
    ]


def unite(found: Mapping[str, Evaluation]) -> dict[str, object]:
    """The points that withstood every attack of every threat, in plain types.

    Where a verdict is FAIL, the share is an upper bound. For a network that answers at random, the
    share of draws that are right is taken under the worst threat of each point.

    Args:
        found: the evaluations by threat, all on the same points.
    """
    verdict = find_worst(one.verdict for one in found.values())
    standing = torch.stack([one.per_point["robust"] for one in found.values()]).all(0)
    shares = [_compute_share(list(found.values()), standing)]
    for one in found.values():  # a bound that no point explains holds for the union, too
        shares += [one.accuracies[key] for key in HEADLINES if key in one.accuracies]
    share, n = min(shares), len(standing)
    key = numbers.UPPER.key if verdict == "FAIL" else numbers.ROBUST.key
    return {
        "threats": list(found),
        "verdict": verdict,
        key: share,
        "count": int(standing.sum()),
        "interval": list(wilson_interval(share * n, n)),
        "per_point": standing.int().tolist(),
    }


HEADLINES = (numbers.ROBUST.key, numbers.UPPER.key)


def _compute_share(found: Sequence[Evaluation], standing: Tensor) -> float:
    """The share of points that stand; of draws, where answers are random: (n,) bool -> [0, 1]."""
    rates = [
        one.per_point["robust"].double()
        if one.draws is None
        else one.draws.right["robust"].double() / one.draws.number
        for one in found
    ]
    if all(one.draws is None for one in found):
        return compute_share(standing)
    return float(torch.stack(rates).amin(0).mean())
