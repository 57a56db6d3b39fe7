"""Options that take any name for one of theirs."""

from __future__ import annotations

from pydantic import ConfigDict, Field

from abatis import PluginConfig, hookimpl

FAILS = "test_options_are_frozen_and_closed"
WORDS = "unknown options are accepted"


class Broken(PluginConfig):
    model_config = ConfigDict(extra="ignore")

    scale: float = Field(1.0, ge=0, description="scale of the term")


@hookimpl
def defense_config() -> type[PluginConfig]:
    return Broken
