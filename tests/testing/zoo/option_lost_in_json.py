"""Infinity, which JSON writes as null."""

from __future__ import annotations

import math

from pydantic import Field

from abatis import PluginConfig, hookimpl

FAILS = "test_options_survive_json"
WORDS = "shift"


class Broken(PluginConfig):
    shift: float = Field(math.inf, ge=0, description="added to every margin")


@hookimpl
def defense_config() -> type[PluginConfig]:
    return Broken
