"""From the words of the command line to a RunConfig. Loads no torch, and only the plugins named.

There are two phases. The first finds ``--plugin``, ``--recipe`` and ``--config``, and imports the
plugins they name. The second parses all words against a model that holds the options of the core
and of these plugins. Defaults < ``--recipe`` < ``--config`` file < command line.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from pydantic import BaseModel, Field, create_model
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsError

from abatis.api.options import read_path
from abatis.config import discovery
from abatis.config.old_names import rename_flag, rename_old
from abatis.config.parser import NO_BREAK, Parser, tell
from abatis.config.pydantic_messages import find_unread, group_error
from abatis.config.quoted_values import check_quotes
from abatis.config.recipes import find_recipe
from abatis.config.run_config import RunConfig, reserved_names
from abatis.config.run_options import AVERAGING_DECAY, RunOptions
from abatis.config.toml import read_toml
from abatis.errors import UsageError

METAVARS = {"str": "TEXT", "int": "N", "float": "X", "Path": "PATH", "dict[str,str]": "ROLE=NAME"}
DESCRIPTION = "Train an adversarially robust image classifier, then evaluate it."
NO_DEFAULT = {"None", "()", "{}", "", "False"}  # what help need not say
NUMBERS = re.compile(r"[-+.,\de]+")  # with commas between them
UNBROKEN = re.compile(r"\[[<>][^]]*\]|\(default: [^)]*\)$")  # bounds and defaults stay on one line


def parse_run(
    argv: Sequence[str], prog: str = "defense-run", notes: list[str] | None = None
) -> RunConfig:
    """The configuration that these words ask for.

    Args:
        argv: The words.
        prog: The name of the command, for its help.
        notes: Gets a line for every table of the configuration file that this run does not use.

    Raises:
        UsageError: where an option is wrong.
        PluginError: where a plugin cannot be used.
        SystemExit: after ``--help``.
    """
    words = _name_further_threats(list(_normalise(_join_statistics(argv))))
    if not words and sys.stdout.isatty():
        words = ["--help"]
    named, recipe, config_file = _first_phase(words)
    files = {path: rename_old(read_toml(path)) for path in _list_files(recipe, config_file)}
    table: dict[str, Any] = {}
    for content in files.values():
        table = _merge(table, content)
    names = named or discovery.parse_names(table.get("plugin", ()))
    loaded = discovery.load_plugins(names, fresh=True, reserved=reserved_names())
    models: dict[str, type[BaseModel]] = {"": RunOptions}
    models |= {plugin.name: plugin.config_class for plugin in loaded}
    for path, content in files.items():
        check_quotes(content, models, path)
    asked = _second_phase(words, loaded, prog)
    known_names = {plugin.name for plugin in loaded}
    kept = {key: value for key, value in table.items() if not _is_other_plugin(key, known_names)}
    if notes is not None:
        notes += [
            f"note: options of '{key}' are ignored: that plugin is not selected;"
            f" add --plugin {discovery.normalise_name(key)}"
            for key in table.keys() - kept.keys()
        ]
    return RunConfig.model_validate(
        _merge(_merge(kept, asked), {"plugin": discovery.normalise_plugins(names)})
    )


def _name_further_threats(words: Sequence[str]) -> list[str]:
    """Every ``--threat`` but the first as ``--also-train``: a run trains on all of them."""
    named: list[str] = []
    first = ""
    for position, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if flag != "--threat":
            named.append(word)
            continue
        threat = value if equals else (*words, "")[position + 1]
        option = flag if first in ("", threat) else "--also-train"
        named.append(option + equals + value)
        first = first or threat
    return named


def _join_statistics(argv: Sequence[str]) -> list[str]:
    """MEAN and STD after ``--normalize`` as one word: they are one value."""
    words = list(argv)
    for place in [place for place, word in enumerate(words) if word == "--normalize"]:
        pair = words[place + 1 : place + 3]
        if len(pair) == 2 and all(map(NUMBERS.fullmatch, pair)):
            words[place + 1 : place + 3] = [" ".join(pair)]
    return words


def _list_files(recipe: str | None, config_file: Path | None) -> list[Path]:
    """The files with options, the later above the earlier."""
    recipes = [find_recipe(recipe)] if recipe else []
    return [*recipes, *([config_file] if config_file else [])]


def _normalise(argv: Sequence[str]) -> Iterable[str]:
    """Hyphens for underscores in flags, and what a bare ``--ema`` or ``--forecast`` means."""
    for position, word in enumerate(argv):
        if not word.startswith("--"):
            yield word
            continue
        flag, equals, value = word.partition("=")
        flag, note = rename_flag(flag)
        if note:
            tell(note)
        yield flag.replace("_", "-") + equals + value
        following = argv[position + 1] if position + 1 < len(argv) else "--"
        if flag == "--ema" and not equals and not re.match(r"[\d.]", following):
            yield str(AVERAGING_DECAY)
        if flag == "--forecast" and not equals and following.startswith("-"):
            yield "here"


def _first_phase(words: Sequence[str]) -> tuple[list[str], str | None, Path | None]:
    """The plugins, the recipe and the configuration file that are named."""
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--plugin", action="append", default=[])
    parser.add_argument("--recipe")
    parser.add_argument("--config", type=read_path)
    found, _ = parser.parse_known_args(words)
    names = [name for text in found.plugin for name in discovery.parse_names(text)]
    return names, found.recipe, found.config


def _second_phase(
    words: Sequence[str], loaded: Sequence[discovery.Plugin], prog: str
) -> dict[str, Any]:
    """The options given on the command line, and only those."""
    fields: dict[str, Any] = {
        name: (field.annotation, field)
        for name, field in RunConfig.model_fields.items()
        if name != "options"
    }
    for plugin in loaded:
        fields[plugin.name.replace("-", "_")] = (
            plugin.config_class,
            Field({}, description=plugin.summary),
        )
    _check_groups(words, {name: annotation for name, (annotation, _) in fields.items()})
    parser = _make_parser(prog)
    source: Any = CliSettingsSource(
        create_model("DefenseRun", __base__=BaseSettings, **fields),
        root_parser=parser,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        parse_args_method=Parser.parse_args,
        cli_avoid_json=True,
        cli_hide_none_type=True,
    )
    for action in parser._actions:
        _polish_help(action)
    try:
        given: dict[str, Any] = source(args=list(words))()
    except SettingsError as error:
        raise _unread_error(find_unread(error), words) from error
    return {key: value for key, value in given.items() if key not in ("config", "recipe")}


def _make_parser(prog: str) -> Parser:
    parser = Parser(
        prog=prog,
        description=DESCRIPTION,
        epilog=_plugin_listing(),
        allow_abbrev=False,
        usage=f"{prog} [--plugin NAME ...] [--backbone NAME] [--data SET]\n"
        + " " * len(f"usage: {prog} ")
        + "[--OPTION VALUE ...]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--recipe",
        metavar="PLUGIN/NAME",
        help="settings shipped with a plugin, listed by defense registry show PLUGIN;"
        " at/large is built in",
    )
    parser.add_argument(
        "--config", metavar="FILE", help="TOML file with options, like the run.toml of a run"
    )
    return parser


def _polish_help(action: argparse.Action) -> None:
    """Give an option a readable metavar, and its default as it is written on the command line."""
    if isinstance(action.metavar, str):
        is_list = action.metavar.startswith("tuple")
        action.metavar = "LIST" if is_list else METAVARS.get(action.metavar, action.metavar)
    text, found, default = (action.help or "").rpartition(" (default: ")
    if not found:
        return
    default = default.removesuffix(")")
    shown = default.strip("(),").replace(" ", "") if default.startswith("(") else default
    if default not in NO_DEFAULT:
        text += f" (default: {'on' if shown == 'True' else shown})"
    action.help = UNBROKEN.sub(lambda part: part[0].replace(" ", NO_BREAK), text)


def _check_groups(words: Sequence[str], models: Mapping[str, Any]) -> None:
    """Raise UsageError where a group of options, or a plugin, is given a value: ``--mix 0.5``.

    A JSON table is understood.
    """
    for position, word in enumerate(words):
        flag, equals, value = word.partition("=")
        group = models.get(flag.removeprefix("--").replace("-", "_"))
        if not flag.startswith("--") or not _is_group(group):
            continue
        if not equals:
            following = words[position + 1 : position + 2]
            value = "" if not following or following[0].startswith("--") else following[0]
        if not value.lstrip().startswith("{"):
            raise group_error(flag.removeprefix("--"), group, value or None)
        if single := next((one for one in words if one.startswith(f"{flag}.")), None):
            raise UsageError(
                f"{flag} is given as a table, and {single.partition('=')[0]} beside it",
                fix="give all of them in the table, or each as an option",
            )


def _is_group(annotation: object) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _unread_error(option: str | None, words: Sequence[str]) -> UsageError:
    """The error for an option, or a group, whose value pydantic-settings could not take apart."""
    if option == "use":
        return UsageError(
            "--use needs ROLE=NAME", fix="--use ROLE=NAME, where ROLE is loss or attacker"
        )
    if option is None:
        return UsageError("the value of an option cannot be read", fix="check quotes and brackets")
    flag = f"--{option.replace('_', '-')}"
    inside = sorted({word.partition("=")[0] for word in words if word.startswith(f"{flag}.")})
    named = " or ".join(inside) or flag
    return UsageError(
        f"the value of {named} cannot be read",
        fix="write a list as 5,6 (no nan or inf), a table as JSON in quotes, '{\"name\": 5}'",
    )


def _plugin_listing() -> str:
    width = shutil.get_terminal_size().columns
    rows = [
        textwrap.fill(
            f"{plugin.name:<16} {plugin.summary}",
            width,
            initial_indent="  ",
            subsequent_indent=" " * 19,
        )
        for plugin in discovery.list_installed().values()
    ]
    return "\n".join(["plugins (options: --plugin NAME --help):", *(rows or ["  none installed"])])


def _is_other_plugin(key: str, selected: set[str]) -> bool:
    """A table of a plugin that this run does not use: a shared file may hold several."""
    name = discovery.normalise_name(key)
    return (
        key not in RunConfig.model_fields
        and name not in selected
        and name in discovery.list_installed()
    )


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` over ``below``, table by table; a name counts in either spelling."""
    result = dict(below)
    spelled = {key.replace("-", "_"): key for key in below}
    for key, value in above.items():
        under = result.pop(spelled.get(key.replace("-", "_"), key), None)
        result[key] = (
            _merge(under, value)
            if isinstance(under, Mapping) and isinstance(value, Mapping)
            else value
        )
    return result
