"""The options of ``defense sweep``. Loads without torch."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from abatis.api.options import read_path
from abatis.commands.compare.methods import choose_out
from abatis.commands.sweep.space import FORMS, Space, Value, parse_spaces, write_words
from abatis.config.command_line import parse_run
from abatis.config.option_sets import MEASURES, RESULTLESS
from abatis.config.parser import Parser, read_count
from abatis.config.run_config import RunConfig
from abatis.errors import UsageError

DESCRIPTION = """\
Search options with Optuna. Each trial is a training, judged on held-out images;
no trial sees the test set. The same command goes on after a stop or a kill."""
EPILOG = f"""\
All options of defense-run are accepted and apply to every trial. A space is
{FORMS}.
It needs the extra: pip install 'abatis[sweep]'."""
OBJECTIVES = ("robust", "clean")


@dataclass(frozen=True)
class Asked:
    """A sweep.

    Args:
        spaces: what is searched.
        trials: how many values of it are tried.
        seeds: trainings of each trial.
        objectives: what is maximised, on held-out images; two have a front.
        prune: end a trial early that is worse than the median of the others at its epoch?
        out: the folder of the study and of the runs.
        jobs: the file to write the commands of all trials to, instead of training.
        words: the options of ``defense-run``, for all trials.
        prog: the command.
    """

    spaces: tuple[Space, ...]
    trials: int
    seeds: int
    objectives: tuple[str, ...]
    prune: bool
    out: Path
    jobs: Path | None
    words: tuple[str, ...]
    prog: str

    def configure(self, values: dict[str, Value], number: int, seed: int) -> RunConfig:
        """The run of a trial: some values, its number from 0, and its seed, counted from 0."""
        words = [*self.words, *write_words(values), "--resume", "--ladder", "none"]
        config = parse_run([*words, "--out", str(self.out)], self.prog)
        update = {"name": name_trial(number, seed), "seed": config.seed + seed}
        return config.model_copy(update=update)


def name_trial(number: int, seed: int = 0) -> str:
    """The folder of a trial: trials count from 1 there, as in all that is printed.

    Args:
        number: of the trial, from 0.
        seed: of its run, from 0.
    """
    return f"trial-{number + 1:04d}-s{seed}"


def parse(words: Sequence[str], prog: str) -> Asked:
    """Parse the words, and check both ends of every space; raises UsageError."""
    own, others = make_parser(prog).parse_known_args(list(words))
    spaces = parse_spaces(own.space)
    config = _check_fixed(others, spaces, own.jobs is not None, prog)
    objectives = tuple(own.objective.split(","))
    if not set(objectives) <= set(OBJECTIVES) or len(set(objectives)) != len(objectives):
        raise UsageError(
            f"--objective {own.objective}: unknown", fix="robust, clean or robust,clean"
        )
    out = own.out or Path("sweeps") / choose_out(config.data).name
    asked = Asked(
        spaces,
        own.trials,
        own.seeds,
        objectives,
        own.prune and len(objectives) == 1,
        out,
        own.jobs,
        tuple(others),
        prog,
    )
    for space in spaces:
        for value in space.extremes:
            asked.configure({space.name: value}, 0, 0)
    return asked


def _check_fixed(
    others: Sequence[str], spaces: Sequence[Space], jobs: bool, prog: str
) -> RunConfig:
    """Check the options that all trials share, and that no other option is needed."""
    flags = {word.partition("=")[0].replace("_", "-") for word in others}
    for space in spaces:
        _check_searchable(space)
        if f"--{space.name}" in flags:
            raise UsageError(f"--{space.name} is searched, and given", fix="leave one of them out")
    first = write_words({space.name: space.extremes[0] for space in spaces})
    config = parse_run([*others, *first], prog)
    for name, why in (
        ("ladder", "no trial is judged on the test set"),
        ("name", "sweep names the runs itself"),
    ):
        if name in config.model_fields_set and getattr(config, name) != "none":
            raise UsageError(f"--{name} has no effect in a sweep: {why}", fix=f"leave out --{name}")
    if config.nproc > 1 and not jobs:
        raise UsageError(
            "--nproc is not supported in a sweep on this machine",
            fix="add --jobs FILE and run its commands with defense jobs, or leave out --nproc",
        )
    if config.validation == 0:
        raise UsageError(
            "--validation 0 holds no images out, by which trials are compared",
            fix="leave it out",
        )
    return config


def _check_searchable(space: Space) -> None:
    """Refuse options that change how trials are judged, or nothing that is judged."""
    name = space.name.replace("-", "_")
    if {name, name.partition(".")[0]} & MEASURES:
        raise UsageError(
            f"--space {space.text}: trials with another {space.name} would be judged on other "
            "held-out images or by another attack, and could not be compared",
            fix="give it once for all trials"
            + ("; --seeds N trains each with N seeds" if name == "seed" else ""),
        )
    if name in RESULTLESS:
        raise UsageError(
            f"--space {space.text}: --{space.name} changes nothing about the trained network",
            fix="search another option",
        )


def make_parser(prog: str) -> Parser:
    """The parser of all options but those of defense-run."""
    parser = Parser(
        prog=prog,
        usage=f"{prog} --space NAME=KIND:VALUES [--space ...] [--OPTION VALUE ...]",
        description=DESCRIPTION,
        epilog=EPILOG,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--space",
        action="append",
        default=[],
        metavar="SPACE",
        help="an option and its values, such as optim.lr=log:0.01:0.3; repeat it for several",
    )
    parser.add_argument(
        "--trials", type=read_count, default=30, metavar="N", help="values to try (default: 30)"
    )
    parser.add_argument(
        "--seeds",
        type=read_count,
        default=1,
        metavar="N",
        help="trainings of each trial, whose mean counts (default: 1)",
    )
    parser.add_argument(
        "--objective",
        default="robust",
        metavar="WHAT",
        help="what is maximised on held-out images: robust, clean, or robust,clean for the front"
        " of both (default: robust)",
    )
    parser.add_argument(
        "--no-prune",
        dest="prune",
        action="store_false",
        help="train every trial to its end, also where the median of the others is better",
    )
    parser.add_argument(
        "--out",
        type=read_path,
        metavar="DIR",
        help="folder for study, runs and page (default: sweeps/DATA)",
    )
    parser.add_argument(
        "--jobs",
        type=read_path,
        metavar="FILE",
        help="write one command a line for defense jobs or a cluster, instead of training; the"
        " values are then drawn at random",
    )
    return parser
