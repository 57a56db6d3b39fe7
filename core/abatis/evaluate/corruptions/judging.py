"""Accuracy under every corruption and severity."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import nn

from abatis.evaluate.corruptions.published import NAMES, SEVERITIES, compute_mce
from abatis.evaluate.corruptions.sources import CorruptionSource
from abatis.evaluate.finished_attacks import FinishedAttacks
from abatis.evaluate.isolation import isolate
from abatis.evaluate.judge import Judge, Verdicts
from abatis.evaluate.question import describe_question
from abatis.evaluate.request import EvaluationRequest
from abatis.nets.net import Net
from abatis.system import distributed

STATE = "eval-state-corruptions.json"


def judge_corruptions(
    module: nn.Module, request: EvaluationRequest, source: CorruptionSource, folder: Path
) -> dict[str, object]:
    """Classify the corrupted points; a killed evaluation repeats no finished corruption.

    Args:
        module: the network.
        request: of the evaluation; its attacks do not matter here.
        source: of the corrupted images.
        folder: keeps the results so far.

    Returns:
        Counts of right points by corruption and severity, in plain types, and their means.

    Raises:
        DataError: a file is missing or damaged.
        NotFiniteError: a logit is NaN or infinite.
    """
    question = distributed.first_says(describe_question(module, request))
    finished = FinishedAttacks() if question is None else FinishedAttacks(folder / STATE, question)
    names = [name for name in NAMES if name not in source.left_out]
    every = torch.ones(len(request.points), dtype=torch.bool)
    right: dict[str, list[int]] = {}
    with isolate(module) as net:
        for name in names:
            right[name] = []
            for severity in SEVERITIES:
                title = f"{name} {severity}"
                run = partial(_classify, net, request, source, name, severity)
                verdict = finished.get_or_run(title, run, source.settings, every)
                right[name].append(int(verdict.robust.sum()))
    return summarize(right, len(every), source)


def _classify(
    net: Net, request: EvaluationRequest, source: CorruptionSource, name: str, severity: int
) -> Verdicts:
    title = f"{name} {severity}"

    def progress(_: str, done: int, total: int) -> None:
        if request.progress is not None:
            request.progress(title, done, total)

    points = source.corrupt(name, severity)
    judge = Judge(net, points, request.threat, request.batch_size, progress)
    return Verdicts(title, distributed.first_says(judge.classify_clean().correct))


def summarize(right: dict[str, list[int]], n: int, source: CorruptionSource) -> dict[str, object]:
    """Return the counts, their mean and, for ImageNet-C, the mean corruption error.

    The mean is over all corruptions and severities. RobustBench's mCE divides the mean error under
    each corruption by AlexNet's on the same images.

    Args:
        right: by corruption, the right points at each severity.
        n: points.
        source: of the images.
    """
    shares = {name: sum(counts) / (len(SEVERITIES) * n) for name, counts in right.items()}
    complete = len(right) == len(NAMES)
    errors = {name: 1 - share for name, share in shares.items()}
    return {
        "source": source.described,
        "left_out": dict(source.left_out),
        "n": n,
        "right": right,
        "corrupted_acc": sum(shares.values()) / len(shares),
        **({"mce": compute_mce(errors)} if complete and source.has_mce else {}),
    }
