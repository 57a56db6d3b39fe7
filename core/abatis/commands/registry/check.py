"""Checks the registry against the installed plugins, their folders and the committed records."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from abatis.api import hooks
from abatis.api.options import PluginConfig
from abatis.commands.registry.entries import (
    Evidence,
    Method,
    Role,
    read_registry,
)
from abatis.config import discovery
from abatis.config.known_plugins import registry_file
from abatis.errors import AbatisError
from abatis.report.verdicts import UNKNOWN, find_worst

RESULTS = "benchmarks/results/"  # where committed records lie
CLEAN = "(clean)"  # ends the names of rows that were trained on clean images


def find_problems() -> tuple[list[str], list[str]]:
    """Problems, and notes on what was not checked; raises UsageError for a broken registry."""
    known, root = read_registry(), registry_file().parent
    checkout = (root / "plugins").is_dir()
    found = [
        f"{method.name}: {line}"
        for method in known.values()
        for line in _with_others(method, known)
    ]
    notes = [] if checkout else ["not a git checkout: folders and evidence were not checked"]
    for method in known.values():
        if method.name in discovery.list_installed():
            found += [f"{method.name}: {line}" for line in _with_plugin(method)]
        else:
            text = f"{method.name}: not installed: hooks and options were not checked"
            (found if checkout and not method.community else notes).append(text)
        if checkout:
            found += [
                f"{method.name}: {line}"
                for line in (*_with_folder(method, root), *_with_sources(method, root))
            ]
    if checkout:
        found += _find_unregistered(known, root)
    return found, notes


def list_hooks(module: object) -> list[Role]:
    """The hooks that a module implements, besides its options."""
    return [role for role in get_args(Role) if hasattr(module, f"defense_{role}")]


def list_defaults(config_class: type[PluginConfig]) -> dict[str, str]:
    """Every option that has a default, and it, as on the command line."""
    return {
        discovery.normalise_name(name): _format_value(value)
        for name, value in config_class().model_dump(mode="json", exclude_none=True).items()
    }


def _format_value(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(_format_value, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _with_others(method: Method, known: Mapping[str, Method]) -> Iterator[str]:
    for other in method.tested_with:
        if other not in known:
            yield f"tested_with names '{other}', which is not registered"
        elif method.name not in known[other].tested_with:
            yield f"is tested with {other}, but the entry of {other} does not say so"


def _with_plugin(method: Method) -> Iterator[str]:
    there = discovery.list_installed()[method.name]
    if there.distribution != method.distribution:
        yield f"distribution is {method.distribution}, but {there.distribution} is installed"
    try:
        plugin = discovery.load_plugin(method.name)
        real = list_defaults(plugin.config_class)
    except (AbatisError, ValueError) as error:
        yield f"cannot be loaded: {str(error).splitlines()[0]}"
        return
    provided = list_hooks(plugin.module)
    if set(method.hooks) != set(provided):
        yield f"hooks are {', '.join(method.hooks)}, but the module has {', '.join(provided)}"
    for option in sorted({*real, *method.options}):
        entered, default = method.options.get(option), real.get(option)
        if default is None:
            yield f"option {option} does not exist in the plugin"
        elif entered is None:
            yield f"option {option} is missing; the plugin has {default}"
        elif entered != default:
            yield f"option {option} is {entered}, but the plugin has {default}"


def _with_folder(method: Method, root: Path) -> Iterator[str]:
    file = root / "plugins" / method.name / "pyproject.toml"
    if method.community:
        return
    if not file.is_file():
        yield f"{file.relative_to(root)} is missing; a plugin kept elsewhere needs community = true"
        return
    project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
    if project["name"] != method.distribution:
        where = file.relative_to(root)
        yield f"distribution is {method.distribution}, but {where} has {project['name']}"
    if method.name not in project.get("entry-points", {}).get(hooks.ENTRY_POINT_GROUP, {}):
        yield f"{file.relative_to(root)} has no entry point of this name"
    if not (root / "docs" / "methods" / f"{method.name}.md").is_file():
        yield f"docs/methods/{method.name}.md is missing"


def _with_sources(method: Method, root: Path) -> Iterator[str]:
    """Problems of the claim and of the evidence of one of our own methods."""
    if method.community:
        return
    if not method.claim_from:
        yield "claim_from is missing: where does the paper say so?"
    if isinstance(method.evidence, str):
        yield "evidence is a text; name its form and source, as the others do"
        return
    for evidence in method.evidence:
        check = _check_test if evidence.form == "test" else _check_record
        yield from (f"evidence {evidence.source}: {line}" for line in check(evidence, root))


def _check_test(evidence: Evidence, root: Path) -> Iterator[str]:
    file, _, name = evidence.source.partition("::")
    try:
        text = (root / file).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        yield f"cannot be read: {type(error).__name__}"
        return
    if not re.search(rf"^def {re.escape(name)}\(", text, re.MULTILINE):
        yield f"has no test '{name}'" if name else "names no test: write FILE.py::TEST"


def _check_record(evidence: Evidence, root: Path) -> Iterator[str]:
    if not evidence.source.startswith(RESULTS):
        yield f"is no record in {RESULTS}"
        return
    try:
        record = json.loads((root / evidence.source).read_text(encoding="utf-8"))
        rows = {row["method"]: row for row in record["rows"]}
        ladder = record.get("judged", {}).get("ladder")
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        yield f"cannot be read: {type(error).__name__}: {error}"
        return
    verdicts = []
    for name in evidence.rows:
        trained = "clean training" if name.endswith(CLEAN) else "adversarial training"
        if name not in rows:
            yield f"has no row '{name}'"
        elif trained != evidence.form:
            yield f"row '{name}' is of {trained}, not of {evidence.form}"
        verdicts.append(rows.get(name, {}).get("verdict"))
    worst = find_worst(one for one in verdicts if one not in (None, UNKNOWN))
    if (evidence.masking_verdict or UNKNOWN) != worst:
        recorded = "none" if worst == UNKNOWN else worst
        stated = evidence.masking_verdict or "absent"
        yield f"masking_verdict is {stated}, but these rows have {recorded}"
    if evidence.ladder is not None and evidence.ladder != ladder:
        yield f"ladder is {evidence.ladder}, but the record has {ladder}"


def _find_unregistered(known: Mapping[str, Method], root: Path) -> list[str]:
    folders = [file.parent.name for file in sorted(root.glob("plugins/*/pyproject.toml"))]
    return [f"plugins/{name} has no entry" for name in folders if name not in known]
