"""Which options hold numbers without a bound."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin

from annotated_types import Ge, Gt, Interval, Le, Lt
from pydantic.fields import FieldInfo

BOUNDS = (Ge, Gt, Le, Lt, Interval)


def has_unbounded_numbers(field: FieldInfo) -> bool:
    """Does an option hold an int or a float without a bound, in a tuple or union too?"""
    bounded = any(isinstance(mark, BOUNDS) for mark in field.metadata)
    return any(_find_unbounded(field.annotation, bounded))


def say_how_to_bound(field: FieldInfo) -> str:
    """How a bound is written for a type: in the field, or inside of a tuple or a union."""
    if field.annotation in (int, float):
        return "Field(..., ge=0)"
    kind = "float" if "float" in str(field.annotation) else "int"
    number = f"Annotated[{kind}, Field(ge=0)]"
    if "tuple" in str(field.annotation):
        return f"a bound in Field() does not reach into a tuple: tuple[{number}, ...]"
    return f"{number} in place of {kind}"


def _find_unbounded(annotation: Any, bounded: bool) -> Iterator[bool]:
    """Yield for every number in a type whether it lacks a bound."""
    if annotation in (int, float):
        yield not bounded
    elif get_origin(annotation) is Annotated:
        inner, *marks = get_args(annotation)
        constraints = [part for mark in marks for part in getattr(mark, "metadata", [mark])]
        has_bound = any(isinstance(mark, BOUNDS) for mark in constraints)
        yield from _find_unbounded(inner, bounded or has_bound)
    elif str(get_origin(annotation)) != "typing.Literal":
        for part in get_args(annotation):
            yield from _find_unbounded(part, bounded)
