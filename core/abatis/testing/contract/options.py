"""Numbers of an option's type, and whether each has a bound."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin

from annotated_types import Ge, Gt, Interval, Le, Lt
from pydantic.fields import FieldInfo

BOUNDS = (Ge, Gt, Le, Lt, Interval)


def numbers_without_bound(field: FieldInfo) -> bool:
    """Does an option hold an int or a float, inside a tuple or a union too, that may be anything?"""
    return any(_bare(field.annotation, any(isinstance(mark, BOUNDS) for mark in field.metadata)))


def _bare(annotation: Any, bounded: bool) -> Iterator[bool]:
    """True for every number in a type that no bound goes with."""
    if annotation in (int, float):
        yield not bounded
    elif get_origin(annotation) is Annotated:
        inner, *marks = get_args(annotation)
        constraints = [part for mark in marks for part in getattr(mark, "metadata", [mark])]
        yield from _bare(inner, bounded or any(isinstance(mark, BOUNDS) for mark in constraints))
    elif str(get_origin(annotation)) != "typing.Literal":
        for part in get_args(annotation):
            yield from _bare(part, bounded)
