"""Checks of single values of options."""

from __future__ import annotations

import math
import re

from abatis.api.threat import Threat
from abatis.config.built_in import TRACKERS
from abatis.errors import did_you_mean

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


NORMALIZE = ("data", "imagenet", "cifar10", "none")
"""Words of ``--normalize`` besides numbers."""
OLD_NORMALIZE = "mean"  # an older word for the mean of the data and a standard deviation of 1
NORMALIZE_FORM = f"{', '.join(NORMALIZE)}, or MEAN STD, such as 0.49,0.48,0.45 0.25,0.24,0.26"


def check_normalize(value: object) -> str:
    """A value of ``--normalize`` in one spelling: a word, or MEAN STD as numbers with commas.

    Raises ValueError where it is neither. Mean and std from Python may be two sequences.
    """
    if isinstance(value, list | tuple):
        parts = [one if isinstance(one, str) else ",".join(map(str, one)) for one in value]
        value = " ".join(parts)
    text = " ".join(str(value).split())
    if text in (*NORMALIZE, OLD_NORMALIZE):
        return text
    try:
        mean, std = (tuple(float(part) for part in word.split(",")) for word in text.split())
    except ValueError:
        mean, std = (), ()
    if not mean or len(mean) != len(std) or not min(std) > 0 or max(*mean, *std) > 1:
        raise ValueError(f"{text!r} is not {NORMALIZE_FORM}, for images in [0, 1]")
    return text


def check_class_weights(value: str) -> str:
    """Raise ValueError where it is neither a word nor positive numbers with commas in between."""
    if value in ("none", "balanced"):
        return value
    try:
        numbers = [float(number) for number in value.split(",")]
    except ValueError:
        numbers = [0.0]
    if not all(0 < number < math.inf for number in numbers):
        raise ValueError(f"{value!r} is not none, balanced, or positive numbers like 1,2.5,1")
    return value


def check_layer_rate(text: str) -> str:
    """The rate of a layer as ``PATTERN=FACTOR`` without spaces; raises ValueError."""
    pattern, equals, factor = (part.strip() for part in text.rpartition("="))
    try:
        value = float(factor)
    except ValueError:
        value = math.nan
    if not equals or not pattern or not 0 <= value < math.inf:
        raise ValueError(f"{text!r} is not LAYER=FACTOR with a positive factor, like stem=0.1")
    if value == 0:
        raise ValueError(f"{text!r} would not train the layer; write --freeze {pattern}")
    return f"{pattern}={factor}"


def parse_threat(value: object) -> str:
    """A threat model in one spelling; raises UsageError."""
    return str(Threat.parse(str(value)))
