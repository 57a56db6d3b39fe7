"""What an option means for a run, declared where the option is declared.

An option is written ``Field(..., json_schema_extra=facts(changes_step=False))``. Whatever treats
some options differently from others (resuming, comparing, writing ``run.toml``, publishing a model)
derives its list of names from these facts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.fields import FieldInfo

KEY = "abatis"  # the facts' place in json_schema_extra


@dataclass(frozen=True)
class Facts:
    """The nature of one option.

    Args:
        changes_step: Does it change what a training step computes?
        this_machine: Does it describe this machine, so that it is left out of what is published?
        display_only: Does it change nothing but what is printed?
        recorded: Is it part of the run, and so written to ``run.toml``?
        on_resume: ``equal``: must be as in the checkpoint; ``longer``: may grow; ``rounded``: may
            differ, but results are then rounded differently; ``free``: may differ.
        in_comparison: ``equal``: must be the same in all runs; ``varied``: what the runs of a
            comparison differ in; ``free``: may differ.
        measures: Does it change what the accuracy on held-out images means: the images, or the
            attack? Then runs that differ in it cannot be compared by that accuracy.
    """

    changes_step: bool = True
    this_machine: bool = False
    display_only: bool = False
    recorded: bool = True
    on_resume: Literal["equal", "longer", "rounded", "free"] = "equal"
    in_comparison: Literal["equal", "varied", "free"] = "equal"
    measures: bool = False


def facts(**given: Any) -> dict[str, Any]:
    """The ``json_schema_extra`` of an option with these :class:`Facts`.

    An option that changes no step is free on resume and in a comparison unless stated otherwise.
    """
    if not given.get("changes_step", True):
        given = {"on_resume": "free", "in_comparison": "free", **given}
    return {KEY: asdict(Facts(**given))}


STEP = facts()
"""Changes what a training step computes, as most options do: must be equal."""
MEASURE = facts(measures=True)
"""Changes a step, and by which images or attack held-out accuracy is measured."""
ROUNDED = facts(on_resume="rounded")
"""Changes how a step's sums and products are rounded: may differ on resume."""
BESIDE_STEP = facts(changes_step=False)
"""Part of the run, but changes no step."""
MACHINE = facts(changes_step=False, this_machine=True)
"""Where things lie and how they are loaded on this machine."""
THIS_START = facts(changes_step=False, recorded=False)
"""How this start of the run behaves: not part of the run."""
DISPLAY = facts(changes_step=False, recorded=False, display_only=True)
"""What is printed: not part of the run."""


def read_facts(name: str, field: FieldInfo) -> Facts:
    """The facts that an option declares; raises TypeError where it declares none."""
    extra = field.json_schema_extra
    if not isinstance(extra, dict) or KEY not in extra:
        raise TypeError(f"option '{name}' declares no facts: json_schema_extra=STEP, or facts(...)")
    return Facts(**extra[KEY])  # type: ignore[arg-type]


def walk_options(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Facts]]:
    """Every option by its dotted name, with its facts: a group comes before its options."""
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}", read_facts(f"{prefix}{name}", field)
        group = field.annotation
        if isinstance(group, type) and issubclass(group, BaseModel):
            yield from walk_options(group, f"{prefix}{name}.")


def find_options(model: type[BaseModel], wanted: Callable[[Facts], bool]) -> frozenset[str]:
    """The dotted names of the options whose facts are as wanted."""
    return frozenset(name for name, found in walk_options(model) if wanted(found))
