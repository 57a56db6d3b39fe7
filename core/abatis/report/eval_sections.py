"""The sections of a report that show an evaluation: findings, attacks, curve, masking, margins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite, nan

from abatis.api.threat import parse_ratio
from abatis.report.html import (
    Badge,
    Block,
    Cell,
    Figure,
    Folded,
    Items,
    NameAndDetail,
    Table,
    percent,
)
from abatis.report.json_part import Part
from abatis.report.svg import bars, histogram, lines
from abatis.report.words import format_number

QUANTILES = ("0.05", "0.25", "0.5", "0.75", "0.95")
MOST_CLASSES = 20  # in one plot
PLOTTED = 4.5  # times eps: accuracies at larger radii are given in words


def format_interval(part: Part, form: Callable[[float], str], missing: str = "-") -> str:
    """A list of two ends as ``LOW to HIGH``."""
    ends = part.numbers()
    return f"{form(ends[0])} to {form(ends[1])}" if len(ends) == 2 else missing


def show_findings(findings: Part) -> list[Block]:
    """The findings, as a list."""
    if findings.value is None:
        return []
    return [Items([str(text) for text in findings.parts()] or ["no findings"])]


def show_attacks(record: Part) -> list[Block]:
    """One row per attack: its settings, the accuracy under it, and how many images it broke."""
    n, clean = record["n"].number, _count_correct(record, "clean")

    def row(name: str, facts: Part, correct: float | None, attacked: float | None) -> list[str]:
        loss = facts["attacks"] if facts["loss"].value is None else facts["loss"]
        queries = facts["queries"]
        steps = str(facts["steps"]) if queries.value is None else f"{queries} queries"
        share = percent(correct / n) if correct is not None and n else "-"
        broken = facts["broken"].number
        if broken is None and attacked is not None and correct is not None:
            broken = attacked - correct
        known = broken is not None and broken >= 0 and attacked is not None
        counted = f"{broken:g} of {attacked:g}" if known else "-"
        return [name, str(loss), steps, str(facts["restarts"]), share, counted]

    rows = [row("none (clean images)", Part(), clean, n)]
    for name, facts in record["attacks"].items():
        attacked = facts["attacked"].number
        correct = _count_correct(record, name)
        rows.append(row(name, facts, correct, clean if attacked is None else attacked))
    if len(rows) == 1:
        return []
    rows.append(row("all attacks and diagnostics", Part(), _count_correct(record, "robust"), clean))
    headings = ("attack", "loss", "steps", "restarts", "accuracy", "broken")
    caption = (
        "Accuracy: share of all test images that are still classified correctly. Broken: images "
        "that the attack fooled, out of those it was run on. Each attack of AutoAttack runs only "
        "on the images that the attacks before it did not break."
    )
    return [Table(headings, rows, caption, frozenset({2, 3, 4, 5}))]


def _count_correct(record: Part, name: str) -> float | None:
    """The number of images that are classified correctly under an attack."""
    counted, verdicts = record["counts"][name].number, record["per_point"][name].value
    return float(verdicts.count(1)) if counted is None and isinstance(verdicts, list) else counted


def show_curve(curve: Part, threat: str) -> list[Block]:
    """A plot of the accuracy by the radius of the attack."""
    norm, _, radius = threat.partition(":")
    try:
        eps = parse_ratio(radius)
    except ValueError:
        eps = nan
    pairs = zip(curve["eps"].numbers(), curve["accuracy"].numbers(), strict=False)
    points = [point for point in pairs if isfinite(sum(point))]
    if not points:
        return []
    near = [point for point in points if not point[0] > PLOTTED * eps]
    plot = lines(
        {"PGD-20 on two losses": near},
        x_label=f"{norm} radius (pixels in [0, 1])",
        y_label="accuracy",
        title="Accuracy by radius",
        percent=True,
        mark=(eps, f"eps {radius}"),
    )
    images = f" {curve['points']}" if curve["points"].value is not None else ""
    caption = (
        f"For each radius,{images} test images are attacked with PGD-20 on the cross-entropy "
        "and on the margin loss."
    )
    far = [f"{percent(share)} at {at:.3g}" for at, share in points if at > PLOTTED * eps]
    if far:
        caption += f" Beyond the plot: {', '.join(far)}."
    return [Figure(plot, caption)]


def show_masking(masking: Part, alarmed: bool) -> list[Block]:
    """The table of the masking diagnostics, folded unless one of them warned or failed."""
    tests = masking["tests"].parts()
    if not tests:
        return []
    kinds = [str(test["status"]) for test in tests]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    headings = (
        "test",
        "status",
        "what it found",
        "value",
        "count",
        "95 % interval",
        "warns at",
        "fails at",
    )
    caption = f"On {masking['points']} test images; the intervals of the counts are Wilson's."
    rows = [_make_masking_row(test) for test in tests]
    table = Table(headings, rows, caption, frozenset({3, 4, 5}))
    proof = (
        "Passing these tests is no proof: an attack made for this defense may break images that "
        "withstood every attack here."
    )
    return [proof, Folded(f"{len(kinds)} tests: {counts}", [table], open=alarmed)]


def _make_masking_row(test: Part) -> Sequence[Cell]:
    key, status, name, says, warn, fail = (
        str(test[part]) for part in ("id", "status", "name", "says", "warn", "fail")
    )
    value, count, of = (test[part].number for part in ("value", "count", "of"))
    share = count / of if count is not None and of else None
    # the thresholds tell the unit
    is_share = "%" in warn + fail or (value and value == share)
    return (
        key,
        Badge(status),
        NameAndDetail(name, says),
        percent(value) if is_share else format_number(value),
        "-" if share is None else f"{count:g} of {of:g}",
        format_interval(test["interval"], percent),
        warn,
        fail,
    )


def show_margins(margins: Part) -> list[Block]:
    """Mean, minimum and quantiles of each margin, and the distribution of one of them."""
    rows = []
    for name, facts in margins["measures"].items():
        quantiles = [facts["quantiles"][at] for at in QUANTILES]
        values = [part.number for part in (facts["mean"], facts["min"], *quantiles)]
        rows.append([name.replace("_", " "), str(facts["unit"]), *map(format_number, values)])
    if not rows:
        return []
    shares = (f"{100 * float(at):g} %" for at in QUANTILES)
    caption = (
        f"Mean, minimum and quantiles over {margins['points']} test images; "
        "a margin is positive where the image is classified correctly."
    )
    table = Table(
        ("margin", "unit", "mean", "minimum", *shares), rows, caption, frozenset(range(2, 9))
    )
    return [table, _explain_input_margin(margins), *_plot_margins(margins["histogram"])]


def _explain_input_margin(margins: Part) -> str:
    ratios = ", ".join(
        f"{norm} {format_number(margins[f'rho_adv_{norm}'].number)}" for norm in ("L2", "Linf")
    )
    text = (
        "The input margin is the norm of DeepFool's perturbation. "
        f"Mean ratio to the norm of the image (rho_adv): {ratios}."
    )
    five = margins["deepfool5_L2"]
    if five.items():
        text += (
            f" Mean L2 norm of 5 DeepFool steps over {five['points']} test images, misclassified"
            f" ones included: {format_number(five['mean'].number)}."
        )
    missing = [
        f"{name.replace('_', ' ')} {count}"
        for name, count in margins["unreached"].items()
        if count.number
    ]
    return f"{text} Images without a finite margin: {', '.join(missing)}." if missing else text


def _plot_margins(bins: Part) -> list[Block]:
    if not bins.items():
        return []
    name = f"{bins['measure']} margin"
    plot = histogram(
        bins["edges"].numbers(),
        {kind: bins[kind].numbers() for kind in ("clean", "adversarial")},
        x_label=name,
        y_label="images",
        title=f"Distribution of the {name}",
        mark=(0.0, "boundary"),
    )
    return [Figure(plot, "Images left of the boundary are misclassified.")]


def show_classes(table: Part, given: Part) -> list[Block]:
    """A plot of clean and robust accuracy by class."""
    numbers = (table[key].numbers() for key in ("n", "clean", "robust"))
    names = [str(name) for name in given.parts()]
    count = len(table["n"].parts())
    if len(names) != count:
        names = [str(number) for number in range(count)]
    rows = [
        (name, clean / n, robust / n)
        for name, n, clean, robust in zip(names, *numbers, strict=False)
        if n > 0
    ]
    if not rows:
        return []
    caption = "Accuracy of each class on clean images, and robust accuracy against every attack."
    if len(rows) > MOST_CLASSES:
        caption += (
            f" Shown: the {MOST_CLASSES} of {len(rows)} classes with the lowest robust accuracy; "
            "eval.json has all."
        )
        rows = sorted(rows, key=lambda row: row[2])[:MOST_CLASSES]
    labels, clean, robust = zip(*rows, strict=True)
    plot = bars(
        labels,
        {"clean": clean, "robust": robust},
        x_label="accuracy",
        title="Accuracy by class",
        percent=True,
    )
    return [Figure(plot, caption)]
