"""``defense eval``: evaluates a model."""

from __future__ import annotations

import shlex
from collections.abc import Sequence


def command(words: Sequence[str]) -> int:
    """Evaluate any model: attacks, masking verdict, margins, report."""
    from abatis.commands.eval.options import MASKED, make_parser

    asked = make_parser("defense eval").parse_args(list(words))
    from abatis.commands.eval.judge_model import judge_model
    from abatis.system.secrets import mask_words

    verdict = judge_model(asked, f"defense eval {shlex.join(mask_words(words))}")
    return MASKED if asked.strict and verdict == "FAIL" else 0
