"""What a comparison says of evaluations under several threats: it ranks under the first one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from abatis.commands.compare.finished_runs import JudgedRun
from abatis.report.eval_record import UNION, list_threats, split_threats
from abatis.report.numbers import ROBUST, find_headline, format_share
from abatis.report.verdicts import find_worst

Record = Mapping[str, Any]


def describe_further_threats(runs: Sequence[JudgedRun]) -> list[str]:
    """Return sentences on the threats beside the first one; none where there are no others.

    Where all evaluations have the same threats, they give the robust accuracy of each method under
    every further threat and under all of them, as means over seeds.
    """
    found = {run.folder: list_threats(run.record) for run in runs}
    first = next(iter(found.values()), [])
    if all(len(threats) <= 1 for threats in found.values()):
        return []
    said = [f"methods are ranked under the first threat, {first[0]}, alone"]
    if any(set(threats) != set(first) for threats in found.values()):
        judged = (f"{run.folder} ({', '.join(found[run.folder][1:]) or 'none'})" for run in runs)
        return [*said, f"further threats differ and are not compared: {', '.join(judged)}"]
    for threat in first[1:]:
        said.append(f"robust under {threat}: {_show(runs, _choose(threat))}")
    return [*said, f"robust under all of {' and '.join(first)}: {_show(runs, _take_union)}"]


def _choose(threat: str) -> Callable[[Record], Record]:
    def choose(record: Record) -> Record:
        return next(one for one in split_threats(record) if one["threat"] == threat)

    return choose


def _take_union(record: Record) -> Record:
    union: Record = record[UNION]
    return union


def _show(runs: Sequence[JudgedRun], choose: Callable[[Record], Record]) -> str:
    """``a 40.00 %, b at most 38.00 %``: means over the runs of a method."""
    texts = []
    for method in dict.fromkeys(run.method for run in runs):
        records = [choose(run.record) for run in runs if run.method == method]
        shares = [share for one in records if (share := find_headline(one)) is not None]
        verdict = find_worst(one.get("verdict") for one in records)
        mean = fmean(shares) if shares else None
        texts.append(f"{method} {format_share(mean, verdict, ROBUST)}")
    return ", ".join(texts)
