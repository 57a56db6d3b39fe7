"""The words of ``defense export``. Loads without torch."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from abatis.config.parser import Parser
from abatis.errors import UsageError, did_you_mean

FORMATS = ("safetensors", "onnx", "torch-export", "robustbench", "hub")


def parse(words: Sequence[str], prog: str) -> argparse.Namespace:
    """The options; raises UsageError where they do not go together."""
    parser = Parser(
        prog=prog,
        description="Write a finished run in a form that other programs read.",
        allow_abbrev=False,
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="run folder")
    parser.add_argument("--to", metavar="FORMAT", required=True, help=", ".join(FORMATS))
    parser.add_argument(
        "--out", metavar="DIR", type=Path, required=True, help="folder to write into"
    )
    parser.add_argument(
        "--allow-fail", action="store_true", help="export even where the masking verdict is FAIL"
    )
    parser.add_argument(
        "--repo", metavar="ORG/NAME", help="for --to hub: where on the Hugging Face hub"
    )
    _leaderboard_options(parser)
    asked: argparse.Namespace = parser.parse_args(list(words))
    if asked.to not in FORMATS:
        raise UsageError(
            f"unknown format '{asked.to}': {did_you_mean(asked.to, FORMATS)}",
            fix=f"--to {' or '.join(FORMATS)}",
        )
    if (asked.to == "hub") != (asked.repo is not None):
        raise UsageError(
            "--to hub and --repo belong together",
            fix="--to hub --repo ORG/NAME, or another format without --repo",
        )
    return asked


def _leaderboard_options(parser: Parser) -> None:
    """What only the authors know."""
    group = parser.add_argument_group("for the entry of a leaderboard")
    group.add_argument(
        "--name",
        metavar="NAME",
        help="of the entry, such as Doe2026Sample (default: the run folder's)",
    )
    group.add_argument(
        "--dataset",
        metavar="NAME",
        help="of the leaderboard, such as cifar10 (default: the run's data)",
    )
    for option in ("paper-title", "authors", "venue", "link"):
        group.add_argument(f"--{option}", metavar="TEXT", default="N/A")
    group.add_argument(
        "--additional-data",
        action=argparse.BooleanOptionalAction,
        help="were other images used than the training set? (default: yes for pretrained networks)",
    )
