"""The base of all options: frozen, unknown names refused, bounds and a description for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, cast, get_args

from annotated_types import Ge, Gt, Le, Lt
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticKnownError, core_schema

from abatis.api.threat import parse_ratio
from abatis.errors import UsageError

NUMBERS = {
    "int": "int_type",
    "float": "float_type",
    "complex": "complex_type",
    "decimal": "decimal_type",
}
"""The kinds of numbers in pydantic's schemas, and the error codes of what is not one."""
NO_SCHEMAS = ("metadata", "serialization", "default", "expected")
"""Keys of pydantic's schemas that hold something else."""
_BOUNDS = ((Ge, "ge", ">="), (Gt, "gt", ">"), (Le, "le", "<="), (Lt, "lt", "<"))


def _check_ratio(value: object) -> str:
    text = str(value).replace(" ", "")
    if parse_ratio(text) <= 0:
        raise ValueError(f"{text} is not above 0")
    return text


def read_path(value: str | Path) -> Path:
    """A path, with the home folder for a ``~`` at its start; raises UsageError where none is."""
    try:
        return Path(value).expanduser()
    except RuntimeError as error:
        raise UsageError(
            f"no home folder is known for {value}", fix="write the path without ~"
        ) from error


def list_numbers(value: Any) -> tuple[float, ...]:
    """The numbers of an option that takes one or several."""
    return value if isinstance(value, tuple) else (value,)


def _takes_path(annotation: Any) -> bool:
    """Is an option a path, or one that may be missing, or several?"""
    return annotation is Path or any(map(_takes_path, get_args(annotation)))


def _expand_paths(raw: Any) -> Any:
    """A value of an option that is a path, or several, with the home folder for ``~``."""
    if isinstance(raw, list | tuple):
        return type(raw)(map(_expand_paths, raw))
    if isinstance(raw, str):
        return str(read_path(raw))  # a Path is no value of JSON
    return read_path(raw) if isinstance(raw, Path) else raw


Ratio = Annotated[str, BeforeValidator(_check_ratio)]
"""A positive number kept as it was written: "2/255" or 0.007."""
Share = Annotated[float, Field(gt=0, lt=1)]
"""A share of the training: with 0.6 something happens after 60 % of the steps."""


def use_underscores(raw: Any, inside: str = "") -> Any:
    """Return a table with underscores for the hyphens of its keys; other values as they are.

    Args:
        raw: the table.
        inside: the name of the table that it is in, for the error.

    Raises:
        UsageError: two keys are spellings of one name, like "batch-size" and "batch_size".
    """
    if not isinstance(raw, Mapping):
        return raw
    spelled: dict[str, str] = {}
    for key in map(str, raw):
        other = spelled.setdefault(key.replace("-", "_"), key)
        if other != key:
            place = f" in [{inside}]" if inside else ""
            raise UsageError(
                f"'{other}' and '{key}'{place} are two spellings of one option",
                fix="remove one of them",
            )
    return {str(key).replace("-", "_"): value for key, value in raw.items()}


def _refuse_boolean(code: Any) -> Callable[[Any], Any]:
    """A validator that lets no boolean become a number."""

    def check(raw: Any) -> Any:
        if type(raw).__name__ in ("bool", "bool_"):  # numpy's, too
            raise PydanticKnownError(code)
        return raw

    return check


def _number_code(schema: Mapping[str, Any]) -> str | None:
    """The error code of what is no number, where a pydantic schema is one; else None."""
    kind = schema.get("type")
    if kind == "literal" and not any(isinstance(one, bool) for one in schema["expected"]):
        return "int_type" if any(isinstance(one, int) for one in schema["expected"]) else None
    kind = schema.get("sub_type") if kind == "enum" else kind
    return NUMBERS.get(kind) if isinstance(kind, str) else None


def _refuse_booleans(schema: Any) -> Any:
    """A copy of a pydantic schema in which no number accepts a boolean, at any depth.

    Fields that are booleans stay as they are, also in a union with numbers.
    """
    if isinstance(schema, list | tuple):
        return type(schema)(map(_refuse_booleans, schema))
    if not isinstance(schema, dict):
        return schema
    copy = {
        key: value if key in NO_SCHEMAS else _refuse_booleans(value)
        for key, value in schema.items()
    }
    code = _number_code(schema)
    if code is None:
        return copy
    return core_schema.no_info_before_validator_function(
        _refuse_boolean(code), cast(CoreSchema, copy)
    )


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

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """No boolean becomes a number: ``epochs = true`` is not one epoch."""
        return cast(CoreSchema, _refuse_booleans(handler(source)))

    @model_validator(mode="before")
    @classmethod
    def _underscores(cls, raw: Any) -> Any:
        _check_text(raw)
        named = use_underscores(raw)
        if isinstance(named, dict):
            for name in named.keys() & cls.model_fields.keys():
                if _takes_path(cls.model_fields[name].annotation):
                    named[name] = _expand_paths(named[name])
        return named


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

    several_threats: ClassVar[bool] = False
    """Does its attacker reach all of ``run.threats``, and name that of each image in
    ``Attacked.threat``? Runs with ``--also-train`` need such an attacker."""

    shares: ClassVar[Mapping[str, str]] = {}
    """Options that count epochs, each with the option that gives shares of the training in its
    place, like ``{"decay_epochs": "decay_at"}``. ``count_past`` reads both."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Check the names in ``shares``, too; raises TypeError."""
        super().__pydantic_init_subclass__(**kwargs)
        unknown = sorted({*cls.shares.keys(), *cls.shares.values()} - cls.model_fields.keys())
        if unknown:
            raise TypeError(
                f"{cls.__name__}.shares names {unknown[0]}, which is none of its options"
            )

    def count_past(self, option: str, epoch: int, progress: float) -> int:
        """How many of the times that an option of ``shares`` names have come.

        Args:
            option: the option that counts epochs; one number, or several.
            epoch: the epoch that the numbers are compared with.
            progress: the share of the training that is done, in [0, 1), which counts instead where
                the run gives shares.
        """
        shares = getattr(self, self.shares[option])
        if shares is None:
            return sum(epoch >= first for first in list_numbers(getattr(self, option)))
        return sum(progress >= share for share in list_numbers(shares))

    @property
    def needs_clean(self) -> bool:
        """Does the plugin read ``ctx.logits_clean``? Then the clean forward pass comes first."""
        return False

    @property
    def needs_features(self) -> bool:
        """Does the plugin read ``ctx.features_clean`` and the like? Then the network must have
        features, and no forward pass is compiled."""
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
    def dated_epochs(self) -> Mapping[str, tuple[int, ...]]:
        """Options that name epochs, counted from 1; those after a run's last epoch are noted.

        They are those of ``shares`` with several numbers, where the run gives no shares.
        """
        return {
            option: numbers
            for option, shares in self.shares.items()
            if isinstance(numbers := getattr(self, option), tuple) and getattr(self, shares) is None
        }

    @property
    def is_neutral(self) -> bool:
        """Do these options switch the plugin off?"""
        return bool(self.neutral) and all(
            getattr(self, name) == value for name, value in self.neutral.items()
        )
