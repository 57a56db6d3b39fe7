"""Checks of single values of options."""

from __future__ import annotations

import re

from abatis.api.threat import Threat
from abatis.config.built_in import TRACKERS
from abatis.errors import UsageError, did_you_mean

RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


def check_run_name(name: str) -> str:
    """Raise ValueError where a run folder may not have this name."""
    if not RUN_NAME.fullmatch(name) or ".." in name:
        raise ValueError(
            f"{name!r} is not a valid run name; use letters, digits, '-', '_' and single dots,"
            " at most 80"
        )
    return name


def check_tracker(name: str) -> str:
    """Raise ValueError where there is no such tracker."""
    if name not in TRACKERS:
        raise ValueError(f"unknown tracker '{name}', {did_you_mean(name, TRACKERS)}")
    return name


def parse_judged_threat(value: object) -> str:
    """A threat model that can be judged, in one spelling; raises UsageError."""
    return str(Threat.parse(str(value)))


def parse_threat(value: object) -> str:
    """A threat model that can be trained against, in one spelling; raises UsageError."""
    threat = Threat.parse(str(value))
    if threat.norm == "L1":
        raise UsageError(
            "there is no training attack for L1",
            fix="train with Linf or L2; defense eval supports L1",
        )
    return str(threat)
