"""What is wrong with an evaluation's record: wrong types, impossible numbers, contradictions.

Accuracies, counts and intervals are computed again from the results of the single points, which
every record but the oldest holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from abatis.config.ladders import LADDERS
from abatis.report import numbers
from abatis.report.intervals import wilson_interval
from abatis.report.union_check import check_union

EXACT = 1e-9  # a share may differ from the one computed from the points by rounding only
BOUNDED = 3  # from this format on, a FAIL has an upper bound and no robust accuracy
ROUNDED = 1e-3  # ends of intervals were written with few digits once


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_table(value: object) -> bool:
    return isinstance(value, dict)


def _is_table_of_tables(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_table, value.values()))


def _is_interval(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(map(_is_share, value))
        and value[0] <= value[1]
    )


def _is_masking(value: object) -> bool:
    tests = value.get("tests", []) if isinstance(value, dict) else None
    return isinstance(tests, list) and all(
        isinstance(test, dict) and _is_text(test.get("status")) for test in tests
    )


def _are_draws(value: object) -> bool:
    """How many of so many draws were right, by attack and point."""
    if not isinstance(value, dict) or not _is_count(value.get("number")) or not value["number"]:
        return False
    right = value.get("right", {})
    return isinstance(right, dict) and all(
        isinstance(counts, list)
        and counts
        and all(_is_count(count) and count <= value["number"] for count in counts)
        for counts in right.values()
    )


def _are_abstentions(value: object) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"clean", "adversarial"}
        and all(_is_count(count) for count in value.values())
    )


def _has_measures(value: object) -> bool:
    return isinstance(value, dict) and _is_table_of_tables(value.get("measures", {}))


KINDS: Mapping[str, tuple[str, Callable[[object], bool]]] = {
    "n": ("a positive number of points", lambda value: _is_count(value) and value != 0),
    **dict.fromkeys(
        ("data", "threat", "layout", "verdict", "note", "model", "weights", "selected_on"),
        ("a text", _is_text),
    ),
    **dict.fromkeys(("adaptive_attack", "weights_sha256", "points_sha256"), ("a text", _is_text)),
    "ladder": (f"one of {', '.join(LADDERS)}", lambda value: value in LADDERS),
    **dict.fromkeys(("findings", "class_names"), ("a list of texts", _are_texts)),
    **dict.fromkeys(("seed", "format"), ("a whole number", _is_whole)),
    **dict.fromkeys(
        ("num_classes", "selected_at_epoch", "test_set_evaluations"), ("a count", _is_count)
    ),
    **dict.fromkeys(
        ("counts", "interval", "per_point", "per_class", "files_sha256"), ("a table", _is_table)
    ),
    "attacks": ("a table of tables", _is_table_of_tables),
    "masking": ("a table of tests", _is_masking),
    "margins": ("a table of measures", _has_measures),
    "curve": ("a table", _is_table),
    "draws": ("a table of draws", _are_draws),
    "corruptions": ("a table", _is_table),
    "under": ("a table of evaluations by threat", _is_table_of_tables),
    "union": ("a table", _is_table),
    "abstained": ("a table of two counts", _are_abstentions),
}
"""What the parts of a record must be where they are there, in words and as a check."""


def find_fault(record: object) -> str:
    """Say what is wrong with a record; empty where its numbers agree with each other."""
    if not isinstance(record, dict):
        return "it is not a table"
    return next(_list_faults(record), "")


def _list_faults(record: Mapping[str, Any]) -> Iterator[str]:
    yield from _list_own_faults(record)
    if isinstance(record.get("corruptions"), dict):
        yield from _check_corruptions(record["corruptions"])
    under = record.get("under")
    if under is not None:
        yield from check_union(record, under)
        for threat, other in under.items():
            shared = {key: record.get(key) for key in ("data", "n")}
            for fault in _list_own_faults({**shared, **other}):
                yield f"under {threat}, {fault}"


def _check_corruptions(found: Mapping[str, Any]) -> Iterator[str]:
    """The mean is that of the counts, and no count exceeds the points."""
    right, n = found.get("right"), found.get("n")
    if (
        not isinstance(right, dict)
        or not right
        or not _is_count(n)
        or not n
        or not all(isinstance(counts, list) and len(counts) == 5 for counts in right.values())
        or not all(_is_count(one) and one <= n for counts in right.values() for one in counts)
    ):
        yield "the counts under corruptions are not five for each, between 0 and n"
        return
    mean = sum(sum(counts) for counts in right.values()) / (5 * n * len(right))
    yield from _compare_values("corrupted_acc", found.get("corrupted_acc"), mean)


def _list_own_faults(record: Mapping[str, Any]) -> Iterator[str]:
    for key, (kind, fits) in KINDS.items():
        if record.get(key) is not None and not fits(record[key]):
            yield f"{key} is not {kind}: {record[key]!r:.40}"
    for number in numbers.NUMBERS:
        value = record.get(number.key)
        if value is not None and not _is_share(value):
            yield f"{number.key} is not a share between 0 and 1: {value!r:.40}"
    if record.get("clean_acc") is not None:
        yield from (f"{key} is missing" for key in ("n", "data") if record.get(key) is None)
    if record.get("ladder") == "clean":
        yield from (f"{key} is there, after the clean ladder" for key in _list_attacked(record))
    yield from _check_bound(record)
    yield from _check_intervals(record)
    yield from _check_points(record)


def _list_attacked(record: Mapping[str, Any]) -> Iterator[str]:
    """The parts of a record that only attacks can give."""
    keys = [number.key for number in numbers.NUMBERS if number != numbers.CLEAN]
    yield from (key for key in (*keys, "verdict", "under") if record.get(key) is not None)


def _check_bound(record: Mapping[str, Any]) -> Iterator[str]:
    """The robust accuracy is an upper bound where the verdict is FAIL, and nowhere else."""
    if (record.get("format") or 0) < BOUNDED:
        return
    fails = record.get("verdict") == "FAIL"
    wrong = numbers.ROBUST if fails else numbers.UPPER
    if record.get(wrong.key) is not None:
        yield f"{wrong.key} is there, but the verdict is {record.get('verdict')!r:.40}"


def _check_intervals(record: Mapping[str, Any]) -> Iterator[str]:
    for key, ends in (record.get("interval") or {}).items():
        if not _is_interval(ends):
            yield f"the interval of {key} is impossible: {ends!r:.40}"
            continue
        value = record.get(key)
        if value is not None and not ends[0] - ROUNDED <= value <= ends[1] + ROUNDED:
            yield f"{key} is {value:.4g}, outside of its interval {ends[0]:.4g} to {ends[1]:.4g}"


def _check_points(record: Mapping[str, Any]) -> Iterator[str]:
    points: Mapping[str, Any] = record.get("per_point") or {}
    for name, marks in points.items():
        if not isinstance(marks, list) or any(
            type(mark) is not int or mark not in (0, 1) for mark in marks
        ):
            yield f"the results by point of {name} are not all 0 or 1"
        elif len(marks) != record.get("n"):
            yield f"{name} has {len(marks)} points, but n is {record.get('n')}"
    if not points:
        return
    for number in numbers.NUMBERS:
        if record.get(number.key) is not None:
            yield from _check_number(record, number, points.get(number.verdicts))
    for name, count in (record.get("counts") or {}).items():
        if name in points and count != sum(points[name]):
            yield f"the count of {name} is {count!r:.40}, but its points give {sum(points[name])}"
    for name, facts in (record.get("attacks") or {}).items():
        value = facts.get("accuracy")
        if name in points and value is not None:
            expected = sum(points[name]) / len(points[name])
            if name not in ((record.get("draws") or {}).get("right") or {}):
                yield from _compare_values(f"the accuracy of {name}", value, expected)
    yield from _check_order(points)


def _check_number(
    record: Mapping[str, Any], number: numbers.Number, marks: Sequence[int] | None
) -> Iterator[str]:
    if marks is None:
        yield f"{number.key} has no results by point"
        return
    draws = record.get("draws") or {}
    right = (draws.get("right") or {}).get(number.verdicts)
    share = sum(marks) / len(marks)
    if right is not None:
        share = sum(right) / (len(right) * draws["number"])
    yield from _compare_share(number, record[number.key], share)
    ends = (record.get("interval") or {}).get(number.key)
    if ends is None:
        return
    count = record[number.key] * len(marks)
    expected = wilson_interval(count, len(marks))
    if any(abs(one - other) > ROUNDED for one, other in zip(ends, expected, strict=True)):
        yield f"the interval of {number.key} is not that of its points"


def _compare_share(number: numbers.Number, value: float, expected: float) -> Iterator[str]:
    """An upper bound may lie below the share of the points."""
    if number != numbers.UPPER or value > expected:
        yield from _compare_values(number.key, value, expected)


def _compare_values(name: str, value: object, expected: float) -> Iterator[str]:
    if not isinstance(value, int | float) or not abs(value - expected) <= EXACT:
        yield f"{name} is {value!r:.40}, but its points give {expected:.6g}"


def _check_order(points: Mapping[str, Sequence[int]]) -> Iterator[str]:
    """No attack makes a wrong point right, and ``robust`` is what withstood all of them."""
    clean, robust = points.get("clean"), points.get("robust")
    for name, marks in points.items():
        if clean is not None and any(map(int.__gt__, marks, clean)):
            yield f"{name} has right points that are wrong without an attack"
        if robust is not None and any(map(int.__gt__, robust, marks)):
            yield f"robust has right points that {name} broke"
