"""The actions of ``defense registry``: list, show, check, add, schema."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from abatis.api.options import read_path
from abatis.commands.registry.add import add
from abatis.commands.registry.check import find_problems
from abatis.commands.registry.entries import Registry, Role, format_option, list_methods, origin_of
from abatis.config import discovery
from abatis.config.parser import Parser
from abatis.errors import UsageError, did_you_mean
from abatis.report.console import SafeConsole
from abatis.report.verdicts import format_verdict
from abatis.system.printable import make_printable

HIDDEN = ("allow_fail", "registered", "community")
MISSING = {"installed": "no"}


def act(words: Sequence[str], prog: str) -> int:
    """Run the action that the words name; returns 1 where ``check`` finds a problem, else 0."""
    asked: argparse.Namespace = _parser(prog).parse_args(list(words))
    if asked.action == "schema":
        print(make_schema(), end="")
    elif asked.action == "check":
        return _check()
    elif asked.action == "add":
        print(add(read_path(asked.folder), asked.write), end="")
    elif asked.action == "show":
        _show(asked.name, asked.json)
    else:
        _list(asked)
    return 0


def make_schema() -> str:
    """The JSON Schema of registry.toml, which is committed for editors."""
    return json.dumps(Registry.model_json_schema(), indent=2) + "\n"


def _parser(prog: str) -> Parser:
    parser = Parser(prog=prog, description="The registry of methods.", allow_abbrev=False)
    actions = parser.add_subparsers(dest="action", required=True, parser_class=Parser)
    listed = actions.add_parser("list", help="list all methods, and whether they are installed")
    listed.add_argument("--installed", action="store_true", help="only installed methods")
    listed.add_argument(
        "--hook", choices=get_args(Role), help="only methods that provide this hook"
    )
    shown = actions.add_parser(
        "show", help="show a method: paper, equation, options, claim, evidence, recipes"
    )
    shown.add_argument("name")
    for action in (listed, shown):
        action.add_argument("--json", action="store_true", help="print JSON")
    actions.add_parser("check", help="check the entries against plugins, files and records")
    added = actions.add_parser(
        "add", help="print the entry of a third-party plugin, ready for a pull request"
    )
    added.add_argument(
        "folder", help="folder of the plugin, with its pyproject.toml; its module is imported"
    )
    added.add_argument(
        "--write", action="store_true", help="append the entry to registry.toml of the checkout"
    )
    actions.add_parser("schema", help="print the JSON Schema of registry.toml, for editors")
    return parser


def _list(asked: argparse.Namespace) -> None:
    rows = [
        row
        for row in list_methods()
        if (row["installed"] or not asked.installed)
        and (asked.hook is None or asked.hook in row.get("hooks", []))
    ]
    if asked.json:
        print(json.dumps(rows, indent=2))
        return
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("name", "installed", "origin", "provides", "method"):
        table.add_column(heading, no_wrap=heading in ("name", "installed", "origin"))
    for row in rows:
        provides = ", ".join(row.get("hooks", ["unknown"]))
        table.add_row(
            row["name"], row["installed"] or "no", origin_of(row), provides, escape(row["title"])
        )
    SafeConsole().print(table)


def _show(name: str, as_json: bool) -> None:
    by_name = {row["name"]: row for row in list_methods()}
    name = discovery.normalise_name(name)
    if name not in by_name:
        raise UsageError(
            f"unknown method '{name}': {did_you_mean(name, by_name)}",
            fix="defense registry list shows all methods",
        )
    if as_json:
        print(json.dumps(by_name[name], indent=2))
        return
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for key, value in describe_method(by_name[name]):
        table.add_row(key, escape(value))
    SafeConsole().print(table)


def describe_method(row: dict[str, Any]) -> list[tuple[str, str]]:
    """What a row of :func:`list_methods` says to a reader, as pairs of heading and text."""
    whose = {
        "community": "community (not reviewed by us)",
        "unregistered": "installed, but not in the registry",
    }
    lines = [
        ("name", row["name"]),
        ("title", row["title"]),
        ("origin", whose.get(origin_of(row), origin_of(row))),
    ]
    for key, value in row.items():
        if key not in (*HIDDEN, "name", "title") and (value is not None or key in MISSING):
            lines.append((key.replace("_", " "), _text(row["name"], key, value)))
    return lines


def _text(name: str, key: str, value: Any) -> str:
    if key == "options":
        return (
            "\n".join(format_option(name, option, default) for option, default in value.items())
            or "none"
        )
    if key == "evidence" and not isinstance(value, str):
        return "\n".join(map(_describe_evidence, value)) or "none"
    if isinstance(value, list):
        return ", ".join(value) or "none"
    return MISSING[key] if value is None else str(value)


def _describe_evidence(evidence: Mapping[str, Any]) -> str:
    """One line: what is shown, by what, and the masking verdict with the ladder it comes from."""
    where = evidence["source"] + (f": {', '.join(evidence['rows'])}" if evidence["rows"] else "")
    verdict = evidence["masking_verdict"]
    masking = (
        f"; masking verdict {format_verdict(verdict)} ({evidence['ladder']} ladder)"
        if verdict
        else ""
    )
    return f"{evidence['shows']} [{evidence['form']}, {where}{masking}]"


def _check() -> int:
    found, notes = find_problems()
    for line in (*found, *notes):
        print(make_printable(line))
    print(f"problems: {len(found)}" if found else "no problems found")
    return 1 if found else 0
