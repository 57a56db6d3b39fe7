"""Reads the registry of methods, ``registry.toml``. No plugin is imported."""

from __future__ import annotations

import tomllib
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from abatis.api.options import Options
from abatis.config import discovery
from abatis.config.known_plugins import REINSTALL, registry_file, say_how_to_install
from abatis.config.ladders import AttackLadder
from abatis.config.recipes import list_recipes
from abatis.errors import UsageError
from abatis.report.verdicts import Verdict

Role = Literal["network", "attacker", "loss", "regularizer", "trainer", "adaptive_attack"]


Form = Literal["test", "clean training", "adversarial training"]


class Evidence(Options):
    """One thing that was shown here, and what shows it."""

    shows: str = Field(description="what is shown, in one sentence")
    form: Form = Field(description="a test, or a training on clean or on adversarial images")
    source: str = Field(
        description="FILE.py::TEST, or a record in benchmarks/results, from the checkout's root"
    )
    rows: tuple[str, ...] = Field((), description="rows of the record")
    masking_verdict: Verdict | None = Field(
        None, description="the worst masking verdict in these rows; absent if they have none"
    )
    ladder: AttackLadder | None = Field(
        None, description="the ladder of attacks that the masking verdict comes from"
    )

    @model_validator(mode="after")
    def _complete(self) -> Evidence:
        if (self.masking_verdict is None) != (self.ladder is None):
            raise ValueError("masking_verdict and ladder go together")
        if (self.form == "test") == bool(self.rows):
            raise ValueError("a training names the rows of its record, a test names none")
        return self


class Method(Options):
    """One entry of the registry."""

    name: str = Field(description="the plugin's name")
    title: str = Field(description="the method's full name")
    community: bool = Field(False, description="maintained elsewhere, not reviewed by us")
    homepage: str | None = Field(None, description="address of a community plugin")
    paper: str = Field(description="authors, venue, year, identifier")
    equation: str = Field(description="what it adds to or changes in a step, as coded")
    hooks: tuple[Role, ...] = Field(description="what it provides: loss, regularizer, ...")
    distribution: str = Field(description="what to install")
    options: dict[str, str] = Field(
        description="each option and its default, as on the command line"
    )
    tested_with: tuple[str, ...] = Field((), description="plugins it is tested together with")
    claim: str = Field(description="what the paper says it does")
    claim_from: str | None = Field(None, description="where in the paper it says so")
    evidence: tuple[Evidence, ...] | str = Field(
        description="what is shown here; of a community plugin, what its authors say"
    )
    allow_fail: bool = Field(
        False, description="list the method even though a masking verdict is FAIL"
    )

    @model_validator(mode="after")
    def _trusted(self) -> Method:
        shown = () if isinstance(self.evidence, str) else self.evidence
        verdicts = [evidence.masking_verdict for evidence in shown]
        if "FAIL" in verdicts and not self.allow_fail:
            raise ValueError(
                f"{self.name}: its evidence has the masking verdict FAIL; "
                "leave it out, or set allow_fail = true"
            )
        return self


class Registry(Options):
    """The whole of ``registry.toml``."""

    method: tuple[Method, ...] = Field(description="one table [[method]] for each method")

    @field_validator("method")
    @classmethod
    def _each_once(cls, methods: tuple[Method, ...]) -> tuple[Method, ...]:
        names = [method.name for method in methods]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{name} is listed {names.count(name)} times")
        return methods


def parse_registry(text: str, where: str) -> dict[str, Method]:
    """The methods of a registry's text by name; raises UsageError."""
    try:
        found = Registry.model_validate(tomllib.loads(text))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = ".".join(str(part) for part in first["loc"])
        raise UsageError(
            f"the registry is broken: {path}: {first['msg']}", where=where, fix=REINSTALL
        ) from error
    except UsageError as error:
        raise UsageError(
            f"the registry is broken: {error.what}", where=where, fix=error.fix
        ) from error
    except (ValueError, TypeError, RecursionError) as error:
        raise UsageError(
            f"the registry is broken: {type(error).__name__}: {error}", where=where, fix=REINSTALL
        ) from error
    return {method.name: method for method in found.method}


def read_registry() -> dict[str, Method]:
    """Every registered method by name; raises UsageError for a broken registry."""
    path = registry_file()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UsageError(
            f"the registry is broken: {type(error).__name__}: {error}",
            where=str(path),
            fix=REINSTALL,
        ) from error
    return parse_registry(text, str(path))


def list_methods() -> list[dict[str, Any]]:
    """All registered and all installed methods, with the installed version or None."""
    found, known = discovery.list_installed(), read_registry()
    rows = []
    for name, method in known.items():
        version = found[name].version if name in found else None
        recipes = list(list_recipes(name)) if name in found else []
        rows.append(
            {
                **method.model_dump(mode="json"),
                "recipes": recipes,
                "registered": True,
                "installed": version,
                "to_install": None if version else say_how_to_install(name),
            }
        )
    for name, plugin in found.items():
        if name not in known:
            rows.append(
                {
                    "name": name,
                    "title": plugin.summary,
                    "distribution": plugin.distribution,
                    "registered": False,
                    "installed": plugin.version,
                }
            )
    return rows


def origin_of(row: dict[str, Any]) -> str:
    """Where the method of a row comes from: first-party, community or unregistered."""
    return (
        ("community" if row["community"] else "first-party")
        if row["registered"]
        else "unregistered"
    )


def format_option(name: str, option: str, default: str) -> str:
    """An option and its default, as on the command line."""
    return {"true": f"--{name}.{option}", "false": f"--no-{name}.{option}"}.get(
        default, f"--{name}.{option} {default}"
    )
