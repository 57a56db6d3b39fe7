"""report.html of a run folder or an evaluation folder, made from the records in it.

Nothing is taken for granted about a record: what an old or unfinished one lacks is left out, or
shown as not measured.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from math import isfinite, nan
from pathlib import Path
from typing import Any

from abatis.api.batch import SHOWN
from abatis.config.toml import read_toml
from abatis.errors import DataError
from abatis.report.corruptions_table import HEADINGS as CORRUPTION_HEADINGS
from abatis.report.corruptions_table import (
    KEY,
    SUMMARY,
    compute_means,
    describe_corruptions,
    list_corruption_rows,
    list_summary,
)
from abatis.report.eval_record import (
    describe_check,
    read_pictures,
    read_record,
    split_threats,
)
from abatis.report.eval_sections import (
    format_interval,
    show_attacks,
    show_classes,
    show_curve,
    show_findings,
    show_margins,
    show_masking,
)
from abatis.report.html import Block, Code, Figure, Lead, Section, Table, page, percent
from abatis.report.json_part import Part
from abatis.report.numbers import ROBUST, UPPER, Number, format_share, list_measured
from abatis.report.pictures import show_gradients, show_pictures
from abatis.report.svg import Point, lines
from abatis.report.threats_table import (
    EXPLANATION,
    HEADINGS,
    describe_union,
    format_union,
    list_threat_rows,
)
from abatis.report.verdicts import format_verdict
from abatis.report.words import NO_BREAK_SPACE
from abatis.system.files import explain_disk_errors, write_text

REPORT = "report.html"
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
    "epochs": "epochs",
    "selected_at_epoch": "weights of epoch",
    "selected_on": "selected on",
    "test_set_evaluations": "evaluations on the test set",
    "weights": "weights file",
    "weights_sha256": "sha256 of the weights",
    "check": "check of the record",
    "device": "device",
    "threads": "threads",
    "platform": "platform",
    "python": "Python",
    "libraries": "libraries",
    "providers": "plugins",
    "resumed": "resumed",
}
NO_TERM = ("epoch", "step", "lr", "seconds", "peak_memory_mb")
LONGEST_COMMAND = 240  # characters of a command that is shown


def write_report(folder: Path) -> Path:
    """Write ``report.html`` into a folder.

    Returns:
        The path of the file.

    Raises:
        DataError: the folder has no record, or one that cannot be read.
        UsageError: the file cannot be written.
    """
    evaluation = read_record(folder)
    record = Part({**evaluation, "check": describe_check(evaluation)} if evaluation else None)
    plan, environment = (Part.read(folder / f"{name}.json") for name in ("plan", "environment"))
    metrics = Part.read_lines(folder / "metrics.jsonl")
    options = Part(read_toml(folder / "run.toml") if (folder / "run.toml").exists() else None)
    if not record.items() and not options.items():
        raise DataError(
            f"nothing to report on in {folder}",
            fix="name a folder that holds an eval.json or a run.toml",
        )
    facts = _collect_facts(options, environment, record)
    shown = _show_evaluation(record, facts)
    beside = [*_show_threats(evaluation), *_show_corruptions(evaluation)]
    named = _name_sections(shown, str(record["threat"])) if record["union"].items() else shown
    pictures = _show_pictures(read_pictures(folder, evaluation), record["class_names"])
    sections = [*beside, *named[:2], *pictures, *named[2:], *_show_further(evaluation)]
    missing = [section.title.lower() for section in shown if not section.blocks]
    command = record["command"] if record["command"].value else environment["command"]
    sections += [
        Section("Not measured", [f"{', '.join(missing)}."] if missing else []),
        Section("Training", _show_training(metrics, record["selected_at_epoch"].number)),
        Section("Plan", _show_plan(plan)),
        Section("Data, weights and versions", _show_facts(facts)),
        Section("How to repeat it", _show_command(command, options)),
    ]
    text = page(folder.resolve().name, _make_lead(record, facts), sections)
    with explain_disk_errors(folder):
        # a record may contain invalid Unicode
        write_text(folder / REPORT, text.encode(errors="replace").decode())
    return folder / REPORT


def _collect_facts(*sources: Part) -> dict[str, Part]:
    """What is known about the run, by the keys of :data:`FACTS`; later sources count more."""
    known = [(key, part) for source in sources for key, part in source.items()]
    return {key: part for key, part in known if key in FACTS and part.value not in (None, "", [])}


def _show_threats(record: Mapping[str, Any]) -> list[Section]:
    """The evaluations under several threats, side by side, and each further one for itself."""
    rows = list_threat_rows(record, NO_BREAK_SPACE)
    if not rows:
        return []
    caption = f"{describe_union(record)}. {EXPLANATION}"
    table = Table(HEADINGS, rows, caption, frozenset(range(1, len(HEADINGS) - 1)))
    return [Section("Threats", [table])]


def _show_pictures(pictures: Mapping[str, Any], classes: Part) -> list[Section]:
    """Some images under attack, and input gradients."""
    names = [str(name) for name in classes.parts()]
    return [
        Section("Pictures", show_pictures(pictures, names)),
        Section("Input gradients", show_gradients(pictures, names)),
    ]


def _show_corruptions(record: Mapping[str, Any]) -> list[Section]:
    """Clean, corrupted and attacked images side by side, and each corruption by severity."""
    if not record.get(KEY):
        return []
    rows = list_corruption_rows(record)
    means = compute_means(record)
    severities: list[Point] = [(number, share) for number, share in enumerate(means, 1)]
    plot = lines(
        {"mean over the corruptions": severities},
        x_label="severity",
        y_label="accuracy",
        title="Accuracy by severity",
        percent=True,
    )
    summary = Table(SUMMARY, list_summary(record, NO_BREAK_SPACE), "", frozenset({1}))
    table = Table(CORRUPTION_HEADINGS, rows, "Accuracy by severity.", frozenset(range(1, 7)))
    said = " ".join(describe_corruptions(record))
    figure = Figure(plot, "Mean accuracy over the corruptions at each severity.")
    return [Section("Corruptions", [summary, said, figure, table])]


def _show_further(record: Mapping[str, Any]) -> list[Section]:
    """What the report shows of the first threat, for each further one."""
    sections = []
    for one in split_threats(record)[1:]:
        shown = _show_evaluation(Part(one), {"threat": Part(one["threat"])})
        sections += _name_sections(shown, one["threat"])
    return sections


def _name_sections(sections: Sequence[Section], threat: str) -> list[Section]:
    """Sections with the threat in their titles."""
    return [Section(f"{section.title}, {threat}", section.blocks) for section in sections]


def _show_evaluation(record: Part, facts: Mapping[str, Part]) -> list[Section]:
    threat = str(facts.get("threat", ""))
    alarmed = record["verdict"].value not in ("PASS", "UNDECIDED")
    return [
        Section("Findings", show_findings(record["findings"])),
        Section("Attacks", show_attacks(record)),
        Section("Accuracy by radius", show_curve(record["curve"], threat)),
        Section("Masking diagnostics", show_masking(record["masking"], alarmed)),
        Section("Margins", show_margins(record["margins"])),
        Section("Classes", show_classes(record["per_class"], record["class_names"])),
    ]


def _make_lead(record: Part, facts: Mapping[str, Part]) -> Lead:
    """The strongest number that was measured, and the verdict of the masking diagnostics."""
    measured = list_measured({key: part.number for key, part in record.items()})
    first, verdict = measured[-1] if measured else ROBUST, record["verdict"].value
    ends = format_interval(record["interval"][first.key], percent, "not measured")
    below = [f"95 % confidence interval (Wilson): {ends}"]
    robust, n = record["counts"]["robust"], record["n"]
    if n.number is not None:
        withstood = f"{robust} of {n} test images withstood every attack"
        below.append(withstood if robust.number is not None else f"{n} test images")
    if first not in (ROBUST, UPPER):
        below.append("robust accuracy against all attacks together: not measured")
    keys = ("data",) if record["ladder"].value == "clean" else ("threat", "data")
    below.append("; ".join(f"{key} {facts[key]}" for key in keys if key in facts))
    if record["union"].items():
        return _make_union_lead(record)
    adaptive = record["adaptive_attack"]
    adapted = (
        "no adaptive attack supplied" if adaptive.value is None else f"adaptive attack: {adaptive}"
    )
    return Lead(
        first.label,
        _show_share(record, first) if measured else "not measured",
        below,
        format_verdict(str(verdict or "not measured"), record["ladder"].value),
        [_sum_up_masking(record["masking"]), adapted],
        [
            *((other.label, _show_share(record, other)) for other in measured[:-1]),
            *_name_corrupted(record),
        ],
    )


def _name_corrupted(record: Part) -> list[tuple[str, str]]:
    """The accuracy on corrupted images, where it was measured."""
    share = record[KEY]["corrupted_acc"].number
    return [] if share is None else [("corrupted accuracy", percent(share))]


def _make_union_lead(record: Part) -> Lead:
    """The share of points that withstood all threats, and the worst verdict."""
    whole: Mapping[str, Any] = record.value
    verdict = str(record["union"]["verdict"])
    rows = list_threat_rows(whole, NO_BREAK_SPACE)
    says = [f"{row[0]}: {row[-1]}" for row in rows[:-1]]
    clean = ("clean accuracy", percent(record["clean_acc"].number))
    return Lead(
        "robust accuracy under all threats",
        format_union(record["union"].value, NO_BREAK_SPACE),
        [f"{describe_union(whole)}", f"data {record['data']}"],
        format_verdict(verdict, record["ladder"].value),
        says,
        [
            clean,
            *((f"robust accuracy, {row[0]}", row[-2]) for row in rows[:-1]),
            *_name_corrupted(record),
        ],
    )


def _show_share(record: Part, number: Number) -> str:
    return format_share(record[number.key].number, record["verdict"].value, number, NO_BREAK_SPACE)


def _sum_up_masking(masking: Part) -> str:
    """What the masking diagnostics found, in a sentence."""
    if masking["shortage"].value:
        return str(masking["shortage"])
    tests = [
        test
        for test in masking["tests"].parts()
        if test["status"].value in ("pass", "warn", "fail")
    ]
    if not tests:
        return "no masking diagnostics in this record"
    alarms = [
        f"{test['id']} {test['name']} ({test['status']})"
        for test in tests
        if test["status"].value != "pass"
    ]
    if alarms:
        return f"{len(alarms)} of {len(tests)} tests warned or failed: {'; '.join(alarms)}"
    return f"{len(tests)} tests found no sign of masking"


def _show_training(rows: Sequence[Part], selected: float | None) -> list[Block]:
    """Curves of the losses and accuracies by epoch, and the robust overfitting in words."""
    names = dict.fromkeys(key for row in rows for key, _ in row.items())
    columns = {key: Part([row[key].value for row in rows]).numbers() for key in names}
    if not any(map(isfinite, columns.get("epoch", ()))):
        return []

    def curves(names: Mapping[str, str]) -> dict[str, list[Point]]:
        return {
            names[key]: list(zip(columns["epoch"], columns[key], strict=True))
            for key in names
            if key in columns
        }

    terms = {
        key: key
        for key in columns
        if key not in NO_TERM and not key.endswith("_acc") and not key.startswith(SHOWN)
    }
    mark = None if selected is None else (selected, "selected")
    losses = lines(
        curves(terms),
        x_label="epoch",
        y_label="mean over the epoch",
        title="Loss and its terms",
        mark=mark,
    )
    accuracies = lines(
        curves(TRAINED),
        x_label="epoch",
        y_label="accuracy",
        title="Accuracy by epoch",
        percent=True,
        mark=mark,
    )
    caption = (
        "Training accuracy is measured during the epoch, under the training attack; "
        "held-out accuracy at its end."
    )
    return [
        _describe_overfitting(curves(TRAINED), selected),
        Figure(losses, "The loss and its terms."),
        Figure(accuracies, caption),
    ]


def _describe_overfitting(curves: Mapping[str, Sequence[Point]], selected: float | None) -> str:
    """Robust overfitting in words, from the curves by epoch."""
    training, held_out = (
        dict(curves.get(TRAINED[key], ())) for key in ("train_robust_acc", "val_robust_acc")
    )
    gaps = {epoch: training[epoch] - held_out.get(epoch, nan) for epoch in training}
    known = [epoch for epoch in gaps if isfinite(gaps[epoch])]
    texts = [
        f"{100 * gaps[epoch]:+.1f} points in epoch {epoch:g}"
        f"{', the selected one' if epoch == selected else ''} "
        f"({percent(training[epoch])} minus {percent(held_out[epoch])})"
        for epoch in known
        if epoch in (max(known), selected)
    ]
    return (
        "Robust overfitting (robust accuracy on training images minus that on held-out images): "
        f"{'; '.join(texts) or 'not measured'}."
    )


def _show_plan(plan: Part) -> list[Block]:
    headings = ("role", "provider", "version", "options")
    rows = [[str(row[heading]) for heading in headings] for row in plan.parts()]
    return [Table(headings, rows)] if rows else []


def _show_facts(facts: Mapping[str, Part]) -> list[Block]:
    rows = [(shown, str(facts[key])) for key, shown in FACTS.items() if key in facts]
    return [Table(("fact", "value"), rows)] if rows else []


def _show_command(command: Part, options: Part) -> list[Block]:
    """The command that was given, and for a run the one that repeats it."""
    words = [str(word) for word in command.parts()]
    given = shlex.join([Path(words[0]).name, *words[1:]]) if words else str(command.value or "")
    if not options.items():
        return [Code(given)] if given else []
    if "python:" in f"{options['backbone']}{options['data']}":
        return [
            "The network or the data were given from Python: "
            "abatis.run(config, model=..., data=...) with the options in run.toml repeats the run."
        ]
    again: list[Block] = ["In this folder:", Code("defense-run --config run.toml")]
    if given.startswith("defense-run") and len(given) <= LONGEST_COMMAND:
        again += ["The command was:", Code(given)]
    return again
