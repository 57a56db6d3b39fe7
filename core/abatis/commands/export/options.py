"""The options of ``defense export``, and its table of formats. Loads without torch."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from abatis.api.options import read_path
from abatis.config.parser import Parser
from abatis.errors import UsageError, did_you_mean

FORMATS = {
    "safetensors": "abatis.commands.export.folder",
    "onnx": "abatis.commands.export.onnx",
    "torch-export": "abatis.commands.export.program",
    "torchscript": "abatis.commands.export.torchscript",
    "robustbench": "abatis.commands.export.robustbench",
    "hub": "abatis.commands.export.hub",
}
"""Each format, and the module that writes it, which is loaded only when it is used.

The module has a function ``export(asked, run)``. It takes the parsed options and the
:class:`~abatis.commands.export.finished_run.FinishedRun`, writes into ``asked.out``, and returns
the lines to print.
"""


def parse(words: Sequence[str], prog: str) -> argparse.Namespace:
    """The options; raises UsageError where they do not go together."""
    parser = Parser(
        prog=prog,
        description="Write a finished run in a format that other programs read.",
        allow_abbrev=False,
    )
    parser.add_argument("run", metavar="RUN", type=read_path, help="run folder")
    parser.add_argument("--to", metavar="FORMAT", required=True, help=", ".join(FORMATS))
    parser.add_argument(
        "--out", metavar="DIR", type=read_path, required=True, help="folder to write into"
    )
    parser.add_argument(
        "--allow-fail", action="store_true", help="export even if the masking verdict is FAIL"
    )
    parser.add_argument(
        "--repo", metavar="ORG/NAME", help="repository on the Hugging Face hub, for --to hub"
    )
    _add_leaderboard_options(parser)
    asked: argparse.Namespace = parser.parse_args(list(words))
    if asked.to not in FORMATS:
        raise UsageError(
            f"unknown format '{asked.to}': {did_you_mean(asked.to, FORMATS)}",
            fix=f"--to {' or '.join(FORMATS)}",
        )
    if (asked.to == "hub") != (asked.repo is not None):
        raise UsageError(
            "--to hub and --repo must be used together",
            fix="--to hub --repo ORG/NAME, or another format without --repo",
        )
    return asked


def _add_leaderboard_options(parser: Parser) -> None:
    """What only the authors know, for ``--to robustbench``."""
    group = parser.add_argument_group("leaderboard entry, for --to robustbench")
    group.add_argument(
        "--name",
        metavar="NAME",
        help="name of the entry, such as Doe2026Sample (default: the run folder's name)",
    )
    group.add_argument(
        "--dataset",
        metavar="NAME",
        help="data set of the leaderboard, such as cifar10 (default: the run's data)",
    )
    for option in ("paper-title", "authors", "venue", "link"):
        group.add_argument(f"--{option}", metavar="TEXT", default="N/A")
    group.add_argument(
        "--additional-data",
        action=argparse.BooleanOptionalAction,
        help="whether images beyond the training set were used "
        "(default: yes for pretrained networks and for --extra.file)",
    )
