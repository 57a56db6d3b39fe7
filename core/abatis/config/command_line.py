"""From words on the command line to a RunConfig. No torch, and no plugin's code but that of the plugins named.

Two phases: find ``--plugin`` and ``--config``, import only those plugins; then parse everything against a model that
holds the core's options and theirs. Defaults < ``--recipe`` < ``--config`` file < command line.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, create_model
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsError

from abatis.config import discovery
from abatis.config.parser import Parser
from abatis.config.recipes import recipe_file
from abatis.config.run_config import AVERAGING_DECAY, RunConfig, plugin_names, reserved_names
from abatis.config.toml import read_toml
from abatis.errors import UsageError

METAVARS = {"str": "TEXT", "int": "N", "float": "X", "Path": "PATH", "dict[str,str]": "ROLE=NAME"}
DESCRIPTION = "Train an image classifier that stays right under attack, and judge it."


def parse_run(
    argv: Sequence[str], prog: str = "defense-run", notes: list[str] | None = None
) -> RunConfig:
    """The configuration that these words ask for; raises UsageError or PluginError, and SystemExit after ``--help``.

    notes: gets a line for every table of the configuration file that this run does not use.
    """
    words = list(_spelled(argv))
    if not words and sys.stdout.isatty():
        words = ["--help"]
    named, recipe, config_file = _first_phase(words)
    table = read_toml(recipe_file(recipe)) if recipe else {}
    table = _merged(table, read_toml(config_file)) if config_file else table
    names = named or plugin_names(table.get("plugin", ()))
    loaded = discovery.load_all(names, fresh=True, reserved=reserved_names())
    asked = _second_phase(words, loaded, prog)
    known_names = {plugin.name for plugin in loaded}
    kept = {key: value for key, value in table.items() if not _is_other_plugin(key, known_names)}
    if notes is not None:
        notes += [
            f"note: options of '{key}' are left out: that plugin is not selected"
            for key in table.keys() - kept.keys()
        ]
    return RunConfig.model_validate(
        _merged(_merged(kept, asked), {"plugin": discovery.canonical(names)})
    )


def _spelled(argv: Sequence[str]) -> Iterable[str]:
    """Hyphens for underscores in flags, and the decay after a bare ``--ema``."""
    for position, word in enumerate(argv):
        if not word.startswith("--"):
            yield word
            continue
        flag, equals, value = word.partition("=")
        yield flag.replace("_", "-") + equals + value
        following = argv[position + 1] if position + 1 < len(argv) else "--"
        if flag == "--ema" and not equals and not re.match(r"[\d.]", following):
            yield str(AVERAGING_DECAY)


def _first_phase(words: Sequence[str]) -> tuple[list[str], str | None, Path | None]:
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--plugin", action="append", default=[])
    parser.add_argument("--recipe")
    parser.add_argument("--config", type=Path)
    found, _ = parser.parse_known_args(words)
    return (
        [name for text in found.plugin for name in plugin_names(text)],
        found.recipe,
        found.config,
    )


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
    model = create_model("DefenseRun", __base__=BaseSettings, **fields)
    parser = Parser(
        prog=prog,
        description=DESCRIPTION,
        epilog=_plugin_listing(),
        allow_abbrev=False,
        usage=_usage(prog),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--recipe",
        metavar="PLUGIN/NAME",
        help="a setting that a plugin ships, see defense registry show; at/large is ours",
    )
    parser.add_argument(
        "--config", metavar="FILE", help="TOML file with options, like the run.toml of a run"
    )
    source: Any = CliSettingsSource(
        model,
        root_parser=parser,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        parse_args_method=Parser.parse_args,
        cli_avoid_json=True,
        cli_hide_none_type=True,
    )
    for action in parser._actions:
        if isinstance(action.metavar, str):
            action.metavar = METAVARS.get(
                action.metavar, "LIST" if action.metavar.startswith("tuple") else action.metavar
            )
    try:
        given: dict[str, Any] = source(args=list(words))()
    except SettingsError as error:
        if '"' not in str(error):  # a table in one word, --use or --extra
            raise UsageError(
                f"an option needs NAME=VALUE: {str(error).partition(': ')[0]}",
                fix="--use ROLE=NAME",
            ) from error
        group = str(error).split('"')[1]
        raise UsageError(
            f"--{group} has no value of its own",
            fix=f"name one of its options: --{group}.NAME VALUE",
        ) from error
    return {key: value for key, value in given.items() if key not in ("config", "recipe")}


def _usage(prog: str) -> str:
    return f"{prog} [--plugin NAME ...] [--backbone NAME] [--data SET] [--OPTION VALUE ...]"


def _plugin_listing() -> str:
    width = shutil.get_terminal_size().columns
    rows = [
        textwrap.fill(
            f"{plugin.name:<16} {plugin.summary}",
            width,
            initial_indent="  ",
            subsequent_indent=" " * 19,
        )
        for plugin in discovery.installed().values()
    ]
    return "\n".join(["plugins (options: --plugin NAME --help):", *(rows or ["  none installed"])])


def _is_other_plugin(key: str, selected: set[str]) -> bool:
    """A table of a plugin that this run does not use: a shared file may hold several."""
    name = discovery.normal(key)
    return (
        key not in RunConfig.model_fields and name not in selected and name in discovery.installed()
    )


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` over ``below``, table by table."""
    result = dict(below)
    for key, value in above.items():
        under = result.get(key)
        result[key] = (
            _merged(under, value)
            if isinstance(under, Mapping) and isinstance(value, Mapping)
            else value
        )
    return result
