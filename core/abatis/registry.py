"""The registry of methods: ``registry.toml`` describes, entry points load. No plugin is imported here.

The file lies beside this module in an installed wheel, and at the top of the checkout in an editable install.
"""

from __future__ import annotations

import argparse
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from abatis import plugins
from abatis.config import Options
from abatis.errors import UsageError, did_you_mean
from abatis.parser import Parser
from abatis.recipes import recipes_of

MEND = "reinstall abatis"


class Method(Options):
    """One entry of the registry."""

    name: str = Field(description="the plugin's name")
    title: str = Field(description="the method's full name")
    paper: str = Field(description="authors, venue, year, identifier")
    hooks: tuple[str, ...] = Field(description="what it provides: loss, regularizer, ...")
    distribution: str = Field(description="what to install")
    options: dict[str, str] = Field(description="each option and its default, as the command line takes it")
    tested_with: tuple[str, ...] = Field((), description="plugins it is tested together with")
    claim: str = Field(description="what the paper says it does")
    evidence: str = Field(description="what our own committed records show")
    verdict: Literal["PASS", "WARN", "FAIL"] | None = Field(None, description="the worst masking verdict behind the evidence")
    allow_fail: bool = Field(False, description="list the method although that verdict is FAIL")

    @model_validator(mode="after")
    def _trusted(self) -> Method:
        if self.verdict == "FAIL" and not self.allow_fail:
            raise ValueError(f"{self.name}: its evidence has the masking verdict FAIL; leave it out, or set allow_fail = true")
        return self


def registry_file() -> Path:
    """Where the registry lies; raises UsageError where the installation lacks it."""
    here = Path(__file__).resolve()
    for path in (here.with_name("registry.toml"), here.parents[2] / "registry.toml"):
        if path.is_file():
            return path
    raise UsageError("the registry is missing from this installation", fix="reinstall abatis")


def methods() -> dict[str, Method]:
    """Every registered method by name."""
    path = registry_file()
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8"))["method"]
        found = [Method.model_validate(entry) for entry in entries]
    except ValidationError as error:
        raise UsageError(f"the registry is broken: {plugins.explain(error, Method)}", where=str(path), fix=MEND) from error
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UsageError(f"the registry is broken: {type(error).__name__}: {error}", where=str(path), fix=MEND) from error
    return {method.name: method for method in found}


def listing() -> list[dict[str, Any]]:
    """All methods, registered or only installed, each with the version that is installed or None."""
    found, known = plugins.installed(), methods()
    rows = []
    for name, method in known.items():
        version = found[name].version if name in found else None
        recipes = list(recipes_of(name)) if name in found else []
        rows.append({**method.model_dump(mode="json"), "recipes": recipes, "registered": True, "installed": version})
    for name, plugin in found.items():
        if name not in known:
            rows.append({"name": name, "title": plugin.summary, "distribution": plugin.distribution,
                         "registered": False, "installed": plugin.version})  # fmt: skip
    return rows


def command(words: Sequence[str], prog: str) -> int:
    """``defense registry list [--json]`` and ``defense registry show NAME [--json]``."""
    parser = Parser(prog=prog, description="The registry of methods.", allow_abbrev=False)
    actions = parser.add_subparsers(dest="action", required=True, parser_class=Parser)
    listed = actions.add_parser("list", help="all methods, and whether they are installed")
    shown = actions.add_parser("show", help="one method")
    shown.add_argument("name")
    for action in (listed, shown):
        action.add_argument("--json", action="store_true", help="for programs")
    asked: argparse.Namespace = parser.parse_args(list(words))
    rows = listing()
    if asked.action == "show":
        return _show(asked.name, rows, asked.json)
    if asked.json:
        print(json.dumps(rows, indent=2))
    else:
        _print_list(rows)
    return 0


def _print_list(rows: Sequence[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("name", "installed", "provides", "method"):
        table.add_column(heading, no_wrap=heading in ("name", "installed"))
    for row in rows:
        provides = ", ".join(row.get("hooks", ["not in the registry"]))
        table.add_row(row["name"], row["installed"] or "no", provides, escape(row["title"]))
    Console(highlight=False).print(table)


def _show(name: str, rows: Sequence[dict[str, Any]], as_json: bool) -> int:
    by_name = {row["name"]: row for row in rows}
    name = plugins.normal(name)
    if name not in by_name:
        raise UsageError(f"unknown method '{name}': {did_you_mean(name, by_name)}", fix="defense registry list shows them all")
    row = by_name[name]
    if as_json:
        print(json.dumps(row, indent=2))
        return 0
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for key, value in row.items():
        if key == "allow_fail":
            continue
        if isinstance(value, dict):
            value = "\n".join(_flag(f"--{name}.{option}", default) for option, default in value.items()) or "none"
        elif isinstance(value, list):
            value = ", ".join(value) or "none"
        elif value is None:
            value = {"installed": "no"}.get(key, "not measured")
        table.add_row(key.replace("_", " "), escape(str(value)))
    Console(highlight=False).print(table)
    return 0


def _flag(flag: str, default: str) -> str:
    """An option and its default as the command line takes them."""
    return {"true": flag, "false": flag.replace("--", "--no-", 1)}.get(default, f"{flag} {default}")
