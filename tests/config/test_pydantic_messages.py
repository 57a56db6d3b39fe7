"""The installed pydantic, pydantic-settings and argparse still complain as is expected here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsError

from abatis import PluginConfig, RunConfig
from abatis.config import pydantic_messages
from abatis.config.parser import MESSAGES, Parser
from abatis.config.pydantic_messages import as_usage_error, explain, find_unread
from abatis.errors import UsageError


class Group(BaseModel):
    inner: int = 0


class Model(BaseModel):
    model_config = {"extra": "forbid"}

    whole: int = Field(1, ge=1, le=9)
    number: float = Field(0.5, gt=0, lt=1, allow_inf_nan=False)
    flag: bool = False
    text: str = ""
    path: Path = Path()
    some: tuple[int, ...] = ()
    pair: tuple[int, int] = (0, 0)
    listed: list[int] = Field([], min_length=1, max_length=2)
    table: dict[str, str] = {}
    choice: Literal["a", "b"] = "a"
    checked: str = ""
    group: Group = Group()

    @field_validator("checked")
    @classmethod
    def _check(cls, value: str) -> str:
        if value:
            raise ValueError("it is never right")
        return value


PROVOKED = {
    "int_type": ({"whole": []}, "whole must be a whole number, not []"),
    "int_parsing": ({"whole": "x"}, "whole must be a whole number, not 'x'"),
    "int_from_float": ({"whole": 1.5}, "whole must be a whole number, not 1.5"),
    "int_parsing_size": ({"whole": "1" * 5000}, "whole must be a whole number of fewer digits"),
    "float_type": ({"number": []}, "number must be a number, not []"),
    "float_parsing": ({"number": "x"}, "number must be a number, not 'x'"),
    "finite_number": ({"number": "nan"}, "number must be a finite number, not 'nan'"),
    "bool_type": ({"flag": []}, "flag must be true or false, not []"),
    "bool_parsing": ({"flag": "x"}, "flag must be true or false, not 'x'"),
    "string_type": ({"text": 5}, "text must be text, not 5"),
    "path_type": ({"path": 5}, "path must be a path, not 5"),
    "tuple_type": ({"some": 5}, "some must be a list, not 5"),
    "list_type": ({"listed": 5}, "listed must be a list, not 5"),
    "dict_type": ({"table": 5}, "table must be a table of names and values, not 5"),
    "literal_error": ({"choice": "c"}, "choice must be 'a' or 'b', not 'c'"),
    "greater_than": ({"number": 0}, "number must be above 0, not 0"),
    "greater_than_equal": ({"whole": 0}, "whole must be at least 1, not 0"),
    "less_than": ({"number": 1}, "number must be below 1, not 1"),
    "less_than_equal": ({"whole": 10}, "whole must be at most 9, not 10"),
    "too_long": ({"listed": [1, 2, 3]}, "listed must have at most 2 values, not [1, 2, 3]"),
    "too_short": ({"listed": []}, "listed must have at least 1 values, not []"),
    "missing": ({"pair": [1]}, "value 2 of pair is missing"),
    "value_error": ({"checked": "x"}, "checked: it is never right"),
    "extra_forbidden": ({"whle": 1}, "unknown option 'whle': did you mean 'whole'?"),
    "model_type": ({"group": 5}, "--group is a group of options and takes no value (got 5)"),
}


def test_every_code_is_provoked_here():
    assert {*pydantic_messages.WORDS, pydantic_messages.GROUP_CODE} <= PROVOKED.keys()


@pytest.mark.parametrize("code", PROVOKED)
def test_pydantic_still_has_this_code(code):
    raw, words = PROVOKED[code]
    with pytest.raises(ValidationError) as caught:
        Model.model_validate(raw)
    assert caught.value.errors()[0]["type"] == code
    assert as_usage_error(caught.value, Model).what.startswith(words)


def test_other_complaints_are_counted_and_unknown_codes_keep_pydantic_s_text():
    with pytest.raises(ValidationError) as caught:
        Model.model_validate({"whole": 0, "number": 5, "flag": "x"})
    assert explain(caught.value, Model) == "whole must be at least 1, not 0 [and 2 more]"

    class Other(BaseModel):
        word: Annotated[str, Field(pattern="^a")] = "a"

    with pytest.raises(ValidationError) as caught:
        Other.model_validate({"word": "b"})
    assert explain(caught.value, Other).startswith("word: String should match pattern")


def settings_error(*words: str) -> SettingsError:
    class Settings(BaseSettings):
        group: Group = Group()
        table: dict[str, str] = {}
        some: tuple[int, ...] = ()

    source = CliSettingsSource(Settings, root_parser=Parser(), parse_args_method=Parser.parse_args)
    with pytest.raises(SettingsError) as caught:
        source(args=list(words))()
    return caught.value


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (("--group", "{"), "group"),
        (("--group", "x"), "group"),
        (("--table", "x"), "table"),
        (("--some", "[1"), "some"),
    ],
)
def test_pydantic_settings_still_names_the_option_it_cannot_read(words, option):
    assert find_unread(settings_error(*words)) == option


def test_a_message_that_names_no_option():
    assert find_unread(SettingsError("something else")) is None


PROVOKED_ARGUMENTS = [
    (["--one"], "--one needs a value"),
    (["--more"], "--more needs at least one value"),
    (["--flag=1"], "--flag takes no value (got '1')"),
    (["--whole", "x"], "--whole must be a whole number, not 'x'"),
    (["--number", "x"], "--number must be a number, not 'x'"),
    (["--choice", "c"], "--choice must be one of"),
    ([], "missing: --needed"),
]


@pytest.mark.parametrize(("words", "what"), PROVOKED_ARGUMENTS)
def test_argparse_still_has_this_message(words, what):
    parser = Parser(prog="x")
    parser.add_argument("--one")
    parser.add_argument("--more", nargs="+")
    parser.add_argument("--flag", action="store_true")
    parser.add_argument("--whole", type=int)
    parser.add_argument("--number", type=float)
    parser.add_argument("--choice", choices=["a", "b"])
    parser.add_argument("--needed", required=True)
    with pytest.raises(UsageError) as caught:
        parser.parse_args([*words] if not words else [*words, "--needed=1"])
    assert caught.value.what.startswith(what)


def test_every_message_of_argparse_is_provoked_here():
    assert len(PROVOKED_ARGUMENTS) == len(MESSAGES)


@pytest.mark.parametrize(
    ("raw", "what", "fix"),
    [
        ({"mix": 0.5}, "--mix is a group", "--mix.mixup 0.5"),
        ({"attack": 5}, "--attack is a group", "--attack.steps 5"),
        ({"optim": "adamw"}, "--optim is a group", 'optim.name = "adamw" in TOML'),
        ({"extra": "x"}, "--extra is a group", "--extra.file x"),
        ({"mix": None}, "--mix is a group", "the names are mixup"),
        ({"attack": []}, "--attack is a group", "the names are steps"),
        ({"plugin": ["emr"], "emr": 5}, "--emr is a group", "--emr.weight 5"),
        ({"plugin": ["emr"], "options": {"emr": 5}}, "--emr is a group", "--emr.weight 5"),
    ],
)
def test_a_group_that_is_given_a_value_in_python_or_toml(raw, what, fix):
    with pytest.raises(UsageError) as caught:
        RunConfig.model_validate(raw)
    assert what in caught.value.what
    assert fix in str(caught.value.fix)


def test_a_validator_that_breaks_does_not_hide_the_error():
    class Broken(PluginConfig):
        first: int = 0

        @field_validator("first")
        @classmethod
        def _check(cls, value: int) -> int:
            if value == 5:
                raise RuntimeError("broken")
            return value

        second: int = 0

    assert "--x.second 5" in str(pydantic_messages.group_error("x", Broken, 5).fix)
