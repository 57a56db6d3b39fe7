"""The options of ``defense compare``. Loads without torch."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from abatis.api.options import read_path
from abatis.commands.compare.methods import PLAIN, MethodRuns, plan_methods
from abatis.commands.eval.options import add_judging_options
from abatis.config.parser import Parser
from abatis.config.run_config import RunConfig
from abatis.errors import UsageError, did_you_mean

DESCRIPTION = """\
Compare methods, finished runs or any networks in one ranked table. Missing runs
are trained, and networks without an evaluation are judged, all in the same way."""
EPILOG = f"""\
A MODEL is what defense eval takes, or the folder of one of its evaluations;
NETWORK=WEIGHTS names a network and its weights file, such as
models.py:net=mine.pth. What is not said about the evaluation is taken from the
first folder that has one.

With --methods, all options of defense-run are accepted, such as --backbone cnn
--epochs 2, and apply to every method. '{PLAIN}' is built-in adversarial training,
'a+b' combines two plugins. Each plugin has the options of its recommended
recipe for the data, or its defaults if there is none. Finished runs are not
trained again."""


@dataclass(frozen=True)
class Asked:
    """The options of compare, and either the methods to train or the networks to compare."""

    options: argparse.Namespace
    methods: tuple[MethodRuns, ...] = ()
    models: tuple[str, ...] = ()


def parse(words: Sequence[str], prog: str) -> Asked:
    """Parse ``MODEL ...`` or ``--methods NAME ...``; raises UsageError where options conflict."""
    trains = any(word.partition("=")[0] == "--methods" for word in words)
    parser = make_parser(prog, trains)
    if not trains:
        asked, models = parser.parse_known_args(list(words))
        _refuse_unknown(models, parser)
        if not models:
            raise UsageError(
                "nothing to compare", fix=f"{prog} MODEL MODEL, or {prog} --methods NAME NAME"
            )
        if asked.seeds is not None:
            raise UsageError("--seeds needs --methods: finished runs have their own seeds")
        if asked.ladder == "clean":
            raise UsageError(
                "--ladder clean measures no robustness, by which networks are ranked",
                fix="choose another ladder, or use defense eval",
            )
        return Asked(asked, models=tuple(models))
    asked, others = parser.parse_known_args(list(words))
    _check_spelling(others, parser)
    seeds = 1 if asked.seeds is None else asked.seeds
    if seeds < 1:
        raise UsageError(f"--seeds must be at least 1, not {seeds}")
    return Asked(asked, methods=tuple(plan_methods(asked.methods, seeds, others, asked.out, prog)))


def make_parser(prog: str, trains: bool = False) -> Parser:
    """The parser of compare's own options, and without methods of those of an evaluation."""
    usage = f"""{prog} MODEL [MODEL ...] [--OPTION VALUE ...]
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
    if trains:
        _add_jobs(parser)
        return parser
    parser.add_argument(
        "--transfer",
        action="store_true",
        help="also show the adversarial images of each network to each of the others",
    )
    add_judging_options(parser.add_argument_group("how networks are judged"))
    return parser


def _refuse_unknown(others: Sequence[str], parser: Parser) -> None:
    """Raise UsageError for an option that is not one of compare's own."""
    own = [option for action in parser._actions for option in action.option_strings]
    for flag in (word.partition("=")[0] for word in others if word.startswith("-")):
        raise UsageError(
            f"unknown option {flag}: {did_you_mean(flag, own)}",
            fix=f"{parser.prog} --help lists all options; those of defense-run need --methods",
        )


def _check_spelling(others: Sequence[str], parser: Parser) -> None:
    """Raise UsageError for an option that looks like one of compare's own.

    One that may belong to defense-run is checked later, together with the options of all plugins.
    """
    own = [option for action in parser._actions for option in action.option_strings]
    core = ["--" + name.replace("_", "-") for name in RunConfig.model_fields]
    for flag in (word.partition("=")[0] for word in others if word.startswith("-")):
        nearest = difflib.get_close_matches(flag, [*core, *own], n=1)
        if nearest and nearest[0] not in core and "." not in flag:
            raise UsageError(
                f"unknown option {flag}: {did_you_mean(flag, own)}",
                fix=f"{parser.prog} --help lists all options; those of defense-run need --methods",
            )


def _add_jobs(parser: Parser) -> None:
    parser.add_argument(
        "--jobs",
        metavar="FILE",
        type=read_path,
        help="write one command a line for defense jobs or a cluster, instead of training",
    )
