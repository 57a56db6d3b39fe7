"""Whether a folder holds the answer to exactly the question that is asked again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from abatis.errors import DataError
from abatis.evaluate.corruptions.sources import CorruptionSource
from abatis.evaluate.question import describe_question
from abatis.evaluate.request import EvaluationRequest
from abatis.report.eval_record import RECORD, read_record
from abatis.report.sealed_json import is_intact, read_json, write_sealed
from abatis.system.files import explain_disk_errors, sha256_of

QUESTION = "question.json"


def describe_all(
    module: nn.Module, requests: Sequence[EvaluationRequest], corruptions: CorruptionSource | None
) -> str | None:
    """Return the sha256 of all that decides an evaluation; None where that is not known.

    Args:
        module: the network.
        requests: one for each threat.
        corruptions: of which its images are judged, too.
    """
    questions = [describe_question(module, request) for request in requests]
    if None in questions:
        return None
    first = requests[0]
    asked = {
        "questions": questions,
        "ladder": first.ladder,
        "square_bf16": first.square_bf16,
        "also": [[attack.name, attack.version] for attack in first.also],
        "corruptions": None if corruptions is None else corruptions.settings,
        "twin": None if first.training is None else first.training.twin_kind,
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def is_answered(folder: Path, question: str) -> bool:
    """Is the evaluation in a folder the answer to a question?"""
    path = folder / QUESTION
    if not path.is_file():
        return False
    try:
        found = read_json(path)
        record = read_record(folder)
    except DataError:
        return False
    if not isinstance(found, dict) or not is_intact(found) or "clean_acc" not in record:
        return False
    known = (found.get("question"), found.get("record"))
    return known == (question, sha256_of(folder / RECORD))


def note_answered(folder: Path, question: str) -> None:
    """Write beside an evaluation to which question it is the answer."""
    with explain_disk_errors(folder):
        write_sealed(
            folder / QUESTION, {"question": question, "record": sha256_of(folder / RECORD)}
        )
