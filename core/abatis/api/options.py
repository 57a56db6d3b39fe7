"""What every set of options is: frozen, with unknown names refused, each number with a bound and a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

from abatis.api.threat import ratio
from abatis.errors import UsageError

_BOUNDS = ((Ge, "ge", ">="), (Gt, "gt", ">"), (Le, "le", "<="), (Lt, "lt", "<"))


def _ratio_text(value: object) -> str:
    text = str(value).replace(" ", "")
    if ratio(text) <= 0:
        raise ValueError(f"{text} is not above 0")
    return text


Ratio = Annotated[str, BeforeValidator(_ratio_text)]
"""A positive number kept as written: "2/255" or 0.007."""


def underscored(raw: Any) -> Any:
    """A table with underscores for the hyphens of its keys."""
    return (
        {str(key).replace("-", "_"): value for key, value in raw.items()}
        if isinstance(raw, Mapping)
        else raw
    )


def _check_text(raw: Any) -> None:
    """Raise UsageError where a text, anywhere in a table, can be neither a path nor written down."""
    if isinstance(raw, Mapping):
        raw = [*raw.keys(), *raw.values()]
    if isinstance(raw, list | tuple):
        for part in raw:
            _check_text(part)
    elif isinstance(raw, str | Path) and (
        "\0" in str(raw) or str(raw) != str(raw).encode(errors="replace").decode()
    ):
        raise UsageError(
            f"{str(raw)!r} holds a NUL or half a character", fix="write it in whole characters"
        )


class Options(BaseModel):
    """A frozen set of options that refuses unknown names and accepts hyphens for underscores."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, protected_namespaces=()
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Append each field's bounds to its sentence, so that ``--help`` shows them."""
        for field in cls.model_fields.values():
            bounds = [
                f"{sign} {getattr(mark, attribute):g}"
                for mark in field.metadata
                for kind, attribute, sign in _BOUNDS
                if isinstance(mark, kind)
            ]
            note = f" [{', '.join(bounds)}]"
            if bounds and not (field.description or "").endswith(note):
                field.description = f"{field.description or ''}{note}".strip()

    @model_validator(mode="before")
    @classmethod
    def _underscores(cls, raw: Any) -> Any:
        _check_text(raw)
        return underscored(raw)


class PluginConfig(Options):
    """Base of every plugin's options. What a plugin needs of the engine is declared here, as a fact about its options."""

    neutral: ClassVar[Mapping[str, Any]] = {}
    """Values at which the plugin does nothing, like ``{"weight": 0}``: with all of them it adds nothing to the run."""

    soft_labels: ClassVar[bool] = False
    """Is it defined where labels are mixed or smoothed? It then reads ``batch.target``, or no label at all."""

    @property
    def needs_clean(self) -> bool:
        """Does it read ``ctx.logits_clean``? Then the clean forward comes first, as in published code."""
        return False

    @property
    def needs_double_backward(self) -> bool:
        """Does it differentiate an input gradient? Then the step is not compiled."""
        return False

    @property
    def idle_epochs(self) -> int:
        """First epochs in which the plugin does nothing yet; a run that ends within them is warned about."""
        return 0

    @property
    def is_neutral(self) -> bool:
        """Do these options switch the plugin off?"""
        return bool(self.neutral) and all(
            getattr(self, name) == value for name, value in self.neutral.items()
        )
