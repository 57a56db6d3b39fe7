"""The base of all options: frozen, unknown names refused, bounds and a description for each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

from abatis.api.threat import parse_ratio
from abatis.errors import UsageError

_BOUNDS = ((Ge, "ge", ">="), (Gt, "gt", ">"), (Le, "le", "<="), (Lt, "lt", "<"))


def _check_ratio(value: object) -> str:
    text = str(value).replace(" ", "")
    if parse_ratio(text) <= 0:
        raise ValueError(f"{text} is not above 0")
    return text


Ratio = Annotated[str, BeforeValidator(_check_ratio)]
"""A positive number kept as it was written: "2/255" or 0.007."""


def use_underscores(raw: Any) -> Any:
    """Return a table with underscores for the hyphens of its keys; other values as they are."""
    if not isinstance(raw, Mapping):
        return raw
    return {str(key).replace("-", "_"): value for key, value in raw.items()}


def _check_text(raw: Any) -> None:
    """Raise UsageError if a text, anywhere in a table, cannot be a path or be written to a file."""
    if isinstance(raw, Mapping):
        raw = [*raw.keys(), *raw.values()]
    if isinstance(raw, list | tuple):
        for part in raw:
            _check_text(part)
    elif isinstance(raw, str | Path):
        text = str(raw)
        if "\0" in text or text != text.encode(errors="replace").decode():
            raise UsageError(
                f"{text!r} contains a NUL byte or invalid Unicode",
                fix="remove those characters",
            )


class Options(BaseModel):
    """A frozen set of options that refuses unknown names and accepts hyphens for underscores."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, protected_namespaces=()
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Append each field's bounds to its description, so that ``--help`` shows them."""
        for field in cls.model_fields.values():
            bounds = [
                f"{sign} {getattr(mark, attribute):.7g}"
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
        return use_underscores(raw)


class PluginConfig(Options):
    """Base of every plugin's options, and of what the plugin needs from the engine.

    A subclass declares each option as a field with a default, bounds and a description:

        class MineConfig(PluginConfig):
            neutral = {"weight": 0}

            weight: float = Field(1.0, ge=0, description="weight of the penalty")

    They are ``--mine.weight`` on the command line and ``[mine]`` in TOML, and the hooks read them
    by ``run.config(MineConfig)``.
    """

    neutral: ClassVar[Mapping[str, Any]] = {}
    """Values at which the plugin does nothing, like ``{"weight": 0}``. With all of them it adds
    nothing to the run."""

    soft_labels: ClassVar[bool] = False
    """Does the plugin work with mixed or smoothed labels? Then it reads ``batch.target``, or no
    label at all. Otherwise such runs are refused."""

    @property
    def needs_clean(self) -> bool:
        """Does the plugin read ``ctx.logits_clean``? Then the clean forward pass comes first."""
        return False

    @property
    def needs_double_backward(self) -> bool:
        """Does the plugin differentiate an input gradient? Then the step cannot be compiled."""
        return False

    @property
    def idle_epochs(self) -> int:
        """For how many epochs the plugin does nothing at first; shorter runs are warned about."""
        return 0

    @property
    def is_neutral(self) -> bool:
        """Do these options switch the plugin off?"""
        return bool(self.neutral) and all(
            getattr(self, name) == value for name, value in self.neutral.items()
        )
