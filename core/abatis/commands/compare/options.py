"""The options of ``defense compare``. Loads without torch."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from abatis.api.options import read_path
from abatis.commands.compare.methods import PLAIN, MethodRuns, plan_methods
from abatis.config.parser import Parser
from abatis.config.run_config import RunConfig
from abatis.errors import UsageError, did_you_mean

DESCRIPTION = """\
Compare methods or finished runs in one ranked table. Missing runs are trained.
All runs are evaluated in the same way."""
EPILOG = f"""\
With --methods, all options of defense-run are accepted, such as --backbone cnn
--epochs 2, and apply to every method. '{PLAIN}' is built-in adversarial training,
'a+b' combines two plugins. Each plugin has the options of its recommended
recipe for the data, or its defaults if there is none. Finished runs are not
trained again."""


@dataclass(frozen=True)
class Asked:
    """The options of compare, and either the methods to train or the folders of finished runs."""

    options: argparse.Namespace
    methods: tuple[MethodRuns, ...] = ()
    runs: tuple[Path, ...] = ()


def parse(words: Sequence[str], prog: str) -> Asked:
    """Parse ``RUN ...`` or ``--methods NAME ...``; raises UsageError where options conflict."""
    parser = _parser(prog)
    asked, others = parser.parse_known_args(list(words))
    _check_spelling(others, parser, trains=bool(asked.methods))
    if asked.methods:
        seeds = 1 if asked.seeds is None else asked.seeds
        if seeds < 1:
            raise UsageError(f"--seeds must be at least 1, not {seeds}")
        return Asked(
            asked, methods=tuple(plan_methods(asked.methods, seeds, others, asked.out, prog))
        )
    if not others:
        raise UsageError("nothing to compare", fix=f"{prog} RUN RUN, or {prog} --methods NAME NAME")
    if asked.seeds is not None:
        raise UsageError("--seeds needs --methods: finished runs have their own seeds")
    return Asked(asked, runs=tuple(map(read_path, others)))


def _parser(prog: str) -> Parser:
    """The parser of all options but those of defense-run."""
    usage = f"""{prog} RUN [RUN ...] [--OPTION VALUE ...]
       {prog} --methods NAME [NAME ...] [--OPTION VALUE ...]"""
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
        "--seeds",
        metavar="N",
        type=int,
        help="runs of each method, with seeds 0 to N-1 (default: 1)",
    )
    parser.add_argument(
        "--baseline",
        metavar="NAME",
        help=f"method the others are compared with (default: {PLAIN}, or else the first)",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=read_path,
        help="folder for runs and tables (default: comparisons/DATA)",
    )
    parser.add_argument(
        "--allow-fail",
        action="store_true",
        help="show runs with the verdict FAIL; they get no rank",
    )
    return parser


def _check_spelling(others: Sequence[str], parser: Parser, trains: bool) -> None:
    """Raise UsageError for an unknown option.

    One that may belong to defense-run is checked later, together with the options of all plugins.
    """
    own = [option for action in parser._actions for option in action.option_strings]
    core = ["--" + name.replace("_", "-") for name in RunConfig.model_fields] if trains else []
    for flag in (word.partition("=")[0] for word in others if word.startswith("-")):
        nearest = difflib.get_close_matches(flag, [*core, *own], n=1)
        if not trains or (nearest and nearest[0] not in core and "." not in flag):
            raise UsageError(
                f"unknown option {flag}: {did_you_mean(flag, own)}",
                fix=f"{parser.prog} --help lists all options; those of defense-run need --methods",
            )
