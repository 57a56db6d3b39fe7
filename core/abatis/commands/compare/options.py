"""The words of ``defense compare``. Loads without torch."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from abatis.commands.compare.methods import PLAIN, Method, asked_methods
from abatis.config.parser import Parser
from abatis.config.run_config import RunConfig
from abatis.errors import UsageError, did_you_mean

DESCRIPTION = "Train what is missing, judge all alike, and rank them in one table."
EPILOG = f"""With --methods, every other option of defense-run may follow and holds for all methods, such as
--backbone cnn --epochs 2. '{PLAIN}' is built-in adversarial training, 'a+b' combines plugins; each plugin has the
options of its recommended recipe for the data, else its defaults. Finished runs are not trained again."""


@dataclass(frozen=True)
class Asked:
    """The options of compare itself, and either the methods to train or the folders of finished runs."""

    options: argparse.Namespace
    methods: tuple[Method, ...] = ()
    runs: tuple[Path, ...] = ()


def parse(words: Sequence[str], prog: str) -> Asked:
    """Read ``RUN ...`` or ``--methods NAME ...``; raises UsageError where they do not go together."""
    parser = _parser(prog)
    asked, others = parser.parse_known_args(list(words))
    _check_spelling(others, parser, trains=bool(asked.methods))
    if asked.methods:
        seeds = 1 if asked.seeds is None else asked.seeds
        if seeds < 1:
            raise UsageError(f"--seeds {seeds}: there is nothing to train")
        return Asked(
            asked, methods=tuple(asked_methods(asked.methods, seeds, others, asked.out, prog))
        )
    if not others:
        raise UsageError("nothing to compare", fix=f"{prog} RUN RUN, or {prog} --methods NAME NAME")
    if asked.seeds is not None:
        raise UsageError("--seeds needs --methods: finished runs have their seeds")
    return Asked(asked, runs=tuple(map(Path, others)))


def _parser(prog: str) -> Parser:
    """For all words but RUN, and but the options of defense-run."""
    usage = f"{prog} RUN [RUN ...] [--OPTION VALUE ...]\n       {prog} --methods NAME [NAME ...] [--OPTION VALUE ...]"
    parser = Parser(
        prog=prog,
        usage=usage,
        description=DESCRIPTION,
        epilog=EPILOG,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--methods",
        metavar="NAME",
        nargs="+",
        default=[],
        help=f"methods to train: {PLAIN}, a plugin, or a+b",
    )
    parser.add_argument(
        "--seeds", metavar="N", type=int, help="runs a method, of seeds 0 to N-1 (default: 1)"
    )
    parser.add_argument(
        "--baseline",
        metavar="NAME",
        help=f"what the others are compared with (default: {PLAIN}, else the first)",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        help="where runs and tables go (default: comparisons/DATA)",
    )
    parser.add_argument(
        "--allow-fail",
        action="store_true",
        help="show runs whose verdict is FAIL; they get no rank",
    )
    return parser


def _check_spelling(others: Sequence[str], parser: Parser, trains: bool) -> None:
    """Raise UsageError for an unknown option, unless it may be one of defense-run: those are looked at with all plugins."""
    own = [option for action in parser._actions for option in action.option_strings]
    core = ["--" + name.replace("_", "-") for name in RunConfig.model_fields] if trains else []
    for flag in (word.partition("=")[0] for word in others if word.startswith("-")):
        nearest = difflib.get_close_matches(flag, [*core, *own], n=1)
        if not trains or (nearest and nearest[0] not in core and "." not in flag):
            raise UsageError(
                f"unknown option {flag}: {did_you_mean(flag, own)}",
                fix=f"{parser.prog} --help lists all options; those of defense-run need --methods",
            )
