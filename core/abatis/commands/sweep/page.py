"""The results of a sweep: ``sweep.html``, and lines in the terminal."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from math import nan

from abatis.commands.sweep.advice import Adviser, describe_accuracies, describe_values
from abatis.commands.sweep.options import Asked, name_trial
from abatis.commands.sweep.study_file import StudyFile, Trial
from abatis.report.html import Block, Code, Figure, Items, Section, Table, page, percent
from abatis.report.svg import bars, lines
from abatis.system.files import explain_disk_errors, write_text

PAGE = "sweep.html"
HELD_OUT = (
    "All accuracies on this page are on held-out training images; the robust ones are under PGD "
    "with 10 steps. No trial was judged on the test set. The best of many trials looks better here "
    "than it is: the command below trains it again, and judges it on the test set once."
)


def write_results(
    study: StudyFile, adviser: Adviser, asked: Asked, tell: Callable[[str], None]
) -> None:
    """Write the page, and say what is best and how to repeat it."""
    best = adviser.find_best(study.trials)
    text = make_page(study, adviser, asked, best)
    with explain_disk_errors(study.folder):
        write_text(study.folder / PAGE, text)
    for number in best:
        trial = study.trials[number]
        what = "best" if len(best) == 1 else "front"
        tell(
            f"{what}: trial {number + 1}, held out {describe_accuracies(trial)}: "
            f"{describe_values(trial.values)}"
        )
    for command in write_commands(asked, best):
        tell(f"repeat and judge it: {command}")
    if not best:
        tell("no trial has ended well")
    tell(f"wrote {study.folder / PAGE}")


def write_commands(asked: Asked, best: Sequence[int]) -> list[str]:
    """The commands that train the best trial, or those of the front, again and judge them."""
    commands = []
    folder = re.sub(r"[^A-Za-z0-9_-]+", "-", asked.out.name)[:60].strip("-")  # as runs are named
    for number in best:
        which = "best" if len(best) == 1 else f"trial-{number + 1}"
        config = asked.out / name_trial(number) / "run.toml"
        words = ["defense-run", "--config", str(config), "--ladder", "standard"]
        words += ["--out", "runs", "--name", f"{folder or 'sweep'}-{which}"]
        commands.append(shlex.join(words))
    return commands


def make_page(study: StudyFile, adviser: Adviser, asked: Asked, best: Sequence[int]) -> str:
    """The whole page."""
    importance = adviser.measure_importance(study.trials)
    several = len(asked.objectives) > 1
    commands = "\n".join(write_commands(asked, best))
    sections = [
        Section("What is measured", [HELD_OUT, Items(_describe(study, asked))]),
        Section("Front" if several else "Course", _draw(study.trials, best, asked.objectives)),
        Section("Importance of options", _draw_importance(importance, asked)),
        Section(
            "Repeat the front" if several else "Repeat the best",
            [Code(commands)] if commands else [],
        ),
        Section("Trials", [_tabulate(study.trials, best, asked)]),
    ]
    return page(f"Sweep: {asked.out.name}", None, sections)


def _describe(study: StudyFile, asked: Asked) -> list[str]:
    states = [trial.state for trial in study.trials]
    counts = {state: states.count(state) for state in dict.fromkeys(states)}
    return [
        f"searched: {', '.join(space.text for space in asked.spaces)}",
        f"maximised: {' and '.join(asked.objectives)} accuracy, mean over "
        f"{asked.seeds} seed{'s' if asked.seeds > 1 else ''} of each trial",
        "trials: " + ", ".join(f"{count} {state}" for state, count in counts.items()),
    ]


def _draw(trials: Sequence[Trial], best: Sequence[int], objectives: Sequence[str]) -> list[Block]:
    """Robust against clean accuracy with the front, or the accuracy of each trial."""
    ended = [place for place, trial in enumerate(trials) if trial.state == "finished"]
    if not ended:
        return ["No trial has ended well."]

    def read(place: int, name: str) -> float:
        return float(getattr(trials[place], name))

    if len(objectives) > 1:
        where = {place: (100 * read(place, "clean"), read(place, "robust")) for place in ended}
        series = {"trials": _separate(where.values())}
        series["front"] = sorted(where[place] for place in best)
        labels = "held-out clean accuracy, %", "held-out robust accuracy"
        caption = "Every trial that ended, and the front: what no trial surpasses in both."
    else:
        name = objectives[0]
        where = {place: (place + 1.0, read(place, name)) for place in ended}
        tops = accumulate((accuracy for _, accuracy in where.values()), max)
        series = {"trials": _separate(where.values())}
        series["best so far"] = [(place + 1.0, top) for place, top in zip(ended, tops, strict=True)]
        labels = "trial", f"held-out {name} accuracy"
        caption = f"The {name} accuracy of every trial that ended, and the best so far."
    svg = lines(series, x_label=labels[0], y_label=labels[1], title=caption, percent=True)
    return [Figure(svg, caption)]


def _separate(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points with gaps between them, so that no line joins them."""
    return [one for point in points for one in (point, (nan, nan))]


def _draw_importance(importance: dict[str, float], asked: Asked) -> list[Block]:
    if not importance:
        return ["Too few trials, or a single option: nothing can be said."]
    svg = bars(
        list(importance),
        {"importance": list(importance.values())},
        x_label="share of the spread",
        title="importance of options",
    )
    text = (
        f"The share of each option in the spread of the {asked.objectives[0]} accuracy over the "
        "trials (fANOVA, as Optuna computes it). With few trials it is rough."
    )
    return [text, Figure(svg, "Importance of the options that were searched")]


def _tabulate(trials: Sequence[Trial], best: Sequence[int], asked: Asked) -> Table:
    names = [space.name for space in asked.spaces]
    rows = []
    for place, trial in enumerate(trials):
        state: str = trial.state
        if place in best:
            state = "best" if len(best) == 1 else "front"
        values = [_show(trial.values.get(name)) for name in names]
        numbers = [percent(trial.robust), percent(trial.clean)]
        rows.append([str(place + 1), state, *values, *numbers, trial.why or name_trial(place)])
    headings = ["trial", "state", *names, "robust", "clean", "folder"]
    return Table(headings, rows, numeric=frozenset(range(2, len(headings) - 1)))


def _show(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
