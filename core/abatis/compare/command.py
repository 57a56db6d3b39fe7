"""``defense compare``: its command line. Nothing here imports torch until there is something to compare."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from abatis.compare.methods import PLAIN, asked_methods, default_out, plugins_of
from abatis.config import RunConfig
from abatis.errors import UsageError, did_you_mean
from abatis.parser import Parser

if TYPE_CHECKING:
    from rich.console import Console

    from abatis.compare.gather import Failed, Judged

DESCRIPTION = "Train what is missing, judge all alike, and rank them in one table."
EPILOG = f"""With --methods, every other option of defense-run may follow and holds for all methods, such as
--backbone cnn --epochs 2. '{PLAIN}' is built-in adversarial training, 'a+b' combines plugins; each plugin has the
options of its recommended recipe for the data, else its defaults. Finished runs are not trained again."""
FAILED_RUN, FAILED_VERDICT = 1, 6  # exit codes


def command(words: Sequence[str], prog: str) -> int:
    """``defense compare RUN ...`` and ``defense compare --methods NAME ...``; returns the exit code."""
    parser = _parser(prog)
    asked, others = parser.parse_known_args(list(words))
    _check_spelling(others, parser, trains=bool(asked.methods))
    if asked.methods:
        return _trained(asked, others, prog)
    if not others:
        raise UsageError("nothing to compare", fix=f"{prog} RUN RUN, or {prog} --methods NAME NAME")
    if asked.seeds is not None:
        raise UsageError("--seeds needs --methods: finished runs have their seeds")
    return _finished(asked, [Path(word) for word in others])


def _parser(prog: str) -> Parser:
    """For all words but RUN, and but the options of defense-run."""
    usage = f"{prog} RUN [RUN ...] [--OPTION VALUE ...]\n       {prog} --methods NAME [NAME ...] [--OPTION VALUE ...]"
    parser = Parser(prog=prog, usage=usage, description=DESCRIPTION, epilog=EPILOG, allow_abbrev=False,
                    formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--methods", metavar="NAME", nargs="+", default=[], help=f"methods to train: {PLAIN}, a plugin, or a+b")
    parser.add_argument("--seeds", metavar="N", type=int, help="runs a method, of seeds 0 to N-1 (default: 1)")
    parser.add_argument(
        "--baseline", metavar="NAME", help=f"what the others are compared with (default: {PLAIN}, else the first)"
    )
    parser.add_argument("--out", metavar="DIR", type=Path, help="where runs and tables go (default: comparisons/DATA)")
    parser.add_argument("--allow-fail", action="store_true", help="show runs whose verdict is FAIL; they get no rank")
    return parser


def _check_spelling(others: Sequence[str], parser: Parser, trains: bool) -> None:
    """Raise UsageError for an unknown option, unless it may be one of defense-run: those are looked at with all plugins."""
    own = [option for action in parser._actions for option in action.option_strings]
    core = ["--" + name.replace("_", "-") for name in RunConfig.model_fields] if trains else []
    for flag in (word.partition("=")[0] for word in others if word.startswith("-")):
        nearest = difflib.get_close_matches(flag, [*core, *own], n=1)
        if not trains or (nearest and nearest[0] not in core and "." not in flag):
            raise UsageError(f"unknown option {flag}: {did_you_mean(flag, own)}",
                             fix=f"{parser.prog} --help lists all options; those of defense-run need --methods")  # fmt: skip


def _trained(asked: argparse.Namespace, others: Sequence[str], prog: str) -> int:
    """``--methods``: train what is missing, then compare."""
    seeds = 1 if asked.seeds is None else asked.seeds
    if seeds < 1:
        raise UsageError(f"--seeds {seeds}: there is nothing to train")
    methods = asked_methods(asked.methods, seeds, others, asked.out, prog)
    order = [method.name for method in methods]
    baseline = _baseline(asked.baseline, order)
    from rich.console import Console

    from abatis.compare.gather import check_alike, train

    config = methods[0].configs[0]
    console = Console(quiet=config.quiet, highlight=False)
    runs, failed = train(methods, lambda text: console.print(text, markup=False, soft_wrap=not console.is_terminal))
    if config.dry_run:
        return FAILED_RUN if failed else 0
    if runs:
        check_alike(runs)
    told = [f"options of {method.name}: {method.sources}" for method in methods]
    compared = _reported(runs, failed, order, baseline, told, config.out, console)
    if failed:
        return FAILED_RUN
    masked = any(row["verdict"] == "FAIL" for row in compared["rows"])
    return FAILED_VERDICT if masked and not asked.allow_fail else 0


def _finished(asked: argparse.Namespace, folders: Sequence[Path]) -> int:
    """``RUN ...``: compare what is there."""
    from rich.console import Console

    from abatis.compare.gather import check_alike, read_runs, refuse_failed

    runs = read_runs(folders)
    check_alike(runs)
    if not asked.allow_fail:
        refuse_failed(runs)
    order = list(dict.fromkeys(run.method for run in runs))
    out = asked.out or default_out(str(runs[0].record.get("data", "data")))
    _reported(runs, [], order, _baseline(asked.baseline, order), [], out, Console(highlight=False))
    return 0


def _baseline(name: str | None, order: Sequence[str]) -> str:
    """The method the others are compared with; raises UsageError."""
    if name is None:
        return PLAIN if PLAIN in order else order[0]
    known = [name] if name in order else [method for method in order if plugins_of(method) == plugins_of(name)]
    if not known:
        raise UsageError(f"the baseline '{name}' is not compared: {did_you_mean(name, order)}")
    return known[0]


def _reported(runs: Sequence[Judged], failed: Sequence[Failed], order: Sequence[str], baseline: str, told: Sequence[str],
              out: Path, console: Console) -> dict[str, Any]:  # fmt: skip
    """Rank, show and write; returns what compare.json holds."""
    from abatis.compare.ranking import notes, ranked
    from abatis.compare.tables import show, write

    compared = ranked(runs, failed, order, baseline)
    compared["notes"] = [*notes(compared, runs, RunConfig.model_fields), *told]
    endings = ",".join(path.suffix[1:] for path in write(compared, out))
    show(compared, console)
    console.print(f"written: {out / 'compare'}.{{{endings}}}", markup=False, soft_wrap=not console.is_terminal)
    return compared
