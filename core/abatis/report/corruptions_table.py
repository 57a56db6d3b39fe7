"""The tables of an evaluation on corrupted images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from abatis.report.eval_record import CORRUPTIONS, UNION, find_verdict, split_threats
from abatis.report.numbers import CLEAN, ROBUST, find_headline, format_share
from abatis.report.words import format_percent

KEY = CORRUPTIONS
ALL = 15  # corruptions that count
HEADINGS = ("accuracy in %", "1", "2", "3", "4", "5", "mean")
SUMMARY = ("images", "accuracy")


def list_summary(record: Mapping[str, Any], space: str = " ") -> list[list[str]]:
    """Return what was measured on clean, corrupted and attacked images, a row of texts each."""
    found: Mapping[str, Any] = record[KEY]
    count = len(found["right"])
    rows = [
        ["clean", format_percent(record[CLEAN.key], space)],
        [
            f"corrupted (mean over {count} corruptions, 5 severities)",
            format_percent(found["corrupted_acc"], space),
        ],
    ]
    if "mce" in found:
        rows.append(
            ["mCE (AlexNet on RobustBench's 5,000 images is 100)", f"{100 * found['mce']:.2f}"]
        )
    for one in split_threats(record):
        share = find_headline(one)
        if share is not None:
            shown = format_share(share, one.get("verdict"), ROBUST, space)
            rows.append([f"attacked, {one.get('threat')}", shown])
    if record.get(UNION):
        share = find_headline(record[UNION])
        shown = format_share(share, find_verdict(record), ROBUST, space)
        rows.append(["attacked, all of these threats", shown])
    return rows


def list_corruption_rows(record: Mapping[str, Any]) -> list[list[str]]:
    """Return a row of texts for each corruption: accuracy by severity, and the mean."""
    found: Mapping[str, Any] = record[KEY]
    n = found["n"]
    return [
        [
            name.replace("_", " "),
            *(f"{100 * count / n:.2f}" for count in counts),
            f"{100 * sum(counts) / (len(counts) * n):.2f}",
        ]
        for name, counts in found["right"].items()
    ]


def describe_corruptions(record: Mapping[str, Any]) -> list[str]:
    """Return what a reader must know about these numbers, in sentences."""
    found: Mapping[str, Any] = record[KEY]
    said = [f"Corrupted images: {found['source']}, {found['n']} images each."]
    if "made here" in found["source"]:
        said.append(
            "They have other random draws than the published files, so the numbers are not those "
            "of a leaderboard."
        )
    if found["left_out"]:
        reasons = "; ".join(f"{name}: {why}" for name, why in found["left_out"].items())
        said.append(f"Left out, so that the mean is not over all {ALL} corruptions: {reasons}.")
    return said


def compute_means(record: Mapping[str, Any]) -> list[float]:
    """Return the mean accuracy over the corruptions at each severity."""
    found: Mapping[str, Any] = record[KEY]
    columns = zip(*found["right"].values(), strict=True)
    return [sum(column) / (len(column) * found["n"]) for column in columns]
