"""report.html of a run folder or an evaluation folder, from the records that lie in it.

Nothing is taken for granted about a record: what an old or unfinished one lacks is left out or said to be not measured.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from math import isfinite, nan
from pathlib import Path

from abatis.api.threat import ratio
from abatis.config.toml import read_toml
from abatis.errors import DataError
from abatis.report import html
from abatis.report.html import Block, Part, Section, interval, percent, plain
from abatis.report.svg import Point, bars, histogram, lines
from abatis.system.files import disk, write_text

MEASURED = {
    "robust_acc": "robust accuracy",
    "autoattack_acc": "AutoAttack accuracy",
    "autoattack_fast_acc": "AutoAttack accuracy, Square in bf16",
    "margin_pgd20_acc": "margin PGD-20 accuracy",
    "pgd20_acc": "PGD-20 accuracy",
    "clean_acc": "clean accuracy",
}
TRAINED = {
    "val_clean_acc": "held-out clean",
    "val_robust_acc": "held-out robust",
    "train_clean_acc": "training clean",
    "train_robust_acc": "training robust",
}
FACTS = {
    "model": "model",
    "backbone": "backbone",
    "data": "data",
    "note": "note on the data",
    "n": "test images",
    "threat": "threat",
    "ladder": "ladder of attacks",
    "seed": "seed",
    "epochs": "epochs asked for",
    "selected_at_epoch": "weights of epoch",
    "selected_on": "selected on",
    "test_set_evaluations": "looks at the test set",
    "weights": "weights file",
    "weights_sha256": "sha256 of the weights",
    "device": "device",
    "threads": "threads",
    "platform": "platform",
    "python": "Python",
    "libraries": "libraries",
    "providers": "plugins",
    "resumed": "resumed",
}
NO_TERM = ("epoch", "step", "lr", "seconds", "peak_memory_mb")
QUANTILES = ("0.05", "0.25", "0.5", "0.75", "0.95")
MOST_CLASSES = 20  # that one plot can show
GRID = 4.5  # times eps: accuracies at larger radii are told in words
SHORT = 240  # letters of a command that is shown


def write_report(folder: Path) -> Path:
    """Write ``folder/report.html``; raises DataError where no record can be read, UsageError where nothing can be written."""
    record, plan, environment = (
        Part.read(folder / f"{name}.json") for name in ("eval", "plan", "environment")
    )
    options = Part(read_toml(folder / "run.toml") if (folder / "run.toml").exists() else None)
    if not record.items() and not options.items():
        raise DataError(
            f"nothing to report on in {folder}",
            fix="name a folder that holds an eval.json or a run.toml",
        )
    told = [
        (key, part) for source in (options, environment, record) for key, part in source.items()
    ]
    facts = {key: part for key, part in told if key in FACTS and part.value not in (None, "", [])}
    rows = [(shown, str(facts[key])) for key, shown in FACTS.items() if key in facts]
    sections = [
        Section("Findings", _findings(record["findings"])),
        Section("Attacks", _attacks(record)),
        Section("Accuracy over the radius", _curve(record["curve"], str(facts.get("threat", "")))),
        Section(
            "Masking diagnostics", _masking(record["masking"], record["verdict"].value != "PASS")
        ),
        Section("Margins", _margins(record["margins"])),
        Section("Classes", _classes(record["per_class"], record["class_names"])),
        Section(
            "Training",
            _training(
                Part.read_lines(folder / "metrics.jsonl"), record["selected_at_epoch"].number
            ),
        ),
        Section("Plan", _plan(plan)),
        Section(
            "Data, weights and versions", [html.Table(("fact", "value"), rows)] if rows else []
        ),
        Section(
            "To repeat it",
            _repeat(
                record["command"] if record["command"].value else environment["command"], options
            ),
        ),
    ]
    missing = [part.title.lower() for part in sections[:6] if not part.blocks]
    sections.insert(6, Section("Not measured", [f"{', '.join(missing)}."] if missing else []))
    text = html.page(folder.resolve().name, _lead(record, facts), sections)
    with disk(folder):
        write_text(
            folder / "report.html", text.encode(errors="replace").decode()
        )  # a record may hold half a character
    return folder / "report.html"


def _lead(record: Part, facts: Mapping[str, Part]) -> html.Lead:
    key = next((key for key in MEASURED if record[key].number is not None), "robust_acc")
    right, n = record["counts"]["robust"], record["n"]
    told = [f"95 % interval (Wilson): {interval(record['interval'][key], percent, 'not measured')}"]
    if n.number is not None:
        told.append(
            f"{right} of {n} test images withstood every attack"
            if right.number is not None
            else f"{n} test images"
        )
    if key != "robust_acc":
        told.append("the share that withstands every attack together: not measured")
    told.append("; ".join(f"{name} {facts[name]}" for name in ("threat", "data") if name in facts))
    tests = [
        test
        for test in record["masking"]["tests"].parts()
        if test["status"].value in ("pass", "warn", "fail")
    ]
    spoke = [
        f"{test['id']} {test['name']} ({test['status']})"
        for test in tests
        if test["status"].value != "pass"
    ]
    says = (
        f"no sign of masking found by {len(tests)} tests"
        if tests
        else "no masking diagnostics in this record"
    )
    if spoke:
        says = f"{len(spoke)} of {len(tests)} tests spoke: {'; '.join(spoke)}"
    adaptive = record["adaptive_attack"]
    others = [
        other for other in reversed(MEASURED) if other != key and record[other].number is not None
    ]
    value = percent(record[key].number) if record[key].number is not None else "not measured"
    adapted = (
        "no adaptive attack supplied" if adaptive.value is None else f"adaptive attack: {adaptive}"
    )
    numbers = [(MEASURED[other], percent(record[other].number)) for other in others]
    return html.Lead(
        MEASURED[key],
        value,
        told,
        str(record["verdict"].value or "not measured"),
        [says, adapted],
        numbers,
    )


def _findings(findings: Part) -> list[Block]:
    texts = [str(text) for text in findings.parts()]
    return [] if findings.value is None else [html.Items(texts or ["no findings"])]


def _attacks(record: Part) -> list[Block]:
    n, clean = record["n"].number, _right(record, "clean")

    def row(name: str, facts: Part, right: float | None, attacked: float | None) -> list[str]:
        loss = facts["attacks"] if facts["loss"].value is None else facts["loss"]
        steps = (
            f"{facts['queries']} queries"
            if facts["queries"].value is not None
            else str(facts["steps"])
        )
        share = percent(right / n) if right is not None and n else "-"
        broken = (
            f"{attacked - right:g} of {attacked:g}"
            if attacked is not None and right is not None
            else "-"
        )
        return [name, str(loss), steps, str(facts["restarts"]), share, broken]

    rows = [row("none (clean images)", Part(), clean, n)]
    for name, facts in record["attacks"].items():
        attacked = facts["attacked"].number
        rows.append(row(name, facts, _right(record, name), clean if attacked is None else attacked))
    if len(rows) == 1:
        return []
    rows.append(row("all, with the diagnostics", Part(), _right(record, "robust"), clean))
    caption = (
        "Accuracy: the share of all test images still classified right. Broken: of the images that the attack was run on, "
        "those it fooled; an attack of AutoAttack sees only what the ones before it left standing."
    )
    return [
        html.Table(
            ("attack", "loss", "steps", "restarts", "accuracy", "broken"),
            rows,
            caption,
            frozenset({2, 3, 4, 5}),
        )
    ]


def _right(record: Part, name: str) -> float | None:
    """Points that are classified right after an attack."""
    counted, verdicts = record["counts"][name].number, record["per_point"][name].value
    return float(verdicts.count(1)) if counted is None and isinstance(verdicts, list) else counted


def _curve(curve: Part, threat: str) -> list[Block]:
    norm, _, radius = threat.partition(":")
    try:
        eps = ratio(radius)
    except ValueError:
        eps = nan
    points = [
        point
        for point in zip(curve["eps"].numbers(), curve["accuracy"].numbers(), strict=False)
        if isfinite(sum(point))
    ]
    if not points:
        return []
    far = ", ".join(f"{percent(share)} at {at:.3g}" for at, share in points if at > GRID * eps)
    near = {"PGD-20 on two losses": [point for point in points if not point[0] > GRID * eps]}
    plot = lines(
        near,
        x_label=f"{norm} radius (pixels in [0, 1])",
        y_label="accuracy",
        title="Accuracy over the radius",
        percent=True,
        mark=(eps, f"eps {radius}"),
    )
    images = f", on {curve['points']} test images" if curve["points"].value is not None else ""
    caption = f"Each radius is attacked anew by PGD-20 on cross-entropy and on the margin{images}."
    return [html.Figure(plot, f"{caption} At huge radii: {far}." if far else caption)]


def _masking(masking: Part, spoke: bool) -> list[Block]:
    rows: list[Sequence[html.Cell]] = []
    for test in masking["tests"].parts():
        key, status, name, says, warn, fail = (
            str(test[part]) for part in ("id", "status", "name", "says", "warn", "fail")
        )
        value, count, of = (test[part].number for part in ("value", "count", "of"))
        share = count / of if count is not None and of else None
        shown = (percent if "%" in warn + fail or (value and value == share) else plain)(
            value
        )  # the thresholds tell the unit
        counted, around = (
            "-" if share is None else f"{count:g} of {of:g}",
            interval(test["interval"], percent),
        )
        rows.append(
            (key, html.Badge(status), html.Told(name, says), shown, counted, around, warn, fail)
        )
    if not rows:
        return []
    kinds = [str(test["status"]) for test in masking["tests"].parts()]
    summary = f"{len(kinds)} tests: {', '.join(f'{kinds.count(kind)} {kind}' for kind in dict.fromkeys(kinds))}"
    headings = (
        "test",
        "status",
        "what it saw",
        "value",
        "count",
        "95 % interval",
        "warns at",
        "fails at",
    )
    caption = f"On {masking['points']} test images, with Wilson intervals of the counts."
    table = html.Table(headings, rows, caption, frozenset({3, 4, 5}))
    proof = "Passing is no proof: an attack made for this very defence may break what every attack here left standing."
    return [proof, html.Folded(summary, [table], open=spoke)]


def _margins(margins: Part) -> list[Block]:
    rows = [
        [name.replace("_", " "), str(facts["unit"])]
        + [
            plain(value.number)
            for value in (
                facts["mean"],
                facts["min"],
                *(facts["quantiles"][at] for at in QUANTILES),
            )
        ]
        for name, facts in margins["measures"].items()
    ]
    if not rows:
        return []
    headings = ("margin", "unit", "mean", "least", *(f"{100 * float(at):g} %" for at in QUANTILES))
    caption = (
        f"Of {margins['points']} test images, with quantiles; positive where classified right."
    )
    ratios = ", ".join(
        f"{norm} {plain(margins[f'rho_adv_{norm}'].number)}" for norm in ("L2", "Linf")
    )
    rho = f"The input margin is the length of DeepFool's perturbation; over that of the image, on average (rho_adv), {ratios}."
    lost = ", ".join(
        f"{name.replace('_', ' ')} {count}"
        for name, count in margins["unreached"].items()
        if count.number
    )
    rho += f" Images without a finite margin: {lost}." if lost else ""
    bins = margins["histogram"]
    counts = {name: bins[name].numbers() for name in ("clean", "adversarial")}
    name = f"{bins['measure']} margin"
    plot = histogram(
        bins["edges"].numbers(),
        counts,
        x_label=name,
        title=f"Distribution of the {name}",
        mark=(0.0, "boundary"),
    )
    figure = html.Figure(plot, "Left of the boundary an image is misclassified.")
    return [
        html.Table(headings, rows, caption, frozenset(range(2, 9))),
        rho,
        *([figure] if bins.items() else []),
    ]


def _classes(table: Part, given: Part) -> list[Block]:
    numbers = (table[key].numbers() for key in ("n", "clean", "robust"))
    count = len(table["n"].parts())
    names = (
        [str(name) for name in given.parts()]
        if len(given.parts()) == count
        else [str(number) for number in range(count)]
    )
    rows = [
        (name, clean / n, robust / n)
        for name, n, clean, robust in zip(names, *numbers, strict=False)
        if n > 0
    ]
    if not rows:
        return []
    caption = "Share of each class's test images that is classified right, and still right after every attack."
    if len(rows) > MOST_CLASSES:
        caption += f" Shown: the {MOST_CLASSES} of {len(rows)} classes of lowest robust accuracy; eval.json has all."
        rows = sorted(rows, key=lambda row: row[2])[:MOST_CLASSES]
    labels, clean, robust = zip(*rows, strict=True)
    plot = bars(
        labels,
        {"clean": clean, "robust": robust},
        x_label="accuracy",
        title="Accuracy by class",
        percent=True,
    )
    return [html.Figure(plot, caption)]


def _training(rows: Sequence[Part], chosen: float | None) -> list[Block]:
    names = dict.fromkeys(key for row in rows for key, _ in row.items())
    columns = {key: Part([row[key].value for row in rows]).numbers() for key in names}

    def curves(names: Mapping[str, str]) -> dict[str, list[Point]]:
        return {
            names[key]: list(zip(columns["epoch"], columns[key], strict=True))
            for key in names
            if key in columns
        }

    if not any(map(isfinite, columns.get("epoch", ()))):
        return []
    terms = {key: key for key in columns if key not in NO_TERM and not key.endswith("_acc")}
    mark = None if chosen is None else (chosen, "chosen")
    loss = lines(
        curves(terms),
        x_label="epoch",
        y_label="mean over the epoch",
        title="Loss and its terms",
        mark=mark,
    )
    shares = lines(
        curves(TRAINED),
        x_label="epoch",
        y_label="accuracy",
        title="Accuracy by epoch",
        percent=True,
        mark=mark,
    )
    how = "Training images are judged while the weights move, under the training's attack; held-out ones after the epoch."
    return [
        _gap(curves(TRAINED), chosen),
        html.Figure(loss, "The loss and its terms."),
        html.Figure(shares, how),
    ]


def _gap(curves: Mapping[str, Sequence[Point]], chosen: float | None) -> str:
    """Robust overfitting in words, from the curves by epoch."""
    training, held_out = (
        dict(curves.get(TRAINED[key], ())) for key in ("train_robust_acc", "val_robust_acc")
    )
    gaps = {epoch: training[epoch] - held_out.get(epoch, nan) for epoch in training}
    told = [epoch for epoch in gaps if isfinite(gaps[epoch])]
    said = [
        f"{100 * gaps[epoch]:+.1f} points in epoch {epoch:g}{', the chosen one' if epoch == chosen else ''} "
        f"({percent(training[epoch])} less {percent(held_out[epoch])})"
        for epoch in told
        if epoch in (max(told), chosen)
    ]
    return f"Robust overfitting (robust accuracy on training less held-out images): {'; '.join(said) or 'not measured'}."


def _plan(plan: Part) -> list[Block]:
    headings = ("role", "provider", "version", "options")
    rows = [[str(row[heading]) for heading in headings] for row in plan.parts()]
    return [html.Table(headings, rows)] if rows else []


def _repeat(command: Part, options: Part) -> list[Block]:
    """What was typed, the program without its folder; and for a run what does it again."""
    words = [str(word) for word in command.parts()]
    typed = shlex.join([Path(words[0]).name, *words[1:]]) if words else str(command.value or "")
    if not options.items():
        return [html.Code(typed)] if typed else []
    if "python:" in f"{options['backbone']}{options['data']}":
        return [
            "The network or the images were objects of a program: abatis.run(config, model=..., data=...) with run.toml."
        ]
    again: list[Block] = ["In this folder:", html.Code("defense-run --config run.toml")]
    return (
        [*again, "It was called as:", html.Code(typed)]
        if typed.startswith("defense-run") and len(typed) <= SHORT
        else again
    )
