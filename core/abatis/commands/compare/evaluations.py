"""The evaluations that networks of a comparison have already, and what is asked of the others."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from abatis.api.threat import Threat
from abatis.commands.compare.options import Asked, make_parser
from abatis.report.eval_record import list_threats, read_record

BESIDE = ("methods", "seeds", "baseline", "out", "allow_fail", "models", "transfer", "help")
"""Options of compare that say nothing about an evaluation."""


@dataclass(frozen=True)
class Evaluated:
    """A network as it was named, and the folder of its evaluation."""

    word: str
    folder: Path


def complete_options(asked: Asked) -> argparse.Namespace:
    """The options, where they are not given as in the first folder with an evaluation."""
    options = copy(asked.options)
    given = list_given(asked.options)
    records = (read_own(word) for word in asked.models)
    first: Mapping[str, Any] = next((one for one in records if one is not None), {})
    if not first:
        return options
    known = {
        "data": first.get("data"),
        "threat": list_threats(first),
        "ladder": first.get("ladder"),
        "seed": first.get("seed"),
    }
    if "points" in first and "points" not in given and "points_file" not in first:
        known["subset"] = first["n"]
    for key, value in known.items():
        if key not in given and value is not None:
            setattr(options, key, value)
    return options


def read_own(word: str) -> Mapping[str, Any] | None:
    """The evaluation in a folder; None where the word is no such folder."""
    record = read_record(Path(word)) if Path(word).is_dir() else {}
    return record if "clean_acc" in record else None


def list_given(options: argparse.Namespace) -> dict[str, object]:
    """The options about an evaluation that differ from their defaults."""
    defaults = vars(make_parser("defense compare").parse_args([]))
    return {
        key: value
        for key, value in vars(options).items()
        if key in defaults and key not in BESIDE and value != defaults[key]
    }


def fits(record: Mapping[str, Any], options: argparse.Namespace) -> bool:
    """Is an evaluation what the options ask for, as far as they do?"""
    found = {
        "data": record.get("data"),
        "threat": [str(Threat.parse(text)) for text in list_threats(record)],
        "ladder": record.get("ladder"),
        "subset": record.get("n"),
        "layout": record.get("layout"),
    }
    given = list_given(options)
    if "threat" in given:
        given["threat"] = [str(Threat.parse(text)) for text in options.threat]
    if {"points", "also", "corruptions", "square_bf16"} & given.keys():
        return False
    return all(found[key] == given[key] for key in found.keys() & given.keys())


def find_known(word: str, options: argparse.Namespace) -> Path | None:
    """The folder of an evaluation that is as asked for; None where the network is to be judged.

    Where nothing is asked for, a folder without an evaluation is an error of the caller.
    """
    record = read_own(word)
    if record is not None and fits(record, options):
        return Path(word)
    return Path(word) if Path(word).is_dir() and not list_given(options) else None


def needs_networks(asked: Asked) -> bool:
    """Is there a network to be judged, or to be asked?"""
    return asked.options.transfer or any(
        find_known(word, asked.options) is None for word in asked.models
    )
